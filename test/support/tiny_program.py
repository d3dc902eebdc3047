# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The graph of `tiny_bundle.py` in torch, as `model.pt2`, with weights in half precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from tiny_bundle import COLUMNS, ROWS, STRIDE, cell_box
from torch import nn
from torch.nn import functional as F

from mtl_perception.bundle import Bundle, sha256_of, write_manifest


class Tiny(nn.Module):
    """See `tiny_bundle.py` for what it computes."""

    def __init__(self, height: int, width: int):
        super().__init__()
        self.cell = height // ROWS, width // COLUMNS
        boxes = [cell_box(k, height, width) for k in range(ROWS * COLUMNS)]
        self.register_buffer('boxes', torch.tensor([boxes], dtype=torch.float32))
        weight = torch.zeros(19, 3, 1, 1, dtype=torch.float16)
        for label in range(3):
            weight[label, label] = 1
        self.semantic = nn.Parameter(weight, requires_grad=False)
        self.register_buffer('semantic_bias', -(torch.arange(19) >= 3).float())
        self.register_buffer('weather_slope', torch.tensor([-8.0, 0, 8, 0, 0, 0]))
        self.register_buffer('weather_offset', torch.tensor([4.0, -4, -4, -4, -4, -4]))
        self.register_buffer('time_slope', torch.tensor([8.0, -8, 0]))
        self.register_buffer('time_offset', torch.tensor([-4.0, 4, 0]))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = image.permute(0, 3, 1, 2).float() / 255
        small = F.avg_pool2d(x, STRIDE)
        colours = F.avg_pool2d(x, self.cell).flatten(2)
        scores = colours.amax(1) - colours.amin(1)
        brightness = x.mean((1, 2, 3))[:, None]
        return {
            'boxes': self.boxes + 0 * scores[..., None],
            'scores': scores,
            'labels': colours.argmax(1),
            'drivable': small,
            'semantic': F.conv2d(small, self.semantic.float(), self.semantic_bias),
            'weather': (brightness * self.weather_slope + self.weather_offset).softmax(1),
            'timeofday': (brightness * self.time_slope + self.time_offset).softmax(1),
        }


def add_program(folder: Path) -> Path:
    """Add `model.pt2` to a tiny bundle; returns the folder."""
    bundle = Bundle.open(folder)
    spec = bundle.manifest.input
    example = torch.zeros(2, spec.height, spec.width, 3, dtype=torch.uint8)
    batch = {0: torch.export.Dim('batch', min=1, max=64)}
    network = Tiny(spec.height, spec.width).eval()
    program = torch.export.export(network, (example,), dynamic_shapes={'image': batch})
    program._example_inputs = None
    torch.export.save(program, folder / 'model.pt2')
    files = dict(bundle.manifest.files) | {'model.pt2': sha256_of(folder / 'model.pt2')}
    write_manifest(folder, replace(bundle.manifest, files=files))
    return folder
