# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Two processes: gradients, weights and method state are equal, and those of the whole batch."""

import pytest

pytest.importorskip('torch', reason='training extras are not installed')

import torch
from balancing_ranks import FEATURE_METHODS, everything, process

from training.balancing import METHODS

RUNS = [*METHODS, *(f'{name} of features' for name in FEATURE_METHODS)]


@pytest.fixture(scope='module')
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    torch.multiprocessing.spawn(process, (str(folder),), nprocs=2)
    ranks = [torch.load(folder / f'{rank}.pt', weights_only=True) for rank in range(2)]
    return [*ranks, everything(None)]


@pytest.mark.parametrize('name', RUNS)
def test_ranks_agree_to_the_bit(records, name):
    first, second, _ = (run[name] for run in records)
    assert len(first) == 3
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize('name', RUNS)
def test_ranks_together_are_one_process_with_the_whole_batch(records, name):
    first, _, whole = (run[name] for run in records)
    for one, expected in zip(first, whole, strict=True):
        assert one.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(one[key], value, atol=2e-5, rtol=1e-4, msg=f'{name}: {key}')
