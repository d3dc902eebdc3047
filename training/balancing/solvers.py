# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The small convex problems of gradient balancing, for M tasks: exact, float64, on the CPU.

torchjd hands these to quadprog and ECOS (GPL) or cvxpy; with M variables they need neither.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from training.balancing.options import BalancingError

_TOLERANCE = 1e-12


def nonnegative_qp(quadratic: Tensor, linear: Tensor) -> Tensor:
    """argmin over z >= 0 of z^T Q z / 2 + q^T z, Q positive semi-definite [M, M], q in its range.

    Active sets after Lawson and Hanson, Solving Least Squares Problems (1974), algorithm NNLS.
    """
    diagonal = quadratic.diagonal().sqrt()
    unit = torch.where(diagonal > 0, 1 / diagonal, 1.0)  # Variables in units of their own size.
    matrix, vector = (quadratic * torch.outer(unit, unit)).numpy(), (linear * unit).numpy()
    size = len(vector)
    z, free = np.zeros(size), np.zeros(size, bool)
    slack = _TOLERANCE * (1 + np.abs(vector).max())
    for _ in range(30 * size):
        pull = -(matrix @ z + vector)
        pull[free] = -np.inf
        best = int(pull.argmax())
        if pull[best] <= slack:
            return unit * torch.from_numpy(z)
        free[best], fresh = True, True
        while free.any():
            target = np.zeros(size)
            target[free] = np.linalg.lstsq(matrix[np.ix_(free, free)], -vector[free], rcond=None)[0]
            if fresh and target[best] <= 0:
                return unit * torch.from_numpy(z)  # The pull on it was rounding.
            fresh = False
            blocked = free & (target <= 0)
            if not blocked.any():
                z = target
                break
            # As far towards the target as nothing turns negative; what becomes zero is held there.
            way = (z[blocked] / np.maximum(z[blocked] - target[blocked], 1e-300)).min()
            z = np.where(free, z + way * (target - z), 0)
            z[blocked & (z <= slack)] = 0
            free &= (z > 0) | ~blocked
    raise BalancingError(
        f'no solution of a quadratic programme with {size} variables within {30 * size} steps; '
        f'matrix {matrix.tolist()}, vector {vector.tolist()}'
    )


def min_norm_point(gramian: Tensor) -> Tensor:
    """Weights on the simplex [M] whose combination of the vectors is shortest.

    min |z^T J|^2 + (1 - sum z)^2 over z >= 0 has its solution along that point; so one
    `nonnegative_qp` answers it.
    """
    scale = gramian.diagonal().max()
    if scale <= 0:
        return torch.full_like(gramian[0], 1 / len(gramian))
    ones = torch.ones_like(gramian[0])
    z = nonnegative_qp(gramian / scale + 1.0, -ones)
    return z / z.sum()


def falling_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that is positive at `low` and not at `high` changes sign.

    False position with the Illinois rule, until value or bracket is below 1e-12 of `high`.
    """
    at_low, at_high, tolerance, side = function(low), function(high), _TOLERANCE * high, 0
    middle = high
    for _ in range(100):
        if high - low <= tolerance or at_high == 0:
            break
        middle = high - at_high * (high - low) / (at_high - at_low)
        value = function(middle)
        if abs(value) <= tolerance:
            break
        if value > 0:
            low, at_low = middle, value
            at_high, side = (at_high / 2 if side > 0 else at_high), 1
        else:
            high, at_high = middle, value
            at_low, side = (at_low / 2 if side < 0 else at_low), -1
    return middle


def project_to_simplex(vector: Tensor, mass: float = 1.0) -> Tensor:
    """Nearest point with non-negative entries that sum to `mass`; [M]."""
    if mass <= 0:
        return torch.zeros_like(vector)
    ordered = vector.sort(descending=True).values
    count = torch.arange(1, len(vector) + 1, dtype=vector.dtype)
    shifts = (ordered.cumsum(0) - mass) / count
    last = int((ordered > shifts).nonzero().max())
    return (vector - shifts[last]).clamp_min(0)


def alpha_fair(gramian: Tensor, alpha: float) -> Tensor:
    """x > 0 with G x = x^(-1/alpha), elementwise; [M].

    It is the stationary point of the convex x^T G x / 2 - sum of integrals of x^(-1/alpha), found
    by Newton's method with step halving. Entries whose gradient is zero are 0. A ridge of 1e-12 of
    the diagonal keeps x finite where some combination of the gradients vanishes (Pareto
    stationary).
    """
    power = 1 / alpha
    active = gramian.diagonal() > 0
    result = torch.zeros_like(gramian[0])
    if not active.any():
        return result
    matrix = gramian[active][:, active]
    matrix = matrix + 1e-12 * torch.diag(matrix.diagonal())
    x = matrix.diagonal() ** (-alpha / (1 + alpha))
    for _ in range(500):
        residual = matrix @ x - x**-power
        if (residual.abs() <= 1e-9 * x**-power).all():
            break
        step = torch.linalg.solve(matrix + torch.diag(power * x ** (-power - 1)), residual)
        # Not beyond 99 % of the way to zero, and not past the valley along the way.
        length = min(1.0, 0.99 / max(float((step / x).max()), 1e-300))
        while step @ (matrix @ (x - length * step) - (x - length * step) ** -power) < -0.5 * (
            step @ residual
        ):
            length /= 2
        x = x - length * step
    result[active] = x
    return result
