# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The neck: a light feature pyramid, by the name in `network.neck`.

FPN (Lin et al., CVPR 2017) over strides 4-32; changed: the smoothing 3x3 convolutions are depthwise
separable and everything is batch-normalised, which keeps the stride-4 level cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from training.layers import ConvNorm, SeparableConv, upsample_to
from training.network_error import NetworkError
from training.networks.bifpn import BiFPN


class NoNeck(nn.Module):
    """For heads that read the trunk alone."""

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """No levels."""
        return []


class FPN(nn.Module):
    """Trunk features at strides 4-32 -> as many maps of `channels` channels, same strides."""

    def __init__(self, trunk_channels: Sequence[int], channels: int) -> None:
        """Make a lateral and a smoothing convolution per level."""
        super().__init__()
        self.lateral = nn.ModuleList(ConvNorm(c, channels) for c in trunk_channels)
        self.smooth = nn.ModuleList(SeparableConv(channels, channels) for _ in trunk_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Add each level to the upsampled coarser one, coarse to fine, and smooth the sums."""
        merged = [lateral(f) for lateral, f in zip(self.lateral, features, strict=True)]
        for i in range(len(merged) - 2, -1, -1):
            merged[i] = merged[i] + upsample_to(merged[i + 1], merged[i])
        return [smooth(m) for smooth, m in zip(self.smooth, merged, strict=True)]


NECKS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {
    'fpn': FPN,
    'bifpn': BiFPN,
    'none': lambda trunk_channels, channels: NoNeck(),
}
"""By name: (trunk channels, channels out)."""


def make_neck(name: str, trunk_channels: Sequence[int], channels: int) -> nn.Module:
    """A neck; raises NetworkError for one that there is not."""
    if name not in NECKS:
        raise NetworkError(f'neck: expected one of {list(NECKS)}, found {name!r}')
    return NECKS[name](trunk_channels, channels)
