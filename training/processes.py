# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The processes of a training run, one per device, and what they tell each other.

Sums of gradients and losses stay on the devices. Counts of labels and validation results are Python
numbers and objects: the hosts exchange them among themselves, so that no device is waited for.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, distributed, nn

from training.config import ConfigError, RunConfig
from training.device import check_torch, working_precision

LONGEST_WAIT = timedelta(hours=2)
"""How long a process waits for the others, which may be slower at validating."""


def open_fabric(config: RunConfig) -> Fabric:
    """One process per device, seeded; raises ConfigError when this machine does not offer it."""
    check_torch()
    alone = config.devices * config.nodes == 1
    try:
        precision: Any = working_precision(config.precision, config.accelerator)
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            precision=precision,
            strategy='auto' if alone else DDPStrategy(
                find_unused_parameters=not reaches_everything(config),
                gradient_as_bucket_view=True,
                timeout=LONGEST_WAIT,
            ),
        )  # fmt: skip
        if config.batch_norm == 'sync' and not alone and fabric.device.type != 'cuda':
            raise ConfigError(
                'batch_norm: sync over several processes needs GPUs; take local or frozen on a CPU'
            )
        fabric.launch()
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise ConfigError(f'accelerator, devices, nodes or precision: {error}') from error
    started = int(os.environ.get('WORLD_SIZE', fabric.world_size))
    if started != fabric.world_size:
        raise ConfigError(
            f'{started} processes were started for nodes={config.nodes} devices={config.devices}; '
            f'torchrun --nproc-per-node N wants devices=N, --nnodes M wants nodes=M'
        )
    fabric.seed_everything(config.seed, verbose=False)
    return fabric


def reaches_everything(config: RunConfig) -> bool:
    """Whether `TaskLosses` itself names the parameters that a process has no label for.

    DDP then need not search the graph of every step for them. Where tasks share by another
    structure than `hard`, a parameter may belong to some tasks of several, and DDP does search.
    """
    return config.network.sharing.get('name', 'hard') == 'hard'


class Processes:
    """What the processes of a run tell each other; of one process, what it knows itself."""

    def __init__(self, fabric: Fabric) -> None:
        """Every process makes its own, at the same time: the hosts find each other here."""
        self.rank, self.count = fabric.global_rank, fabric.world_size
        on_gpus = self.count > 1 and fabric.device.type == 'cuda'
        # gloo runs on the hosts; None is the group of all processes, which is gloo's on CPUs.
        self.hosts: Any = None
        if on_gpus:
            self.hosts = distributed.new_group(backend='gloo', timeout=LONGEST_WAIT)

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place, on the device that the values are on."""
        if self.count > 1:
            group = self.hosts if values.device.type == 'cpu' else None
            distributed.all_reduce(values, group=group)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The object of each process, in their order; it can be pickled."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=self.hosts)
        return values

    def take_statistics(self, network: nn.Module) -> None:
        """The first process's running statistics, which `batch_norm: local` lets differ."""
        if self.count > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)
