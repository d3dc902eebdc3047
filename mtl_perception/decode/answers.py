# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Probabilities of an image attribute -> the answer that is published, which may be `unknown`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtl_perception.tasks import Task

UNKNOWN = 'unknown'


def calibrated(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Softmax of the logits divided by the temperature, from softmax of the logits: float32 [C]."""
    if temperature == 1:
        return probabilities
    powers = np.power(np.maximum(probabilities, 0), 1 / temperature)
    return np.asarray(powers / max(float(powers.sum()), 1e-12), np.float32)


def answer(probabilities: NDArray[np.float32], task: Task) -> tuple[str, float]:
    """Name and probability of the likeliest class [C], or `unknown` and what speaks against it.

    Unknown is what is less likely than the task's threshold, and a class that no real data taught:
    a network that saw tunnels only as drawings says `tunnel` to whatever it does not know.
    """
    best = int(probabilities.argmax())
    name, probability = task.classes[best], float(probabilities[best])
    if name in task.believed and probability >= task.threshold:
        return name, probability
    believed = [float(probabilities[task.classes.index(known)]) for known in task.believed]
    return UNKNOWN, max(0.0, 1 - max(believed, default=0.0))
