# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A new head on a frozen trunk: nothing else changes, and the trunk runs once."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from safetensors.torch import load_file  # noqa: E402
from tiny_training import CONFIG, SMALL, tiny_overrides, tiny_scenes  # noqa: E402

from mtl_perception.bundle import InputSpec  # noqa: E402
from mtl_perception.tasks import DETECTION, DRIVABLE, WEATHER  # noqa: E402
from training.add_task import add_task, extended, open_base, with_task  # noqa: E402
from training.add_task import main as add_task_main  # noqa: E402
from training.config import ConfigError, load_config  # noqa: E402
from training.data.sample import DatasetError  # noqa: E402
from training.export import load_run, round_weights, save_onnx  # noqa: E402
from training.feature_cache import (  # noqa: E402
    EpochSampler,
    FeatureCache,
    Watched,
    levels_read,
    make_room,
)
from training.tasks import make_head  # noqa: E402
from training.tasks.assigners import BoxTarget  # noqa: E402
from training.tasks.base import Features  # noqa: E402
from training.train import learning_rate, train  # noqa: E402


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return tiny_scenes(tmp_path_factory.mktemp('scenes'), 4, 1)


def config(data: Path, *more: str):
    return load_config(CONFIG, tiny_overrides(data, *SMALL, *more))


@pytest.fixture(scope='module')
def base_run(data, tmp_path_factory):
    output = tmp_path_factory.mktemp('base')
    train(config(data, f'output={output}', 'tasks=[drivable,weather]'))
    return output


@pytest.fixture(scope='module')
def run(data, base_run, tmp_path_factory):
    """The base with a semantic head, through the command."""
    folder = tmp_path_factory.mktemp('added')
    options = ['--task', 'semantic', '--output', f'{folder}/run', '--cache', f'{folder}/cache']
    more = tiny_overrides(data, *SMALL, 'optimizer.steps=30', 'optimizer.ema_decay=0.9')
    assert add_task_main([str(base_run), str(CONFIG), *options, *more]) == 0
    return folder / 'run'


def test_no_other_weight_changes(base_run, run):
    before, _, _ = load_run(base_run)
    after, found, _ = load_run(run)
    assert found.tasks == ['drivable', 'weather', 'semantic']
    state = after.state_dict()
    for name, tensor in before.state_dict().items():
        assert torch.equal(state[name], tensor), name
    trained = load_file(run / 'checkpoint/network.safetensors')
    for name, tensor in before.state_dict().items():
        assert torch.equal(trained[name], tensor), name


@pytest.mark.slow
def test_other_outputs_of_the_exported_graph_are_identical(base_run, run, tmp_path):
    import onnxruntime

    image = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    answers = []
    for folder in (base_run, run):
        network, _, _ = load_run(folder)
        round_weights(network)
        path = tmp_path / f'{len(answers)}.onnx'
        save_onnx(network, InputSpec(64, 96), path)
        session = onnxruntime.InferenceSession(str(path))
        names = [output.name for output in session.get_outputs()]
        answers.append(dict(zip(names, session.run(None, {'image': image}), strict=True)))
    before, after = answers
    assert set(after) - set(before) == {'semantic'}
    for name, value in before.items():
        assert np.array_equal(after[name], value), name


def test_the_new_head_learns(run):
    rows = [row.split(',') for row in (run / 'losses.csv').read_text().splitlines()]
    losses = [float(row[rows[0].index('semantic')]) for row in rows[1:]]
    assert len(losses) == 30 and sum(losses[-4:]) < 0.85 * sum(losses[:4])
    assert all(row[rows[0].index('drivable')] == '' for row in rows[1:])


def test_a_run_says_what_it_was_added_to(base_run, run):
    parent = json.loads((run / 'parent.json').read_text())
    assert parent['tasks'] == ['drivable', 'weather']
    assert parent['training_data'] == ['scenes'] and parent['name'].endswith('step 4')


def test_a_second_head_runs_on_the_cache_without_the_trunk(data, base_run, run, tmp_path):
    """The same seed and data: what another try with another learning rate does."""
    base = open_base(str(base_run))
    before = len(list((run.parent / 'cache').rglob('*.safetensors')))
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        features = type(base.network).features
        patch.setattr(
            type(base.network), 'features', lambda *args: (calls.append(1), features(*args))[1]
        )
        add_task(
            base, config(data, 'optimizer.lr=1e-4'), 'semantic', tmp_path, root=run.parent / 'cache'
        )
    assert len(calls) == 2  # the levels are looked up; the last batch of the cache is made again
    assert len(list((run.parent / 'cache').rglob('*.safetensors'))) == before == 16


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(data, base_run, tmp_path):
    base = open_base(str(base_run))
    root = tmp_path / 'cache'
    add_task(base, config(data), 'semantic', tmp_path / 'whole', root=root)
    calls = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def killing(step, optimizer):
            calls.append(step)
            if step == 3:
                raise KeyboardInterrupt
            return learning_rate(step, optimizer)

        patch.setattr('training.train.learning_rate', killing)
        add_task(base, config(data), 'semantic', tmp_path / 'cut', root=root)
    add_task(base, config(data), 'semantic', tmp_path / 'cut', root=root)
    whole, cut = (
        load_file(tmp_path / name / 'checkpoint/ema.safetensors') for name in ('whole', 'cut')
    )
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_task_that_is_there_or_unlabelled_is_refused(data, base_run, tmp_path, capsys):
    base = open_base(str(base_run))
    with pytest.raises(ConfigError, match="a task 'weather' already"):
        with_task(base, config(data), 'weather', tmp_path)
    with pytest.raises(DatasetError, match="no data set labels 'lane'"):
        add_task(base, config(data), 'lane', tmp_path)
    command = [str(tmp_path / 'none'), str(CONFIG), '--task', 'lane']
    assert add_task_main(command) == 1 and 'no model' in capsys.readouterr().err


def test_a_folder_with_another_run_is_refused(data, base_run, run):
    other = dataclasses.replace(open_base(str(base_run)), parent={'name': 'another model'})
    with pytest.raises(ConfigError, match='not one that adds to another model'):
        add_task(other, config(data), 'semantic', run)


@pytest.mark.parametrize('own_neck', [False, True])
def test_only_the_new_head_is_trainable(data, base_run, tmp_path, own_neck):
    base = open_base(str(base_run))
    chosen = with_task(base, config(data), 'semantic', tmp_path, own_neck)
    network = extended(base, chosen, 'semantic')
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trainable and all(name.startswith('heads.semantic.') for name in trainable)


def test_an_own_neck_learns_from_the_trunk_and_begins_as_the_shared_one(data, base_run, tmp_path):
    base = open_base(str(base_run))
    add_task(base, config(data), 'semantic', tmp_path / 'run', root=tmp_path, own_neck=True)
    network, found, _ = load_run(tmp_path / 'run')
    assert found.network.own_neck == ['semantic']
    assert {name.split('.')[0] for name in load_file(next(tmp_path.rglob('*0.safetensors')))} == {
        'trunk', 'target',
    }  # fmt: skip
    own, shared = network.head('semantic').neck.state_dict(), network.neck.state_dict()
    for name, tensor in base.network.neck.state_dict().items():
        assert torch.equal(shared[name], tensor), name
    changed = (own['lateral.0.0.weight'] - shared['lateral.0.0.weight']).abs().max()
    assert 0 < changed < 0.1


MAPS = [torch.zeros(1, 8, 64 // s, 64 // s) for s in (4, 8, 16, 32)]


@pytest.mark.parametrize(
    ('task', 'expected'),
    [
        (DETECTION, (('neck', 1), ('neck', 2), ('neck', 3))),
        (DRIVABLE, (('neck', 0), ('neck', 1), ('neck', 2), ('neck', 3))),
        (WEATHER, (('trunk', 3),)),
    ],
    ids=lambda value: getattr(value, 'name', ''),
)
def test_only_the_levels_that_a_head_reads_are_kept(task, expected):
    head = make_head(task, [8] * 4, 8)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    assert levels_read(head, Features(MAPS, MAPS)) == expected
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_watched_sequences_notice_every_way_of_reading():
    watched = Watched('abcd')
    assert watched[-1] == 'd' and watched[1:3] == 'bc' and watched.read == {1, 2, 3}
    assert list(watched) == list('abcd') and watched.read == {0, 1, 2, 3}


@pytest.mark.parametrize(
    'target',
    [
        torch.randint(0, 20, (8, 8), dtype=torch.uint8),
        3,
        BoxTarget(torch.rand(2, 4), torch.tensor([1, 5]), torch.zeros(0, 4)),
        BoxTarget(
            torch.rand(1, 4), torch.tensor([2]), torch.rand(3, 4), torch.arange(10) > 4, False
        ),
    ],
    ids=['mask', 'class', 'boxes', 'boxes of some classes'],
)
def test_targets_come_back_from_the_cache(tmp_path, target):
    cache = FeatureCache(tmp_path, (('neck', 1),))
    level = torch.randn(8, 4, 4)
    cache.save(12, [level], target)
    (found,), back = cache.load(12)
    assert torch.equal(found, level.half()) and cache.draws() == [12]
    assert type(back) is type(target)
    for a, b in zip(back, target, strict=True) if isinstance(target, tuple) else [(back, target)]:
        assert a is b is None or torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def test_an_epoch_shows_every_draw_once_whatever_the_first_step():
    whole = list(EpochSampler(10, 4, 0, 5, seed=1))
    places = np.concatenate(whole)
    assert sorted(places[:10]) == sorted(places[10:]) == list(range(10))
    assert list(places[:10]) != list(places[10:])
    assert list(EpochSampler(10, 4, 3, 5, seed=1)) == whole[3:]


def test_caches_stay_within_the_limit(tmp_path):
    caches = [FeatureCache(tmp_path / name, ()) for name in ('old', 'newer', 'mine')]
    for age, cache in enumerate(caches):
        cache.folder.mkdir()
        (cache.folder / '00000000.safetensors').write_bytes(b'x' * 1000)
        os.utime(cache.folder, (1000 + age, 1000 + age))
    assert make_room(caches[2], 30, 100, 4000) == 24  # in batches of 8
    assert [path.name for path in sorted(tmp_path.iterdir())] == ['mine', 'newer']
    assert make_room(caches[2], 1000, 100, 4000) == 40
    assert [path.name for path in tmp_path.iterdir()] == ['mine']
    with pytest.raises(ConfigError, match='room for 7 images'):
        make_room(caches[2], 1000, 100, 799)
