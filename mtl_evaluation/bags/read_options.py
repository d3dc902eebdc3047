# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What of a bag is read, and how its truth is understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TOLERANCE_MS = 1.0
"""How far a label's stamp may be from its frame's: far less than the time between two frames."""


@dataclass(frozen=True)
class ReadOptions:
    """ignored: topics that are left out, whatever they hold. classes: see `ClassMapping`."""

    ignored: tuple[str, ...] = ()
    tolerance_ms: float = TOLERANCE_MS
    classes: Mapping[str, str] = field(default_factory=dict)


AS_RECORDED = ReadOptions()
