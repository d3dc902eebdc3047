# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The one list of balancing methods, under the names that the field gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.balancing.auto_lambda import AutoLambda
from training.balancing.bargaining import FairGrad, NashMTL
from training.balancing.base import Balancer
from training.balancing.db_mtl import DBMTL
from training.balancing.directions import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    PCGrad,
    UPGrad,
)
from training.balancing.dwa import DWA
from training.balancing.excess_mtl import ExcessMTL
from training.balancing.famo import FAMO
from training.balancing.fixed import RLW, Equal, Static
from training.balancing.graddrop import GradDrop
from training.balancing.gradients import Backward, Parameters, plain_backward
from training.balancing.gradnorm import GradNorm
from training.balancing.gradvac import GradVac
from training.balancing.loss_weighting import LossWeighting
from training.balancing.moco import MoCo
from training.balancing.modo import MoDo
from training.balancing.norm_scaling import NormScaling
from training.balancing.options import BalancingError, read_options, unknown
from training.balancing.scalarisation import GLS, STCH
from training.balancing.sdmgrad import SDMGrad
from training.balancing.uncertainty import IMTLL, UW

_CLASSES: tuple[type[Balancer], ...] = (
    Equal, Static, UW, DWA, GLS, RLW, STCH, IMTLL, FAMO,
    GradNorm, NormScaling, DBMTL, MGDA, PCGrad, GradVac, GradDrop, CAGrad, IMTLG, NashMTL,
    AlignedMTL, FairGrad, UPGrad, ConFIG, SDMGrad, MoDo, ExcessMTL, MoCo, AutoLambda,
)  # fmt: skip
METHODS: dict[str, type[Balancer]] = {kind.name: kind for kind in _CLASSES}


def make_balancer(
    name: str,
    options: Mapping[str, Any],
    parameters: Parameters,
    *,
    seed: int = 0,
    parts: int = 1,
    precision: str = '32-true',
    backward: Backward = plain_backward,
) -> Balancer:
    """The balancer of a run; the parameters are on their device already.

    seed: not negative. parts: how many batches a step accumulates. precision: Lightning Fabric's
    word. backward: `fabric.backward`, or plain. Raises BalancingError for an unknown method or
    option, and for what cannot work together.
    """
    if name not in METHODS:
        raise unknown('balancing method', name, list(METHODS))
    kind = METHODS[name]
    values: Any = read_options(kind.Options, name, options, list(parameters.heads))
    if not parameters.heads or not any(parameters.heads.values()):
        raise BalancingError(f'{name}: no task has a head that is trained; nothing to balance')
    by_losses = issubclass(kind, LossWeighting)
    if precision.startswith('16') and not by_losses:
        raise BalancingError(
            f'{name} compares gradients, and precision {precision} scales them by a factor that '
            f'changes between steps and may overflow; use bf16-mixed or 32-true'
        )
    if not parameters.shared and not by_losses:
        raise BalancingError(
            f'{name} balances the gradients of what the tasks share, and no shared parameter is '
            f'trained; unfreeze the trunk, or weight the losses (equal, static, UW, ...)'
        )
    if seed < 0 or parts < 1:
        raise BalancingError(f'{name}: seed {seed} and parts {parts}, expected >= 0 and >= 1')
    return kind(values, parameters, seed, parts, backward)
