# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Losses are read now and then, and a run that diverged still ends with its step."""

import traceback

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from tiny_training import CONFIG, exact_overrides, partly_labelled  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from training.config import load_config  # noqa: E402
from training.optimizer import learning_rate  # noqa: E402
from training.step import Step  # noqa: E402
from training.train import NonFiniteLossError, train  # noqa: E402
from training.unread import StepLosses, Unread  # noqa: E402

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.unique_dim}
"""Operations whose result a host waits for."""


class Waits(TorchDispatchMode):
    """Counts operations for which a GPU would be waited for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masks = function.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if function.overloadpacket in WAITING or masks:
            names = [frame.name for frame in traceback.extract_stack()]
            if 'set_cross_entropy' not in names:  # on a CPU alone it looks whether it has work
                self.seen.append(str(function))
        return function(*args, **kwargs or {})


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return partly_labelled(tmp_path_factory.mktemp('partial'))


def run(data, output, *more):
    return load_config(CONFIG, exact_overrides(data, output, *more))


def rows(output):
    lines = (output / 'losses.csv').read_text().splitlines()[1:]
    return [[cell for i, cell in enumerate(line.split(',')) if i != 1] for line in lines]


def test_records_are_named_and_each_is_read_once():
    unread = Unread(['a', 'b'])
    assert unread.read() == []
    unread.add(4, StepLosses(torch.tensor([1.0, 2.0]), (True, False)), torch.tensor(3.0), 0.1, {})
    diverged = StepLosses(torch.tensor([1.0, torch.nan]), (True, True))
    unread.add(5, diverged, torch.ones(()), 0.1, {})
    first, second = unread.read()
    assert (first.step, first.losses, first.gradient_norm, first.lr) == (4, {'a': 1.0}, 3.0, 0.1)
    assert first.has_finite_losses and not second.has_finite_losses
    assert unread.read() == []


def test_a_step_waits_for_nothing(data, tmp_path, monkeypatch):
    seen = []
    backward = Step.backward

    def watched(self, *args):
        with Waits() as waits:
            losses = backward(self, *args)
        seen.append(waits.seen)
        return losses

    monkeypatch.setattr(Step, 'backward', watched)
    train(run(data, tmp_path, 'optimizer.accumulate=2'))
    assert seen == [[]] * 4


def test_losses_are_read_every_log_steps_and_for_a_checkpoint(data, tmp_path, monkeypatch):
    read_at = []
    read = Unread.read

    def watched(self):
        records = read(self)
        read_at.append([record.step for record in records])
        return records

    monkeypatch.setattr(Unread, 'read', watched)
    more = ('log_every=2', 'checkpoint_every=5', 'optimizer.steps=6')
    train(run(data, tmp_path / 'often', *more))
    assert read_at == [[0, 1], [2, 3], [4], [5]]
    train(run(data, tmp_path / 'seldom', *more, 'log_every=100'))
    assert read_at[4:] == [[0, 1, 2, 3, 4], [5]]
    assert rows(tmp_path / 'often') == rows(tmp_path / 'seldom')


def test_a_step_that_diverged_is_found_before_the_checkpoint_and_named(data, tmp_path, monkeypatch):
    def rate(step, optimizer):
        return float('inf') if step == 1 else learning_rate(step, optimizer)

    monkeypatch.setattr('training.train.learning_rate', rate)
    more = ('log_every=100', 'checkpoint_every=4', 'optimizer.steps=4')
    message = r'step 2: losses \{.*nan.*no checkpoint had been made.*look at draws 8 to 11'
    with pytest.raises(NonFiniteLossError, match=message):
        train(run(data, tmp_path, *more))
    assert [row[0] for row in rows(tmp_path)] == ['0', '1']
    assert not (tmp_path / 'checkpoint').exists()
