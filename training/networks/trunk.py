"""The shared trunk: any timm model that yields a stride 4-32 pyramid.

Default is PVTv2 (Wang et al., "PVT v2: Improved Baselines with Pyramid Vision Transformer", 2022).
Nothing of timm is changed; normalisation moves into the trunk so that the deployed graph takes
uint8 images.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from training.networks.errors import NetworkError
from training.networks.weights import trunk_tensors

STRIDES = (4, 8, 16, 32)


class Trunk(nn.Module):
    """uint8 or float [B, 3, H, W] in 0-255 RGB -> features at strides 4, 8, 16, 32.

    H and W are multiples of 32. `channels` lists the features' channels. Raises NetworkError when
    timm has no such model, the model no such pyramid, or the weights do not fit it.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, name: str, pretrained: bool = False, drop_path_rate: float = 0.0, weights: str = ''
    ) -> None:
        """Make the timm model; ImageNet weights from `weights`, or timm's if `pretrained`."""
        super().__init__()
        if not timm.is_model(name):
            near = timm.list_models(f'*{name.split("_")[0]}*')[:5]
            raise NetworkError(f'trunk {name!r} is no timm model; near it: {near}')
        options: dict[str, Any] = {'pretrained': pretrained}
        if weights:
            overlay = {'state_dict': trunk_tensors(name, weights)}
            options = {'pretrained': True, 'pretrained_cfg_overlay': overlay}
        self.body = timm.create_model(
            name, features_only=True, drop_path_rate=drop_path_rate, **options
        )
        info: Any = self.body.feature_info
        reductions = info.reduction()
        self._levels = [i for i, stride in enumerate(reductions) if stride in STRIDES]
        if [reductions[i] for i in self._levels] != list(STRIDES):
            raise NetworkError(
                f'trunk {name!r} has strides {reductions}, expected {STRIDES} among them'
            )
        self.channels = [info.channels()[i] for i in self._levels]
        cfg = timm.get_pretrained_cfg(name)
        mean = torch.tensor(cfg.mean if cfg else (0.485, 0.456, 0.406))
        std = torch.tensor(cfg.std if cfg else (0.229, 0.224, 0.225))
        self.register_buffer('scale', (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('shift', (-mean / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalise with the trunk's own mean and std, then run it."""
        features = self.body(image.float() * self.scale + self.shift)
        return [features[i] for i in self._levels]
