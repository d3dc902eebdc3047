"""The neck: a light feature pyramid.

FPN (Lin et al., CVPR 2017) over strides 4-32; changed: the smoothing 3x3 convolutions are depthwise
separable and everything is batch-normalised, which keeps the stride-4 level cheap.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from training.networks.layers import ConvNorm, SeparableConv, upsample_to


class FPN(nn.Module):
    """Trunk features at strides 4-32 -> as many maps of `channels` channels, same strides."""

    def __init__(self, trunk_channels: Sequence[int], channels: int) -> None:
        """Make a lateral and a smoothing convolution a level."""
        super().__init__()
        self.lateral = nn.ModuleList(ConvNorm(c, channels) for c in trunk_channels)
        self.smooth = nn.ModuleList(SeparableConv(channels, channels) for _ in trunk_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Add each level to the upsampled coarser one, coarse to fine, and smooth the sums."""
        merged = [lateral(f) for lateral, f in zip(self.lateral, features, strict=True)]
        for i in range(len(merged) - 2, -1, -1):
            merged[i] = merged[i] + upsample_to(merged[i + 1], merged[i])
        return [smooth(m) for smooth, m in zip(self.smooth, merged, strict=True)]
