# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Training that begins with a whole bundle or run: what is taken over, what is fresh, refusals."""

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')

from dataclasses import replace  # noqa: E402

from safetensors.torch import load_file  # noqa: E402
from tiny_training import CONFIG, tiny_overrides, tiny_scenes  # noqa: E402

from mtl_perception.tasks import DETECTION, DRIVABLE, WEATHER  # noqa: E402
from training.config import ConfigError, load_config  # noqa: E402
from training.export import export, load_run  # noqa: E402
from training.initial_weights import start_from  # noqa: E402
from training.networks.build import build_network  # noqa: E402
from training.train import main, train  # noqa: E402

NETWORK = 'network={trunk: resnet10t, neck_channels: 16}'
STEPS = 'optimizer={steps: 1, batch_size: 2, warmup_steps: 1}'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return tiny_scenes(tmp_path_factory.mktemp('scenes'), 2, 1)


def tiny(data, output, *more):
    return load_config(CONFIG, tiny_overrides(data, f'output={output}', NETWORK, STEPS, *more))


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    """Three tasks, one step, nothing validated."""
    output = tmp_path_factory.mktemp('run')
    train(tiny(data, output, 'tasks=[drivable,detection,weather]', 'validate_every=9'))
    return output


@pytest.fixture(scope='module')
def bundle(run, tmp_path_factory):
    return export(run, tmp_path_factory.mktemp('models') / 'tiny', program=False).path


def begun(config, tasks):
    torch.manual_seed(5)
    network = build_network(config, tasks)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return network, before, start_from(network, config)


def test_a_run_gives_every_tensor_of_its_tasks(data, run, tmp_path):
    config = replace(tiny(data, tmp_path).network, init_from=str(run))
    network, _, lines = begun(config, (DRIVABLE, WEATHER))

    trained = load_file(run / 'checkpoint/ema.safetensors')
    found = network.state_dict()
    assert all(torch.equal(found[name], trained[name]) for name in found)
    assert lines == ['head drivable: taken over', 'head weather: taken over']


def test_a_bundle_gives_its_tensors_and_other_heads_start_fresh(data, bundle, tmp_path):
    config = replace(tiny(data, tmp_path).network, init_from=str(bundle))
    fewer = replace(DETECTION, classes=DETECTION.classes[:4], colours=())
    other = replace(DRIVABLE, name='own_road')
    network, before, lines = begun(config, (DRIVABLE, fewer, other))

    stored = load_file(bundle / 'weights.safetensors')
    found = network.state_dict()
    taken = {name for name in found if name in stored and found[name].shape == stored[name].shape}
    assert all(torch.equal(found[name], stored[name].to(found[name].dtype)) for name in taken)
    assert all(torch.equal(found[name], before[name]) for name in found.keys() - taken)
    assert {name for name in found if not name.startswith('heads.')} <= taken
    assert lines[0] == 'head drivable: taken over'
    assert lines[1].startswith('head detection: ') and 'tensors are taken over; fresh: ' in lines[1]
    assert lines[2] == 'head own_road: starts fresh'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'trunk': 'resnet18'}, "network.trunk is 'resnet10t', here 'resnet18'"),
        ({'neck_channels': 32}, 'network.neck_channels is 16, here 32'),
        ({'neck': 'bifpn'}, "network.neck is 'fpn', here 'bifpn'"),
        ({'architecture': 'yolop'}, "network.architecture is 'hydranet', here 'yolop'"),
        ({'sharing': {'name': 'cross_stitch'}}, 'network.sharing is'),
    ],
)
def test_a_model_of_another_architecture_is_refused(data, bundle, tmp_path, change, message):
    config = replace(tiny(data, tmp_path).network, init_from=str(bundle))
    network = build_network(config, (WEATHER,))
    with pytest.raises(ConfigError, match=message):
        start_from(network, replace(config, **change))


def test_a_model_that_is_not_there_or_damaged_is_refused(data, bundle, tmp_path):
    config = replace(tiny(data, tmp_path).network, init_from='no_such_model')
    network = build_network(config, (WEATHER,))
    with pytest.raises(ConfigError, match="'no_such_model' is neither a run folder"):
        start_from(network, config)
    changed = tmp_path / 'changed'
    changed.mkdir()
    for file in bundle.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    (changed / 'weights.safetensors').write_bytes(b'other weights')
    with pytest.raises(ConfigError, match=r'weights\.safetensors'):
        start_from(network, replace(config, init_from=str(changed)))


def test_two_origins_of_the_trunk_are_refused(data, tmp_path):
    with pytest.raises(ConfigError, match=r"init_from 'x' gives .* set network\.pretrained=false"):
        tiny(data, tmp_path, 'network.init_from=x', 'network.pretrained=true')


def test_training_begins_with_the_model_and_says_which_heads_are_fresh(
    data, run, tmp_path, capsys, monkeypatch
):
    """Learning rate 0: what is saved is what the run began with. A resumed run loads nothing."""
    more = ('tasks=[drivable,timeofday]', 'validate_every=9', f'network.init_from={run}')
    overrides = tiny_overrides(data, f'output={tmp_path}', NETWORK, STEPS, *more)
    assert main([str(CONFIG), *overrides, 'optimizer.lr=0']) == 0
    printed = capsys.readouterr().out
    assert f'{run}: head drivable: taken over' in printed
    assert f'{run}: head timeofday: starts fresh' in printed
    begun_with = load_file(run / 'checkpoint/ema.safetensors')
    network, _, _ = load_run(tmp_path)
    for name, parameter in network.named_parameters():
        if not name.startswith('heads.timeofday.'):
            assert torch.equal(parameter, begun_with[name]), name

    monkeypatch.setattr('training.train.start_from', None)  # would fail if it were called
    assert main([str(CONFIG), *overrides, 'optimizer.steps=2']) == 0
