# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Hard parameter sharing: one trunk, one neck, one head per task (Caruana, Machine Learning 1997).

The HydraNet of `hydranet.py`. Shared: trunk and neck.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.networks.hydranet import HydraNet
from training.networks.sharing.parts import Parts


@dataclass(frozen=True)
class HardOptions:
    """None."""


class Hard(HydraNet):
    """A HydraNet as the configuration has it."""

    def __init__(self, parts: Parts, options: HardOptions) -> None:
        """See `HydraNet`."""
        config = parts.config
        super().__init__(
            config.trunk,
            parts.tasks,
            config.pretrained and parts.initialise,
            config.neck_channels,
            config.drop_path_rate,
            config.trunk_weights if parts.initialise else '',
            config,
            config.own_neck,
            config.frozen_stages,
            config.neck,
        )
