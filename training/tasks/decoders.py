"""Further decoders for segmentation: trunk features at strides 4-32 -> [B, channels, H/4, W/4].

All-MLP after SegFormer (Xie et al., NeurIPS 2021, eq. 4), written here. UPerNet (Xiao et al., ECCV
2018) and the semantic FPN (Kirillov et al., CVPR 2019) are those of `segmentation_models_pytorch`
(MIT), which want an input image and a stride-2 level before the trunk's four and use neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from training.networks.errors import NetworkError
from training.networks.layers import ConvNorm, upsample_to

NORM_GROUPS = 32


class AllMLP(nn.Module):
    """Every level to `channels` by one linear map, upsampled, concatenated, mixed by another."""

    def __init__(self, trunk_channels: Sequence[int], channels: int) -> None:
        """A 1x1 convolution a level and one for all."""
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in trunk_channels)
        self.mix = ConvNorm(channels * len(trunk_channels), channels)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Coarse levels last, as they come."""
        levels = [project(f) for project, f in zip(self.project, features, strict=True)]
        levels = [levels[0], *(upsample_to(level, levels[0]) for level in levels[1:])]
        return self.dropout(self.mix(torch.cat(levels, dim=1)))


class FromSMP(nn.Module):
    """A decoder of `segmentation_models_pytorch` on the trunk's four levels."""

    def __init__(self, decoder: nn.Module) -> None:
        """decoder: made for encoder channels `[3, 0, *trunk_channels]`."""
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Put empty maps where the decoder expects the image and a stride-2 level."""
        finest = features[0]
        batch, _, height, width = finest.shape
        image = finest.new_empty(batch, 0, 4 * height, 4 * width)
        return self.decoder([image, finest.new_empty(batch, 0, 2 * height, 2 * width), *features])


def _upernet(trunk_channels: Sequence[int], channels: int) -> nn.Module:
    from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder  # takes 2 s

    return FromSMP(
        UPerNetDecoder(
            encoder_channels=[3, 0, *trunk_channels], encoder_depth=5, decoder_channels=channels
        )
    )


def _semantic_fpn(trunk_channels: Sequence[int], channels: int) -> nn.Module:
    from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder  # takes 2 s

    if channels % NORM_GROUPS:
        raise NetworkError(
            f'segmentation.decoder semantic_fpn: neck_channels must be a multiple of {NORM_GROUPS} '
            f'for its group norms, found {channels}'
        )
    return FromSMP(
        FPNDecoder(
            encoder_channels=[3, 0, *trunk_channels],
            encoder_depth=5,
            pyramid_channels=channels,
            segmentation_channels=channels,
            dropout=0.1,
            merge_policy='add',
        )
    )


DECODERS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {
    'mlp': AllMLP,
    'upernet': _upernet,
    'semantic_fpn': _semantic_fpn,
}
"""By the name in the configuration: (trunk channels, channels out)."""
