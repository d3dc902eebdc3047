# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Loss weighting and gradient balancing; `base.py` says how a training loop uses it."""

from training.balancing.base import Balancer
from training.balancing.gradients import CutFeatures, Parameters, split_parameters
from training.balancing.options import BalancingError
from training.balancing.registry import METHODS, make_balancer

__all__ = [
    'METHODS',
    'Balancer',
    'BalancingError',
    'CutFeatures',
    'Parameters',
    'make_balancer',
    'split_parameters',
]
