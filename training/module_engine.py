# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A torch network behind the engine contract: training is measured through deployed code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mtl_perception.bundle import Bundle, InputSpec, Manifest
from mtl_perception.engines.base import EngineInfo
from training.networks.base import DeployedNetwork, MultiTaskNetwork, output_specs

SHORT = {'32-true': 'fp32', 'bf16-mixed': 'bf16', '16-mixed': 'fp16'}
DTYPES = {'bf16-mixed': torch.bfloat16, '16-mixed': torch.float16}


class ModuleEngine:
    """Runs a network in memory; see `mtl_perception.engines.base.Engine`."""

    def __init__(
        self, network: MultiTaskNetwork, outputs: Sequence[str], precision: str = '32-true',
        batch: int = 1,
    ) -> None:  # fmt: skip
        """The network must be in eval mode; `outputs` are the names it returns.

        precision: a training run's, under whose autocast it runs. batch: images at a time.
        """
        self.input: NDArray[np.uint8] | None = None
        self.module = DeployedNetwork(network)
        self.device = next(network.parameters()).device
        self.info = EngineInfo(
            'torch', torch.__version__, str(self.device), SHORT[precision], batch, tuple(outputs)
        )
        self.narrow = DTYPES.get(precision)

    @torch.no_grad()
    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Uint8 [B, H, W, 3] RGB -> outputs by name."""
        with torch.autocast(self.device.type, self.narrow, enabled=self.narrow is not None):
            outputs = self.module(torch.from_numpy(batch).to(self.device))
        return {name: value.cpu().numpy() for name, value in outputs.items()}

    def close(self) -> None:
        """Nothing to free."""


def bundle_in_memory(network: MultiTaskNetwork, spec: InputSpec) -> Bundle:
    """What the network would be as a bundle, without files: for `Pipeline` in training."""
    manifest = Manifest(
        name='in memory',
        tasks=network.tasks,
        input=spec,
        outputs=output_specs(network, spec.height, spec.width),
        files={'in-memory': '0' * 64},
        licence='not distributed',
        training_data=(),
    )
    return Bundle(Path(), manifest)
