# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Drives of coloured blocks, on which the tiny bundle is sometimes right; equal for equal seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_bundle import COLUMNS, ROWS, cell_box

from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.truth.truth import Truth, TruthBoxes

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
HEIGHT, WIDTH = 64, 96
CLASSES = ('pedestrian', 'rider', 'car')


def block_frame(seed: int, index: int) -> tuple[np.ndarray, Truth]:
    """One frame: a grid of colours that drifts, and labels that agree with most of it."""
    rng = np.random.default_rng([seed, index])
    colours = np.random.default_rng([seed, 1000 + index // 4]).integers(0, 256, (ROWS, COLUMNS, 3))
    noisy = np.clip(colours + rng.integers(-40, 41, colours.shape), 0, 255).astype(np.uint8)
    image = noisy.repeat(HEIGHT // ROWS, 0).repeat(WIDTH // COLUMNS, 1)
    strongest = colours.reshape(-1, 3).argmax(1)
    shown = rng.random(ROWS * COLUMNS) < 0.6
    boxes = np.array([cell_box(k) for k in np.flatnonzero(shown)], np.float32).reshape(-1, 4)
    boxes += rng.integers(-3, 4, boxes.shape)
    mask = strongest.reshape(ROWS, COLUMNS).repeat(HEIGHT // ROWS, 0).repeat(WIDTH // COLUMNS, 1)
    mask = mask.astype(np.uint8)
    mask[: rng.integers(1, 12)] = 255
    truth = Truth(
        TruthBoxes(
            boxes,
            tuple(CLASSES[i] for i in strongest[shown]),
            rng.random(int(shown.sum())) < 0.1,
            # A cell keeps its identity while it keeps its colour.
            tuple(f'{index // 4}-{k}' for k in np.flatnonzero(shown)),
        ),
        {'drivable': mask, 'semantic': mask},
        {
            'weather': ('rainy', 'clear')[index // 8 % 2],
            'timeofday': ('night', 'daytime')[int(image.mean() > 127)],
        },
    )
    return image, truth


def write_block_drive(
    path: Path, seed: int = 0, frames: int = 24, cameras: tuple[str, ...] = ('camera',)
) -> Path:
    """A bag of such frames at 10 Hz; every fifth one is unlabelled."""
    focal = np.array([[100.0, 0, WIDTH / 2], [0, 100.0, HEIGHT / 2], [0, 0, 1]])
    with DriveWriter(path, cameras=cameras) as writer:
        for index in range(frames):
            for number, camera in enumerate(cameras):
                image, truth = block_frame(seed + 100 * number, index)
                writer.write_frame(
                    START_NS + index * PERIOD_NS, EncodedImage(image),
                    truth if index % 5 else Truth(), focal, f'{seed}_{index:04d}.png', camera,
                )  # fmt: skip
    return path
