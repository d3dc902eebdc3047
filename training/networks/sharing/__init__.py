# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Sharing structures over any timm pyramid trunk, by their name in `network.sharing`.

Each file is one structure: paper, equations, what is changed, what counts as shared. Options are
the fields of its dataclass; an unknown one is an error that names the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mtl_perception.tasks import Task
from training.config import NetworkConfig
from training.network_error import NetworkError
from training.networks.base import MultiTaskNetwork
from training.networks.sharing.adapters import Adapters, AdaptersOptions
from training.networks.sharing.adashare import AdaShare, AdaShareOptions
from training.networks.sharing.cgc import CGC, CGCOptions
from training.networks.sharing.cross_stitch import CrossStitch, CrossStitchOptions
from training.networks.sharing.distillation import DistilledOptions
from training.networks.sharing.dselect_k import DSelectK, DSelectKOptions
from training.networks.sharing.film import FiLM, FiLMOptions
from training.networks.sharing.hard import Hard, HardOptions
from training.networks.sharing.mmoe import MMoE, MMoEOptions
from training.networks.sharing.moe_ffn import MoEFFN, MoEFFNOptions
from training.networks.sharing.mtan import MTAN, MTANOptions
from training.networks.sharing.mti_net import MTINet
from training.networks.sharing.nddr import NDDR, NDDROptions
from training.networks.sharing.options import read_options, unknown
from training.networks.sharing.pad_net import PADNet
from training.networks.sharing.parts import Parts
from training.networks.sharing.ple import PLE, PLEOptions
from training.networks.sharing.single import Single, SingleOptions

__all__ = ['STRUCTURES', 'build_sharing']

STRUCTURES: dict[str, tuple[Callable[[Parts, Any], MultiTaskNetwork], type]] = {
    'hard': (Hard, HardOptions),
    'single': (Single, SingleOptions),
    'cross_stitch': (CrossStitch, CrossStitchOptions),
    'nddr': (NDDR, NDDROptions),
    'mtan': (MTAN, MTANOptions),
    'mmoe': (MMoE, MMoEOptions),
    'dselect_k': (DSelectK, DSelectKOptions),
    'cgc': (CGC, CGCOptions),
    'ple': (PLE, PLEOptions),
    'pad_net': (PADNet, DistilledOptions),
    'mti_net': (MTINet, DistilledOptions),
    'adapters': (Adapters, AdaptersOptions),
    'adashare': (AdaShare, AdaShareOptions),
    'moe_ffn': (MoEFFN, MoEFFNOptions),
    'film': (FiLM, FiLMOptions),
}
"""Network and options by name."""

RENAMED = {'task_query': 'film'}
"""Names of before."""

ONLY_HARD = ('own_neck', 'frozen_stages')
"""Keys of the configuration that mean something for one shared trunk and neck."""


def build_sharing(
    config: NetworkConfig, tasks: Sequence[Task], initialise: bool
) -> MultiTaskNetwork:
    """The network that `config.sharing` names; raises NetworkError."""
    given = dict(config.sharing)
    name = str(given.pop('name', 'hard'))
    if name in RENAMED:
        raise NetworkError(f'sharing {name!r} is called {RENAMED[name]!r} now, with its options')
    if name not in STRUCTURES:
        raise unknown('sharing structure', name, list(STRUCTURES))
    for key in ONLY_HARD:
        if name != 'hard' and getattr(config, key):
            raise NetworkError(
                f'{key} belongs to sharing {{name: hard}}, found {name!r}; leave one of them out'
            )
    make, options = STRUCTURES[name]
    return make(Parts(config, tuple(tasks), initialise), read_options(options, name, given))
