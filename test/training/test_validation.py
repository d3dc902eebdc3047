# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Validation in batches and by several processes: the figures of one image at a time."""

import json

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from tiny_training import tiny_scenes  # noqa: E402
from validation_ranks import figures, process  # noqa: E402

from mtl_perception.engines.base import EngineError  # noqa: E402
from training.evaluation import validation  # noqa: E402


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return tiny_scenes(tmp_path_factory.mktemp('scenes'), 1, 5)


@pytest.fixture(scope='module')
def one_at_a_time(data):
    found = figures(data, 1)
    assert {'scenes/semantic/miou', 'scenes/detection/AP50'} <= found.keys()
    return found


def test_batches_give_the_figures_of_single_images(data, one_at_a_time, monkeypatch):
    batches = []
    opened = validation.torch_pipeline

    def looked_at(network, config, precision, batch):
        batches.append(batch)
        return opened(network, config, precision, batch)

    monkeypatch.setattr(validation, 'torch_pipeline', looked_at)
    assert figures(data, 4) == pytest.approx(one_at_a_time, abs=1e-3)
    assert batches == [3], 'five images in two batches'


def test_two_processes_share_the_images_and_have_the_same_figures(data, one_at_a_time, tmp_path):
    torch.multiprocessing.spawn(process, (str(tmp_path), str(data)), nprocs=2)
    first, second = (json.loads((tmp_path / f'{rank}.json').read_text()) for rank in range(2))
    assert first == second
    assert first == pytest.approx(one_at_a_time, abs=1e-3)


def test_what_fails_in_another_process_fails_in_this_one(data, monkeypatch):
    error = EngineError('logits are not finite')

    class Two:
        rank, count = 0, 2

        def take_statistics(self, network):
            pass

        def gather(self, value):
            assert len(value) == 3
            return [value, error]

    monkeypatch.setattr('validation_ranks.Processes', lambda fabric: Two())
    with pytest.raises(EngineError, match='not finite'):
        figures(data, 4)
