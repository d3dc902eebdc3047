"""The training commands, end to end on a handful of tiny generated scenes."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch', reason='training extras are not installed')

from training.checkpoint import find_checkpoint
from training.config import ConfigError, load_config
from training.data import scenes
from training.evaluate import evaluate_network, headline
from training.evaluate import main as evaluate_main
from training.export import card, export, load_network, load_run, read_metrics, round_weights
from training.train import NonFiniteLossError, learning_rate, train

CONFIG = Path(__file__).parents[1] / 'training' / 'configs' / 'demo.yaml'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Six training and two validation scenes of 160x96 pixels in BDD100K layout."""
    root = tmp_path_factory.mktemp('scenes')
    arguments = ['--train', '6', '--val', '2', '--width', '160', '--height', '96']
    assert scenes.main(['--output', str(root), *arguments, '--workers', '1']) == 0
    return root


def tiny(data: Path, output: Path, *overrides: str):
    return load_config(
        CONFIG,
        [
            f'output={output}',
            f'data=[{{name: scenes, root: "{data}"}}]',
            'precision=32-true',
            'accelerator=cpu',
            'workers=0',
            'optimizer.steps=4',
            'optimizer.batch_size=2',
            'optimizer.warmup_steps=2',
            'checkpoint_every=2',
            'augment.height=64',
            'augment.width=96',
            'augment.input_height=64',
            'augment.input_width=96',
            *overrides,
        ],
    )


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    output = tmp_path_factory.mktemp('run')
    train(tiny(data, output, 'validate_every=4', 'validate_images=1'))
    return output


@pytest.fixture(scope='module')
def bundle(run, tmp_path_factory):
    """The run as a bundle; exporting takes some 15 s of a core, so once for all tests."""
    return export(run, tmp_path_factory.mktemp('models') / 'tiny')


def losses(output: Path) -> list[list[str]]:
    rows = (output / 'losses.csv').read_text().splitlines()[1:]
    return [[cell for i, cell in enumerate(row.split(',')) if i != 1] for row in rows]


def test_a_killed_run_goes_on_as_if_it_had_not_been(data, run, tmp_path):
    config = tiny(data, tmp_path)
    config.checkpoint_every = 2

    class Killed(Exception):
        pass

    def kill_after(step, lr=learning_rate):
        def stop(at, opt):
            if at == step:
                raise Killed
            return lr(at, opt)

        return stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr('training.train.learning_rate', kill_after(3))
        train(config)
    assert json.loads((tmp_path / 'checkpoint/state.json').read_text())['step'] == 2
    train(config)
    rows = losses(tmp_path)
    assert rows[:2] + rows[-2:] == losses(run)  # the step lost to the kill is done again


def test_run_folder_holds_what_a_person_needs(run):
    assert len(losses(run)) == 4
    validation = json.loads((run / 'validation.jsonl').read_text().splitlines()[-1])
    assert validation['step'] == 4 and any('semantic' in key for key in validation)


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


def test_unknown_configuration_key_is_named(data, tmp_path):
    with pytest.raises(ConfigError, match='lrr'):
        tiny(data, tmp_path, 'optimizer.lrr=1')


def test_unknown_task_is_named(data, tmp_path):
    with pytest.raises(ConfigError, match='lanes'):
        train(tiny(data, tmp_path, 'tasks=[lanes]'))
