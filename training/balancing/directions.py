# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Common directions without a state, from the gradients' inner products alone.

PCGrad, IMTL-G, AlignedMTL and UPGrad are torchjd's weightings (Quinton and Rey, MIT; pinned). Its
MGDA, Frank-Wolfe, is replaced by the exact solution, its CAGrad, Nash-MTL, FairGrad and UPGrad's
projector by `solvers`, and its ConFIG by a form that needs no singular value decomposition of the
Jacobian.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchjd.aggregation import (
    AlignedMTLWeighting,
    IMTLGWeighting,
    PCGradWeighting,
    UPGradWeighting,
)
from torchjd.linalg import DualConeProjector

from training.balancing.base import Labelled
from training.balancing.gradient_balancing import GramianOptions, GramianWeighting
from training.balancing.options import choice, number
from training.balancing.solvers import falling_root, min_norm_point, nonnegative_qp


@dataclass(frozen=True)
class MGDAOptions(GramianOptions):
    """normalise: what each gradient is divided by first, as in the authors' experiments."""

    normalise: str = choice('none', 'length', 'loss', 'loss and length')


class MGDA(GramianWeighting):
    """The shortest convex combination of the gradients.

    Desideri, "Multiple-gradient descent algorithm (MGDA)", 2012; Sener and Koltun, "Multi-Task
    Learning as Multi-Objective Optimization", NeurIPS 2018, eq. 3, whose MGDA-UB (section 3.3) is
    gradients=features. The weights are those of the gradients before normalisation.
    """

    name = 'MGDA'
    Options = MGDAOptions

    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """On the simplex, divided by the normalisers; a zero gradient is its own answer."""
        scale = torch.ones_like(labelled.losses)
        if 'length' in self.options.normalise:
            lengths = gramian.diagonal().sqrt()
            scale = torch.where(lengths > 0, lengths, 1.0)
        if 'loss' in self.options.normalise:
            scale = scale * torch.where(labelled.losses > 0, labelled.losses, 1.0)
        return min_norm_point(gramian / torch.outer(scale, scale)) / scale


class PCGrad(GramianWeighting):
    """Each gradient loses its component against every other that it conflicts with; then the sum.

    Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Algorithm 1. The others
    come in an order that is random in each step.
    """

    name = 'PCGrad'

    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """Coefficients of the sum, at least 1."""
        with self.seeded():
            return PCGradWeighting()(gramian)


class IMTLG(GramianWeighting):
    """The combination with equal projections onto all gradients' directions; weights sum to 1.

    Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, section 3.1; for dependent
    gradients generalised as in Quinton and Rey, "Jacobian Descent for Multi-Objective
    Optimization", 2024.
    """

    name = 'IMTL-G'

    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """Closed form; can be negative."""
        return IMTLGWeighting()(gramian)


@dataclass(frozen=True)
class AlignedMTLOptions(GramianOptions):
    """scale: the singular value that all others are set to."""

    scale: str = choice('min', 'median', 'rmse')


class AlignedMTL(GramianWeighting):
    """The mean of the gradients after their principal components were given one length.

    Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023,
    Algorithm 1: the condition number of the aligned gradients is 1.
    """

    name = 'AlignedMTL'
    Options = AlignedMTLOptions

    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """Closed form."""
        return AlignedMTLWeighting(scale_mode=self.options.scale)(gramian)


class _DualCone(DualConeProjector):
    """torchjd's projector without quadprog: min v^T G v over v >= u."""

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        return torch.stack([u + nonnegative_qp(G, G @ u) for u in U])


class UPGrad(GramianWeighting):
    """The mean of the gradients, each projected onto the cone of what conflicts with none.

    Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, eq. 3 and
    proposition 1.
    """

    name = 'UPGrad'

    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """At least 1 / M each."""
        scale = gramian.diagonal().max().clamp_min(torch.finfo(gramian.dtype).tiny)
        return UPGradWeighting(projector=_DualCone())(gramian / scale)


class ConFIG(GramianWeighting):
    """The direction with the same cosine to every gradient, as long as the projections' sum.

    Liu et al., "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR
    2025, eq. 2. With the unit gradients U: pinv(U) 1 = U^T pinv(U U^T) 1.
    """

    name = 'ConFIG'

    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """Closed form; can be negative."""
        lengths = gramian.diagonal().sqrt()
        inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
        cosines = gramian * torch.outer(inverse, inverse)
        weights = inverse * torch.linalg.pinv(cosines, hermitian=True).sum(1)
        squared = weights @ gramian @ weights
        if squared <= 0:
            return torch.zeros_like(weights)
        return weights * (gramian @ weights).sum() / squared


@dataclass(frozen=True)
class CAGradOptions(GramianOptions):
    """c: radius, in lengths of the mean gradient. rescale: LibMTL's (none, by 1 + c^2, 1 + c)."""

    c: float = number(0.5, 0, above=False)
    rescale: int = number(1, 0, 2)


class CAGrad(GramianWeighting):
    """The direction within c |g0| of the mean gradient g0 that serves the worst-off task best.

    Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021,
    Algorithm 1: d = g0 + c |g0| g_w / |g_w|, w minimising g_w^T g0 + c |g0| |g_w| on the simplex.
    The authors' code and LibMTL divide d by 1 + c^2 (rescale 1).
    """

    name = 'CAGrad'
    Options = CAGradOptions

    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """|g_w| = min over t of (|g_w|^2 / t + t) / 2 makes the problem one of shortest vectors.

        For a given t the best w is the min-norm point of the vectors g_i + t g0 / (c |g0|); at the
        solution |g_w(t)| = t, which is where their difference changes sign.
        """
        c = self.options.c
        rescale = (1, 1 + c**2, 1 + c)[self.options.rescale]
        mean = torch.full_like(labelled.losses, 1 / len(gramian))
        along = gramian @ mean
        longest, length0 = gramian.diagonal().max().sqrt(), (mean @ along).clamp_min(0).sqrt()
        if c == 0 or length0 <= 1e-9 * longest:
            return mean / rescale

        def best(t: float) -> Tensor:
            shift = t / (c * length0)
            return min_norm_point(
                gramian + shift * (along + along[:, None]) + (shift * length0) ** 2
            )

        def length(w: Tensor) -> Tensor:
            return (w @ gramian @ w).clamp_min(0).sqrt()

        w = best(falling_root(lambda t: float(length(best(t)) - t), 0.0, float(longest)))
        if length(w) <= 1e-9 * longest:
            return mean / rescale
        return (mean + c * length0 / length(w) * w) / rescale
