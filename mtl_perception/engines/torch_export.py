# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""torch.export engine: the bundle's program, operation by operation, wherever torch runs.

The slowest engine and the one that needs nothing built by a compiler: what others are measured
against, and the way out where none of them is there.
"""

from __future__ import annotations

from pathlib import Path

from mtl_perception.engines.built import Plan
from mtl_perception.engines.torch_archive import load_program
from mtl_perception.engines.torch_engine import Call, TorchEngine


class TorchExportEngine(TorchEngine):
    """The program for one batch size and device; `info` says what is in force."""

    name = 'torch_export'

    @classmethod
    def build(cls, plan: Plan, path: Path) -> None:
        """Fix batch, outputs and precision, and save."""
        import torch

        from mtl_perception.engines.torch_program import program

        made = program(plan)
        made._example_inputs = None  # they would be pickled
        with path.open('wb') as file:
            torch.export.save(made, file)

    def _open_file(self, plan: Plan, path: Path) -> Call:
        call: Call = load_program(path).module(check_guards=False)
        return call
