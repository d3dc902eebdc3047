# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Balancing methods in the training loop: wiring, resuming, what is refused; and affinities."""

import csv
import json

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from safetensors.torch import load_file  # noqa: E402
from tiny_training import CONFIG, exact_overrides, partly_labelled  # noqa: E402

from training.board import AFFINITY  # noqa: E402
from training.config import ConfigError, load_config  # noqa: E402
from training.train import learning_rate, main, train  # noqa: E402


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return partly_labelled(tmp_path_factory.mktemp('partial'))


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    """Trains a variant once; the folder of its run."""
    folders = {}

    def folder(*more):
        if more not in folders:
            folders[more] = tmp_path_factory.mktemp('run')
            train(load_config(CONFIG, exact_overrides(data, folders[more], *more)))
        return folders[more]

    return folder


def balancing(method, **options):
    pairs = ', '.join(f'{key}: {value}' for key, value in {'method': method, **options}.items())
    return f'balancing={{{pairs}}}'


def losses(folder):
    with (folder / 'losses.csv').open() as file:
        return [
            {name: cell for name, cell in row.items() if name not in ('step', 'seconds')}
            for row in csv.DictReader(file)
        ]


def tensors(folder, name='network'):
    return load_file(folder / f'checkpoint/{name}.safetensors')


def nearly_the_same(one, other):
    for row, expected in zip(losses(one), losses(other), strict=True):
        labelled = {task: float(loss) for task, loss in expected.items() if loss}
        assert {task: float(loss) for task, loss in row.items() if loss} == pytest.approx(
            labelled, rel=1e-4
        )
    first, second = (torch.cat([x.flatten() for x in tensors(f).values()]) for f in (one, other))
    # Adam makes a whole step of a gradient that is nearly zero, whatever its last digits say.
    assert (first - second).norm() < 1e-3 * first.norm()


def test_weights_of_one_are_the_plain_sum(run):
    """`static` goes task by task through the balancer, `equal` by one backward pass."""
    nearly_the_same(run(), run(balancing('static')))


def test_weights_of_losses_and_of_the_method_multiply(run):
    one = run(balancing('static', weights='{semantic: 0.5}'), 'loss_weights={detection: 2.0}')
    other = run('loss_weights={detection: 2.0, semantic: 0.5}')
    nearly_the_same(one, other)
    assert losses(run('loss_weights={semantic: 0.5}')) != losses(other)


@pytest.mark.parametrize('method', ['PCGrad', 'FAMO'])
def test_accumulated_parts_make_the_same_balanced_step(run, method):
    nearly_the_same(run(balancing(method)), run(balancing(method), 'optimizer.accumulate=4'))


def test_a_method_changes_the_training(run):
    assert losses(run(balancing('PCGrad')))[:1] == losses(run())[:1]
    assert losses(run(balancing('FAMO')))[1:] != losses(run())[1:]


@pytest.mark.parametrize('method', ['UW', 'FAMO', 'GradNorm'])
def test_a_balanced_run_goes_on_as_if_it_had_not_been_stopped(
    data, run, tmp_path, monkeypatch, method
):
    def rate_until_killed(step, optimizer):
        if step == 3:
            raise KeyboardInterrupt
        return learning_rate(step, optimizer)

    whole = run(balancing(method))
    cut = load_config(CONFIG, exact_overrides(data, tmp_path, balancing(method)))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('training.train.learning_rate', rate_until_killed)
        train(cut)
    expected = tensors(whole)
    assert not all(torch.equal(x, expected[k]) for k, x in tensors(tmp_path).items())
    train(cut)
    assert losses(tmp_path) == losses(whole)
    for name in ('network', 'ema', 'optimizer', 'balancing'):
        expected = tensors(whole, name)
        assert expected.keys() == tensors(tmp_path, name).keys()
        assert all(torch.equal(x, expected[k]) for k, x in tensors(tmp_path, name).items()), name


def test_the_losses_after_a_step_do_not_count_as_a_batch_of_batch_norm(run):
    state = tensors(run(balancing('FAMO'), 'batch_norm=local'))
    counts = {int(x) for name, x in state.items() if name.endswith('num_batches_tracked')}
    assert max(counts) == 4


def test_auto_lambda_validates_on_other_draws_of_the_training_split(run):
    """Its weights move by the losses of a second batch, whose seed is not the run's."""
    state = tensors(run(balancing('Auto-Lambda', lr=0.01)), 'balancing')
    assert ((state['weights'] - 0.1).abs() > 1e-3).all()
    other = tensors(run(balancing('Auto-Lambda', lr=0.01, validation='{semantic: 0}')), 'balancing')
    assert not torch.equal(state['weights'], other['weights'])


@pytest.mark.parametrize('options', [{}, {'gradients': 'features'}])
def test_bf16(run, options):
    folder = run(balancing('MGDA', **options), 'precision=bf16-mixed')
    found = [float(loss) for row in losses(folder) for loss in row.values() if loss]
    assert found and all(loss == loss for loss in found)
    assert all(torch.isfinite(x).all() for x in tensors(folder).values())


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        ((balancing('pcgrad'),), r"unknown balancing method 'pcgrad'.*did you mean 'PCGrad'"),
        ((balancing('UW', lrr=1),), r"unknown option of UW 'lrr'"),
        ((balancing('SDMGrad'),), 'parts'),
        (
            (balancing('MGDA', gradients='features'), 'optimizer.accumulate=2'),
            'gradients=features does not go with 2 accumulated parts',
        ),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(data, tmp_path, more, message):
    with pytest.raises(ConfigError, match=f'balancing: .*{message}'):
        train(load_config(CONFIG, exact_overrides(data, tmp_path, *more)))
    assert not (tmp_path / 'losses.csv').exists()


def test_options_without_a_method_are_refused(data, tmp_path, capsys):
    path = tmp_path / 'config.yaml'
    path.write_text(
        f'name: a\noutput: {tmp_path}\ntasks: [weather]\ndata: [{{name: d, root: "{data}"}}]\n'
        'network: {trunk: mobilenetv3_small_050}\naccelerator: cpu\nbalancing: {method: null}\n'
    )
    assert main([str(path), 'validate_every=99999']) == 1
    assert 'names no method' in capsys.readouterr().err


def test_another_method_in_a_run_folder_is_refused(data, run):
    folder = run(balancing('UW'))
    with pytest.raises(ConfigError, match='was begun with UW and cannot go on with PCGrad'):
        train(load_config(CONFIG, exact_overrides(data, folder, balancing('PCGrad'))))


def affinities(folder):
    return [json.loads(line) for line in (folder / AFFINITY).read_text().splitlines()]


def test_measuring_affinities_changes_nothing(run):
    measured = run('affinity_every=1', 'batch_norm=local', 'network.drop_path_rate=0.2')
    without = run('batch_norm=local', 'network.drop_path_rate=0.2')
    assert losses(measured) == losses(without)
    expected = tensors(without)
    assert all(torch.equal(x, expected[k]) for k, x in tensors(measured).items())


@pytest.mark.parametrize('parts', [1, 2])
def test_a_step_on_one_task_changes_the_others_losses_as_the_gradients_say(run, monkeypatch, parts):
    """To first order, L_j Z[i, j] = eta g_i . g_j: symmetric, with the sign of the cosine."""
    monkeypatch.setattr('training.affinity.RELATIVE_STEP', 1e-4)
    # Without detection, whose targets depend on what the network answers.
    tasks = 'tasks=[drivable,semantic]'
    folder = run('affinity_every=1', f'optimizer.accumulate={parts}', tasks)
    found = affinities(folder)
    assert found
    for each in found:
        row = losses(folder)[each['step']]
        value = torch.tensor([float(row[task]) for task in each['tasks']])
        cosine, ahead = torch.tensor(each['cosine']), torch.tensor(each['lookahead'])
        torch.testing.assert_close(cosine.diagonal(), torch.ones(len(value)))
        product = ahead * value
        assert (product.diagonal() > 0).all()
        lengths = product.diagonal().sqrt()
        expected = cosine * lengths[:, None] * lengths
        torch.testing.assert_close(
            product, expected, atol=0.05 * product.abs().max().item(), rtol=0
        )


def test_affinities_after_the_last_checkpoint_are_written_once(data, tmp_path, monkeypatch):
    def rate_until_killed(step, optimizer):
        if step == 3 and not monkeypatched:
            raise KeyboardInterrupt
        return learning_rate(step, optimizer)

    monkeypatched = []
    config = load_config(CONFIG, exact_overrides(data, tmp_path, 'affinity_every=1'))
    monkeypatch.setattr('training.train.learning_rate', rate_until_killed)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert [each['step'] for each in affinities(tmp_path)] == [0, 1, 2]
    monkeypatched.append(True)
    train(config)
    assert [each['step'] for each in affinities(tmp_path)] == [0, 1, 2, 3]
