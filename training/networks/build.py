# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The network that a configuration describes: ours, or one of the peers' as a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from mtl_perception.tasks import Task
from training.config import ConfigError, NetworkConfig
from training.network_error import NetworkError
from training.networks.base import MultiTaskNetwork
from training.networks.references.hybridnets import HybridNets
from training.networks.references.twinlitenet_plus import TwinLiteNetPlus
from training.networks.references.yolop import YOLOP
from training.networks.sharing import build_sharing


def _hybridnets(config: NetworkConfig, tasks: Sequence[Task], initialise: bool) -> HybridNets:
    weights = config.trunk_weights if initialise else ''
    return HybridNets(tasks, config, config.pretrained and initialise, weights)


def _from_scratch(
    make: Callable[[Sequence[Task], NetworkConfig], MultiTaskNetwork],
) -> Callable[[NetworkConfig, Sequence[Task], bool], MultiTaskNetwork]:
    def build(config: NetworkConfig, tasks: Sequence[Task], initialise: bool) -> MultiTaskNetwork:
        if config.pretrained or config.trunk_weights:
            raise NetworkError(
                f'{config.architecture} has a trunk of its own, for which there are no ImageNet '
                f'weights; leave network.pretrained and network.trunk_weights out'
            )
        return make(tasks, config)

    return build


ARCHITECTURES: dict[str, Callable[[NetworkConfig, Sequence[Task], bool], MultiTaskNetwork]] = {
    'hydranet': build_sharing,
    'yolop': _from_scratch(YOLOP),
    'hybridnets': _hybridnets,
    'twinlitenet_plus_large': _from_scratch(partial(TwinLiteNetPlus, size='large')),
    'twinlitenet_plus_medium': _from_scratch(partial(TwinLiteNetPlus, size='medium')),
}
"""By `network.architecture`: (configuration, tasks, whether to load ImageNet weights)."""


def build_network(
    config: NetworkConfig, tasks: Sequence[Task], initialise: bool = True
) -> MultiTaskNetwork:
    """A fresh network; raises ConfigError.

    `initialise` False leaves ImageNet weights out: the caller loads trained ones over it.
    """
    if config.architecture not in ARCHITECTURES:
        raise ConfigError(
            f'network.architecture: expected one of {list(ARCHITECTURES)}, '
            f'found {config.architecture!r}'
        )
    shared = config.sharing.get('name', 'hard')
    if config.architecture != 'hydranet' and shared != 'hard':
        raise ConfigError(
            f'network.sharing {shared!r} is for architecture hydranet; {config.architecture} has a '
            f'structure of its own'
        )
    try:
        return ARCHITECTURES[config.architecture](config, tasks, initialise)
    except NetworkError as error:
        raise ConfigError(f'network: {error}') from error
