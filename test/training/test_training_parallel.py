# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A step is the same in one batch, in accumulated parts and over processes; partial labels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from lightning_fabric import Fabric  # noqa: E402
from lightning_fabric.plugins.precision.amp import MixedPrecision  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny_training import CONFIG, ROOT, exact_overrides, partly_labelled  # noqa: E402

from mtl_perception.tasks import DETECTION, DRIVABLE, SEMANTIC, WEATHER  # noqa: E402
from training.board import AFFINITY  # noqa: E402
from training.checkpoint import read_state  # noqa: E402
from training.config import ConfigError, load_config  # noqa: E402
from training.step import parts  # noqa: E402
from training.tasks import make_head  # noqa: E402
from training.tasks.base import Features  # noqa: E402
from training.tasks.targets import BoxTarget  # noqa: E402
from training.train import learning_rate, train  # noqa: E402


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return partly_labelled(tmp_path_factory.mktemp('partial'))


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    output = tmp_path_factory.mktemp('whole')
    train(load_config(CONFIG, exact_overrides(data, output)))
    return output


def same_run(one: Path, other: Path) -> None:
    """Losses of every step and weights after the last one, to float tolerance."""
    a, b = ((run / 'losses.csv').read_text().splitlines() for run in (one, other))
    assert len(a) == len(b) == 5 and a[0] == b[0]
    for left, right in zip(a[1:], b[1:], strict=True):
        for i, (x, y) in enumerate(zip(left.split(','), right.split(','), strict=True)):
            if i != 1 and (x or y):
                assert float(x) == pytest.approx(float(y), rel=1e-4), (i, left, right)
    weights = [load_file(run / 'checkpoint/network.safetensors') for run in (one, other)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=2e-5, msg=name)


def test_the_data_leave_a_process_without_labels_of_a_task(whole):
    rows = [row.split(',') for row in (whole / 'losses.csv').read_text().splitlines()[1:]]
    assert any('' in row for row in rows), 'every step labels every task: nothing is tested'
    assert any(all(row) for row in rows)


def test_accumulated_parts_make_the_same_step(data, whole, tmp_path):
    train(load_config(CONFIG, exact_overrides(data, tmp_path, 'optimizer.accumulate=4')))
    same_run(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('method', ['equal', 'GradNorm'])
def test_two_processes_make_the_same_steps_as_one(data, tmp_path, method):
    more = (f'balancing={{method: {method}}}', 'affinity_every=2')
    train(load_config(CONFIG, exact_overrides(data, tmp_path / 'one', *more)))
    command = [
        sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
        '-m', 'training.train', str(CONFIG),
        *exact_overrides(data, tmp_path / 'two', 'devices=2', 'optimizer.accumulate=2', *more),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=1800,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    same_run(tmp_path / 'one', tmp_path / 'two')
    one, two = ((tmp_path / name / AFFINITY).read_text() for name in ('one', 'two'))
    for line, other in zip(one.splitlines(), two.splitlines(), strict=True):
        for kind in ('cosine', 'lookahead'):
            expected = torch.tensor(json.loads(line)[kind])
            torch.testing.assert_close(
                torch.tensor(json.loads(other)[kind]), expected, atol=1e-3, rtol=1e-3
            )


def test_a_process_that_is_not_in_the_configuration_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '8')
    with pytest.raises(ConfigError, match=r'8 processes .*devices=1'):
        train(load_config(CONFIG, exact_overrides(data, tmp_path)))


def test_synchronised_batch_norm_on_a_cpu_is_refused(data, tmp_path):
    more = ('devices=2', 'batch_norm=sync')
    with pytest.raises(ConfigError, match='batch_norm: sync'):
        train(load_config(CONFIG, exact_overrides(data, tmp_path, *more)))


BOXES = BoxTarget(
    torch.tensor([[4.0, 4, 40, 40], [10, 20, 60, 50]]), torch.tensor([2, 0]), torch.zeros(0, 4)
)
NO_BOXES = BoxTarget(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4))


def mask(labelled_rows: int) -> torch.Tensor:
    values = torch.full((64, 64), 255, dtype=torch.uint8)
    values[:labelled_rows] = 1
    return values


@pytest.mark.parametrize(
    ('task', 'targets'),
    [
        (DETECTION, [BOXES, NO_BOXES, BOXES]),
        (DRIVABLE, [mask(64), mask(0), mask(10)]),
        (SEMANTIC, [mask(64), mask(0), mask(10)]),
        (WEATHER, [0, 3, 3]),
    ],
    ids=lambda value: getattr(value, 'name', ''),
)
def test_losses_and_normalisers_add_up_over_images(task, targets):
    torch.manual_seed(0)
    head = make_head(task, [8] * 4, 8).eval()
    maps = [torch.randn(3, 8, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    features = Features(maps, maps)
    with torch.no_grad():
        whole = head.loss(head(features), targets)
        single = [
            head.loss(head(features.rows(torch.tensor([i]))), targets[i : i + 1]) for i in range(3)
        ]
    torch.testing.assert_close(sum(single), whole, rtol=1e-5, atol=1e-5)
    assert head.normaliser(targets) == sum(head.normaliser([target]) for target in targets) > 0


def test_parts_share_out_every_image_once():
    image = torch.arange(6)
    taken = list(parts([image, {'a': image}], {'weather': list(range(6))}, 3))
    assert [part[1]['weather'] for part in taken] == [[0, 3], [1, 4], [2, 5]]
    assert all(part[0][0].tolist() == part[1]['weather'] for part in taken)
    assert all(torch.equal(part[0][0], part[0][1]['a']) for part in taken)


@pytest.mark.slow
def test_the_loss_scale_is_part_of_the_checkpoint(data, tmp_path, monkeypatch):
    """Fabric offers no fp16 on a CPU by name; its plugin does, with the same scaler.

    It refuses to clip what a fused optimizer unscales by itself: with fp16 ours is not fused.
    """

    def half(*, precision, **options):
        scaler = torch.amp.GradScaler('cpu', init_scale=2.0**18)
        return Fabric(plugins=[MixedPrecision('16-mixed', 'cpu', scaler)], **options)

    def rate_until_killed(step, optimizer):
        if step == 2:
            raise KeyboardInterrupt
        return learning_rate(step, optimizer)

    def network(run):
        return load_file(tmp_path / run / 'checkpoint/network.safetensors')

    monkeypatch.setattr('training.processes.Fabric', half)
    more = (
        'tasks=[drivable]', 'augment.height=32', 'augment.width=64', 'optimizer.batch_size=2',
        'optimizer.accumulate=2', 'checkpoint_every=1',
    )  # fmt: skip
    whole, cut = (exact_overrides(data, tmp_path / name, *more) for name in ('whole', 'cut'))
    train(load_config(CONFIG, whole))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('training.train.learning_rate', rate_until_killed)
        train(load_config(CONFIG, cut))
    train(load_config(CONFIG, cut))

    state = read_state(tmp_path / 'whole/checkpoint')['precision']
    assert 0 < state['_growth_tracker'] < 4, 'some of the four steps overflow and are left out'
    assert read_state(tmp_path / 'cut/checkpoint')['precision'] == state
    assert all(torch.equal(network('cut')[name], w) for name, w in network('whole').items())
