# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the machine can do: precision, memory, shared memory; each lack gives one clear error."""

import re

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from lightning_fabric import Fabric  # noqa: E402
from tiny_training import CONFIG, exact_overrides, partly_labelled  # noqa: E402
from torch import nn  # noqa: E402

from training import device  # noqa: E402
from training.config import ConfigError, load_config  # noqa: E402
from training.data.loader import PREFETCH, batches_ahead  # noqa: E402
from training.data.sample import DatasetError  # noqa: E402
from training.device import (  # noqa: E402
    check_torch,
    fitting_images,
    is_out_of_memory,
    working_precision,
)
from training.step import TaskLosses  # noqa: E402
from training.tasks.targets import BoxTarget, Targets  # noqa: E402
from training.train import train  # noqa: E402

NO_ROOM = "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize(('has', 'expected'), [(True, 'bf16-mixed'), (False, '32-true')])
def test_a_cpu_trains_in_bfloat16_where_it_has_it(monkeypatch, has, expected):
    monkeypatch.setattr(device, 'cpu_has_bf16', lambda: has)
    assert working_precision('auto', 'cpu') == expected
    assert working_precision('32-true', 'cpu') == '32-true'


def test_a_gpu_without_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Tesla T4')
    assert working_precision('auto', 'auto') == '16-mixed'
    assert working_precision('auto', 'cpu') in ('bf16-mixed', '32-true')
    with pytest.raises(ValueError, match='bf16-mixed: Tesla T4 has no bfloat16; take 16-mixed'):
        working_precision('bf16-mixed', 'cuda')


@pytest.mark.parametrize('version', ['2.10.1+cpu', '1.13.1'])
def test_an_old_torch_is_one_sentence(version):
    with pytest.raises(ConfigError, match=f'torch {re.escape(version)} is older.*expected 2.11'):
        check_torch(version)


@pytest.mark.parametrize('version', ['2.11.0', '2.14.1+cu130', '3.0.0a0+git123'])
def test_newer_torch_is_taken(version):
    check_torch(version)


class Losses(nn.Module):
    """Has room for `room` images."""

    def __init__(self, room):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.room = room

    def forward(self, image, targets):
        assert len(image) == len(targets['weather'])
        if len(image) > self.room:
            raise RuntimeError(NO_ROOM)
        return {'weather': self.weight * image.sum()}


@pytest.mark.parametrize(('room', 'expected'), [(7, 4), (4, 4), (1, 1), (0, 0)])
def test_the_images_that_fit_are_found_by_halving(room, expected):
    batch = (torch.ones(16, 3, 4, 4), {'weather': Targets.pack([0] * 16)})
    assert fitting_images(Losses(room), batch, 16) == expected


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError('CUDA out of memory'))
    assert not is_out_of_memory(RuntimeError('mat1 and mat2 shapes cannot be multiplied'))


def test_out_of_memory_at_the_first_step_says_how_many_images_fit(tmp_path, monkeypatch):
    data = partly_labelled(tmp_path / 'data')
    config = load_config(CONFIG, exact_overrides(data, tmp_path / 'run'))
    images = config.optimizer.batch_size
    forward = TaskLosses.forward

    def with_room_for_one(self, image, targets):
        if len(image) > 1:
            raise RuntimeError(NO_ROOM)
        return forward(self, image, targets)

    monkeypatch.setattr(TaskLosses, 'forward', with_room_for_one)
    expected = f'with {images} images at a time; 1 fit: set optimizer.accumulate={images}'
    with pytest.raises(ConfigError, match=expected):
        train(config)


def test_in_bfloat16_boxes_keep_their_coordinates():
    """Fabric rounds the floats of sequences: 301.25 would become 302."""

    class Right(nn.Module):
        def forward(self, targets):
            return targets['detection'].values.boxes[0, 0, 2] - 301.25

    target = BoxTarget(torch.tensor([[1.0, 2, 301.25, 4]]), torch.zeros(1).long(), torch.ones(0, 4))
    fabric = Fabric(accelerator='cpu', precision='bf16-mixed')
    wrapped = fabric.setup(nn.Sequential(nn.Linear(1, 1), Right()))
    wrapped.module.forward = wrapped.module[1].forward
    assert wrapped({'detection': Targets.pack([target])}) == 0


def test_a_step_in_bfloat16_makes_the_losses_of_one_in_single_precision(tmp_path):
    data = partly_labelled(tmp_path / 'data')
    rows = {}
    for precision in ('32-true', 'bf16-mixed'):
        output = tmp_path / precision
        more = (f'precision={precision}', 'optimizer.steps=1', 'optimizer.warmup_steps=0')
        train(load_config(CONFIG, exact_overrides(data, output, *more)))
        rows[precision] = (output / 'losses.csv').read_text().splitlines()[1].split(',')[2:]
    single, narrow = ([float(x) for x in row if x] for row in rows.values())
    assert narrow == pytest.approx(single, rel=0.05)


def test_small_shared_memory_means_fewer_batches_ahead_or_one_sentence():
    megabyte = 10**6
    assert batches_ahead(2, megabyte, 64 * megabyte) == PREFETCH
    assert batches_ahead(2, 10 * megabyte, 64 * megabyte) == 2
    with pytest.raises(DatasetError, match=r'2 workers .* need 90 MB, found 64 MB free; start'):
        batches_ahead(2, 30 * megabyte, 64 * megabyte)
