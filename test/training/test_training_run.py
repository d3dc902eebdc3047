# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The training commands, end to end on a handful of tiny generated scenes."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')

from safetensors.torch import load_file  # noqa: E402
from tensorboard.backend.event_processing import event_accumulator  # noqa: E402
from tiny_training import CONFIG, ROOT, tiny_overrides, tiny_scenes  # noqa: E402

from training.board import WARM_STEPS  # noqa: E402
from training.checkpoint import CheckpointError, find_checkpoint, read_state  # noqa: E402
from training.config import ConfigError, load_config  # noqa: E402
from training.data.sample import DatasetError  # noqa: E402
from training.evaluate import evaluate_network, headline  # noqa: E402
from training.evaluate import main as evaluate_main  # noqa: E402
from training.export import (  # noqa: E402
    export,
    load_network,
    load_run,
    round_weights,
)
from training.model_card import card, read_metrics  # noqa: E402
from training.train import NonFiniteLossError, train  # noqa: E402

VALIDATED = ('validate_every=4', 'validate_images=1')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return tiny_scenes(tmp_path_factory.mktemp('scenes'), 6, 2)


def run_overrides(data: Path, output: Path, *more: str) -> list[str]:
    optimizer = '{steps: 8, batch_size: 2, accumulate: 2, warmup_steps: 2}'
    return tiny_overrides(data, f'output={output}', f'optimizer={optimizer}', *more)


def tiny(data: Path, output: Path, *overrides: str):
    return load_config(CONFIG, run_overrides(data, output, *overrides))


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    output = tmp_path_factory.mktemp('run')
    train(tiny(data, output, *VALIDATED))
    return output


@pytest.fixture(scope='module')
def bundle(run, tmp_path_factory):
    """The run as a bundle; exporting takes some 15 s of a core, so once for all tests."""
    return export(run, tmp_path_factory.mktemp('models') / 'tiny')


def losses(output: Path) -> list[list[str]]:
    rows = (output / 'losses.csv').read_text().splitlines()[1:]
    return [[cell for i, cell in enumerate(row.split(',')) if i != 1] for row in rows]


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(data, run, tmp_path):
    """Killed for good (SIGKILL) and begun anew: the same losses, the same state bit for bit."""
    overrides = run_overrides(data, tmp_path, *VALIDATED)
    process = subprocess.Popen(
        [sys.executable, '-m', 'training.train', str(CONFIG), *overrides],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    state = tmp_path / 'checkpoint/state.json'
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors.decode()[-2000:]
    begun = find_checkpoint(tmp_path / 'checkpoint')
    assert begun and 2 <= read_state(begun)['step'] < 8

    train(load_config(CONFIG, overrides))

    assert losses(tmp_path) == losses(run)
    for name in ('network', 'ema', 'optimizer'):
        expected = load_file(run / f'checkpoint/{name}.safetensors')
        found = load_file(tmp_path / f'checkpoint/{name}.safetensors')
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(found[key], tensor), f'{name}: {key}'
    best = [read_state(folder / 'best') | {'seconds': 0} for folder in (tmp_path, run)]
    assert best[0] == best[1]


@pytest.mark.parametrize('killed', ['validation_results', 'save_state'])
def test_a_killed_validation_costs_no_step_and_is_made_up_for(
    data, run, tmp_path, monkeypatch, killed
):
    """Killed at its begin and at its end: figures and choice come out as without that."""
    config = tiny(data, tmp_path, *VALIDATED)

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f'training.train.{killed}', kill)
        train(config)
    assert read_state(tmp_path / 'checkpoint')['step'] == 4

    train(config)

    assert losses(tmp_path) == losses(run)
    name = 'validation.jsonl'
    assert (tmp_path / name).read_text() == (run / name).read_text()
    for folder in ('checkpoint', 'best'):
        found, expected = (read_state(output / folder) for output in (tmp_path, run))
        assert found | {'seconds': 0} == expected | {'seconds': 0}


def test_run_folder_holds_what_a_person_needs(run):
    assert [row[0] for row in losses(run)] == [str(step) for step in range(8)]
    lines = (run / 'validation.jsonl').read_text().splitlines()
    validations = [json.loads(line) for line in lines]
    assert [validation['step'] for validation in validations] == [4, 8]
    assert all('scenes/semantic/miou' in validation for validation in validations)
    speed = json.loads((run / 'speed.json').read_text())
    assert speed['steps'] == 8 - WARM_STEPS and speed['batch_size'] == 2
    assert speed['images_per_s'] == pytest.approx(2e3 / speed['step_ms'], rel=0.05)
    assert 0 < speed['data_wait_share'] < 1 and speed['peak_memory_mb'] > 100


def test_tensorboard_shows_losses_validation_and_speed(run):
    events = event_accumulator.EventAccumulator(str(run / 'tensorboard')).Reload()
    scalars = set(events.Tags()['scalars'])
    assert {'loss/semantic', 'optimizer/lr', 'optimizer/gradient_norm'} <= scalars
    assert {'val/scenes/semantic/miou', 'val/score', 'speed/data_wait_share'} <= scalars
    assert [event.step for event in events.Scalars('loss/semantic')] == [2, 4, 6, 8]


def test_best_holds_the_weights_of_the_best_validation(run):
    lines = (run / 'validation.jsonl').read_text().splitlines()
    best = max(map(json.loads, lines), key=lambda validation: validation['score'])
    state = read_state(run / 'best')
    assert state['step'] == best['step'] and state['best'] == best['score']
    assert not (run / 'best' / 'optimizer.safetensors').exists()


def test_export_writes_a_bundle_whose_formats_hold_the_same_weights(run, bundle):
    import onnxruntime
    import torch

    from training.networks.hydranet import DeployedHydraNet

    network, _, _ = load_run(run)
    round_weights(network)
    restored = load_network(bundle)
    for name, tensor in network.state_dict().items():
        assert torch.equal(restored.state_dict()[name], tensor), name

    image = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    with torch.no_grad():
        expected = DeployedHydraNet(network)(torch.from_numpy(image))
    session = onnxruntime.InferenceSession(str(bundle.file('model.onnx')))
    found = dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {'image': image}),
            strict=True,
        )
    )
    for spec in bundle.manifest.outputs:
        assert found[spec.name].shape == (2, *spec.shape)
        assert str(found[spec.name].dtype) == spec.dtype
    for name in ('semantic', 'drivable', 'weather'):
        np.testing.assert_allclose(found[name], expected[name].numpy(), atol=2e-4)
    np.testing.assert_allclose(found['scores'], expected['scores'].numpy(), atol=1e-5)


def test_evaluate_command_writes_the_numbers_that_a_bundle_carries(run, bundle, tmp_path, capsys):
    found = tmp_path / 'metrics.json'
    command = [str(bundle.path), '--config', str(run / 'config.yaml'), '--json', str(found)]
    assert evaluate_main([*command, '--engine', 'onnxruntime']) == 0
    assert 'scenes/semantic/miou' in capsys.readouterr().out
    record = json.loads(found.read_text())
    assert record['bundle_hash'] == bundle.hash and record['environment']['packages']['torch']
    assert record['results']['scenes']['images'] == 2
    (metric,) = read_metrics(found)
    expected = record['results']['scenes']['semantic']['miou']
    assert metric.values['semantic/miou'] == pytest.approx(expected, abs=1e-4)
    network, config, state = load_run(run)
    text = card('tiny', network, config, state, [metric], 'A test.')
    assert f'| semantic/miou | {metric.values["semantic/miou"]:g} |' in text


def test_evaluation_takes_the_deployed_path(run):
    network, config, _ = load_run(run)
    values = headline(evaluate_network(network, config, 'val'))
    assert 0 <= values['scenes/drivable/miou'] <= 1
    assert {'scenes/weather/accuracy', 'scenes/detection/AP50'} <= set(values)


def test_nan_loss_stops_and_keeps_the_checkpoint(data, tmp_path):
    config = tiny(data, tmp_path, 'optimizer.lr=1e30', 'optimizer.steps=6', 'checkpoint_every=1')
    config.optimizer.clip_norm = 1e30
    with pytest.raises(NonFiniteLossError, match='step'):
        train(config)
    assert find_checkpoint(tmp_path / 'checkpoint') is not None


def test_a_validation_of_a_diverged_network_says_step_losses_and_draws(data, tmp_path):
    more = ('optimizer.lr=1e9', 'optimizer.warmup_steps=0', 'validate_every=1', 'validate_images=1')
    with pytest.raises(NonFiniteLossError, match=r'losses \{.*validated after it: .*look at draws'):
        train(tiny(data, tmp_path, *more))


def test_unknown_configuration_key_is_named(data, tmp_path):
    with pytest.raises(ConfigError, match=r"Key 'lrr'.*Did you mean: 'lr'"):
        tiny(data, tmp_path, 'optimizer.lrr=1')


def test_unknown_task_is_named(data, tmp_path):
    with pytest.raises(ConfigError, match='lanes'):
        train(tiny(data, tmp_path, 'tasks=[lanes]'))


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('validate_split=night', 'no images'),
        ('best_by=[scenes/semantic/mIoU]', 'matches no figure'),
        ("tasks=[semantic] best_by=['*/detection/AP50']", 'matches no figure'),
    ],
)
def test_what_cannot_be_validated_is_found_before_the_first_step(data, tmp_path, override, message):
    with pytest.raises((ConfigError, DatasetError), match=message):
        train(tiny(data, tmp_path, *VALIDATED, *override.split()))
    assert not (tmp_path / 'losses.csv').exists()


def test_another_network_in_a_run_folder_is_refused_and_changes_nothing(data, run):
    before = {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}
    with pytest.raises(CheckpointError, match='does not fit this network'):
        train(tiny(data, run, 'network.neck_channels=32', 'optimizer.steps=9'))
    assert before == {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}


def test_what_a_resumed_run_has_otherwise_is_said(data, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / 'run')
    train(tiny(data, tmp_path / 'run', 'optimizer.steps=9', 'validate_every=9999'))
    text = capsys.readouterr().out
    assert 'resuming' in text and 'optimizer.steps: 8 -> 9' in text
    assert [row[0] for row in losses(tmp_path / 'run')] == [str(step) for step in range(9)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('precision', ['16-mixed', 'bf16-mixed'])
def test_a_gpu_trains_and_goes_on_with_its_loss_scale(data, tmp_path, precision):
    options = (f'precision={precision}', 'accelerator=cuda', 'network.drop_path_rate=0')
    train(tiny(data, tmp_path / 'whole', *options))
    train(tiny(data, tmp_path / 'cut', *options, 'optimizer.steps=4'))
    train(tiny(data, tmp_path / 'cut', *options, 'optimizer.steps=8'))
    whole, cut = (
        read_state(tmp_path / name / 'checkpoint')['precision'] for name in ('whole', 'cut')
    )
    assert bool(whole) == (precision == '16-mixed') and whole.get('scale') == cut.get('scale')
    speed = json.loads((tmp_path / 'whole/speed.json').read_text())
    assert speed['device'].startswith('cuda') and speed['peak_memory_mb'] > 10
