# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The shared trunk: any timm model that yields a stride 4-32 pyramid.

Default is PVTv2 (Wang et al., "PVT v2: Improved Baselines with Pyramid Vision Transformer", 2022).
Nothing of timm is changed; features are [B, C, H, W] whatever the model's own order (Swin has
channels last); normalisation moves into the trunk so that the deployed graph takes
uint8 images.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from timm.layers.format import Format
from torch import Tensor, nn

from training.network_error import NetworkError
from training.networks.weights import make_body, make_timm_body

STRIDES = (4, 8, 16, 32)


class Trunk(nn.Module):
    """uint8 or float [B, 3, H, W] in 0-255 RGB -> features at strides 4, 8, 16, 32.

    H and W are multiples of 32. `channels` lists the features' channels. Raises NetworkError when
    timm has no such model, the model no such pyramid, or the weights do not fit it.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        drop_path_rate: float = 0.0,
        weights: str = '',
        frozen_stages: int = 0,
    ) -> None:
        """Make the timm model; weights from the file `weights`, or timm's if `pretrained`."""
        super().__init__()
        self._frozen: list[str] = []
        if not timm.is_model(name):
            near = timm.list_models(f'*{name.split("_")[0]}*')[:5]
            raise NetworkError(f'trunk {name!r} is no timm model; near it: {near}')
        options: dict[str, Any] = {'drop_path_rate': drop_path_rate}
        if name.startswith('swin'):
            options['strict_img_size'] = False
        make = (
            partial(make_body, name, weights)
            if weights
            else partial(make_timm_body, name, pretrained)
        )
        try:
            self.body = make(**options)
        except TypeError as error:
            if 'drop_path_rate' not in str(error):
                raise
            if options.pop('drop_path_rate'):
                raise NetworkError(
                    f"drop_path_rate: timm's {name!r} has no stochastic depth; expected 0, found "
                    f'{drop_path_rate}'
                ) from error
            self.body = make(**options)
        self.channels_last = getattr(self.body, 'output_fmt', Format.NCHW) == Format.NHWC
        info: Any = self.body.feature_info
        reductions = info.reduction()
        self.levels = [i for i, stride in enumerate(reductions) if stride in STRIDES]
        if [reductions[i] for i in self.levels] != list(STRIDES):
            raise NetworkError(
                f'trunk {name!r} has strides {reductions}, expected {STRIDES} among them'
            )
        self.channels = [info.channels()[i] for i in self.levels]
        cfg = timm.get_pretrained_cfg(name)
        mean = torch.tensor(cfg.mean if cfg else (0.485, 0.456, 0.406))
        std = torch.tensor(cfg.std if cfg else (0.229, 0.224, 0.225))
        self.register_buffer('scale', (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('shift', (-mean / std).view(1, 3, 1, 1), persistent=False)
        self._frozen = self._freeze(frozen_stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalise with the trunk's own mean and std, then run it."""
        features = self.body(self.normalise(image))
        levels = [features[i] for i in self.levels]
        if self.channels_last:
            return [level.permute(0, 3, 1, 2).contiguous() for level in levels]
        return levels

    def normalise(self, image: Tensor) -> Tensor:
        """0-255 RGB -> what the timm model takes."""
        return image.float() * self.scale + self.shift

    def train(self, mode: bool = True) -> Trunk:
        """As ever, but frozen stages keep their statistics and drop nothing."""
        super().train(mode)
        # By name: batch norms that are converted to synchronised ones are other modules then.
        for name in self._frozen:
            self.body.get_submodule(name).eval()
        return self

    def _freeze(self, stages: int) -> list[str]:
        """Freeze all that the features of the first stages depend on; returns names in `body`."""
        if not 0 <= stages <= len(STRIDES):
            raise NetworkError(f'frozen_stages: expected 0 to {len(STRIDES)}, found {stages}')
        if not stages:
            return []
        self.eval()
        self(torch.zeros(1, 3, 64, 64))[stages - 1].sum().backward()
        self.train()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is None)
            parameter.grad = None
        owned = {name: [*module.parameters()] for name, module in self.body.named_modules()}
        return [
            name
            for name, parameters in owned.items()
            if parameters and not any(parameter.requires_grad for parameter in parameters)
        ]
