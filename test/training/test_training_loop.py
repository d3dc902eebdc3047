# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The parts of the loop: configuration, schedule, average, choice of the best, checkpoints."""

import json
import os
import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from torch import nn  # noqa: E402

from training.board import Board, Speed  # noqa: E402
from training.checkpoint import (  # noqa: E402
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from training.config import (  # noqa: E402
    ConfigError,
    OptimizerConfig,
    StageConfig,
    differences,
    load_config,
    save_config,
)
from training.networks.build import build_network  # noqa: E402
from training.networks.sharing.cross_stitch import Stitch  # noqa: E402
from training.optimizer import learning_rate, parameter_groups, update_ema  # noqa: E402
from training.selection import score  # noqa: E402
from training.train import sizes_are_fixed  # noqa: E402
from training.unread import StepRecord  # noqa: E402

CONFIGS = Path(__file__).parents[2] / 'training' / 'configs'
REQUIRED = 'name: a\noutput: out\ntasks: [weather]\ndata: [{name: d, root: r}]\n'


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / 'config.yaml'
    path.write_text(REQUIRED)
    return path


def test_a_file_says_only_what_it_has_otherwise_than_its_base(tmp_path, config_file):
    (tmp_path / 'big.yaml').write_text('base: config.yaml\noptimizer: {steps: 7}\n')
    (tmp_path / 'bigger.yaml').write_text('base: big.yaml\nname: b\n')

    config = load_config(tmp_path / 'bigger.yaml', ['seed=3'])

    assert (config.name, config.tasks, config.seed) == ('b', ['weather'], 3)
    assert config.optimizer.steps == 7 and config.optimizer.lr == OptimizerConfig().lr


def test_a_base_that_is_missing_or_in_a_circle_is_named(tmp_path, config_file):
    (tmp_path / 'one.yaml').write_text('base: two.yaml\n')
    with pytest.raises(ConfigError, match=r'one\.yaml: base .two\.yaml. is not there'):
        load_config(tmp_path / 'one.yaml')
    (tmp_path / 'two.yaml').write_text('base: one.yaml\n')
    with pytest.raises(ConfigError, match='circle'):
        load_config(tmp_path / 'one.yaml')


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('optimizer.accumulate=3', 'batch_size 16 does not divide'),
        ('optimizer.accumulate=0', 'batch_size 16 does not divide'),
        ('batch_norm=global', "batch_norm: 'global', expected one of"),
        ('precision=fp8', "precision: 'fp8', expected one of"),
        ('validate_split=test', 'test labels'),
        ('validate_every=0', 'validate_every: expected at least 1, found 0'),
        ('checkpoint_every=0', 'checkpoint_every: expected at least 1'),
        ('log_every=0', 'log_every: expected at least 1'),
        ('validate_images=-1', 'validate_images: expected at least 1, found -1'),
        ('augment.height=0', r'augment\.height: expected at least 1'),
        ('tasks=[]', 'tasks: expected at least one'),
        ('tasks=[weather,weather]', 'tasks: each name once'),
        ('network.own_neck=[semantc]', r"own_neck: unknown \['semantc'\].*\['weather'\]"),
        ('loss_weights.semantc=50', r"loss_weights: unknown \['semantc'\], expected some of"),
        ('data=[{name: d, root: r},{name: d, root: s}]', r"data: each name once.*\['d', 'd'\]"),
        ('data=[{name: d/e, root: r}]', r"no / in the names \['d/e'\]"),
    ],
)
def test_values_that_do_not_go_together_are_refused(config_file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(config_file, [override])


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('data.0.weight=0', r"config\.yaml: data: expected a list, found keys.*'data=\[\.\.\.\]'"),
        ('best_by[0]=a', 'best_by: expected a list, found keys'),
        ('network.sharing=[hard]', r'network\.sharing: expected keys, found a list'),
        ('tasks=[', r"overrides \['tasks=\['\]: a value is no YAML"),
    ],
)
def test_overrides_of_another_form_are_refused(config_file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(config_file, [override])


def test_an_override_without_a_value_is_no_text(config_file):
    assert load_config(config_file, ['network.init_from=']).network.init_from == ''
    with pytest.raises(ConfigError, match=r'optimizer\.steps'):
        load_config(config_file, ['optimizer.steps='])


def test_a_file_whose_base_has_another_form_is_refused(tmp_path, config_file):
    (tmp_path / 'keys.yaml').write_text('base: config.yaml\ndata: {name: d}\n')
    with pytest.raises(ConfigError, match=r'keys\.yaml: data: expected a list, found keys'):
        load_config(tmp_path / 'keys.yaml')


def test_what_changed_since_the_interruption_is_listed(tmp_path, config_file):
    save_config(load_config(config_file), tmp_path / 'saved.yaml')
    assert differences(tmp_path / 'saved.yaml', load_config(config_file)) == []
    changed = load_config(config_file, ['optimizer.steps=9', 'data=[{name: e, root: r}]'])
    found = differences(tmp_path / 'saved.yaml', changed)
    assert found == ['data.0.name: d -> e', 'optimizer.steps: 8000 -> 9']


def test_learning_rate_warms_up_and_decays():
    config = OptimizerConfig(steps=100, lr=1.0, warmup_steps=10, final_lr_ratio=0.1)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and max(rates) == 1.0
    assert rates[55] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)


def test_average_of_frozen_weights_is_those_weights():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    ema = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    ema.load_state_dict(network.state_dict())
    before = {name: value.clone() for name, value in ema.state_dict().items()}
    with torch.no_grad():
        network[1].weight += 1
    network[1].num_batches_tracked += 5
    for step in (0, 1000):
        update_ema(ema, network, 0.99, step)
    assert torch.equal(ema[0].weight, before['0.weight'])
    assert torch.equal(ema[0].bias, before['0.bias'])
    # 0.9 of the way at step 0 (decay warms up), then 0.01 of the rest.
    assert torch.allclose(ema[1].weight, torch.full((8,), 1 + 0.9 + 0.01 * 0.1))
    assert ema[1].num_batches_tracked == 5


def test_frozen_parameters_are_not_optimised():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    groups = parameter_groups(network, OptimizerConfig(weight_decay=0.1))
    assert groups[0]['params'] == [network[1].weight] and groups[0]['weight_decay'] == 0.1
    assert groups[1]['params'] == [network[1].bias] and groups[1]['weight_decay'] == 0


@pytest.mark.parametrize(('second', 'fixed'), [({'weather', 'scene'}, True), ({'scene'}, False)])
def test_sizes_are_fixed_where_every_image_is_labelled_for_every_task(second, fixed):
    class Labels(list):
        tasks = list.__getitem__

    layouts = [Labels([{'weather', 'scene'}]), Labels([{'weather', 'scene', 'lane'}, second])]
    assert sizes_are_fixed(layouts, ['weather', 'scene']) == fixed


class TinyPyramid(nn.Module):
    """Four levels that depend on each other, as a trunk's."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(4))

    def forward(self, image):
        levels = []
        for stage in self.stages:
            image = stage(image)
            levels.append(image)
        return levels


def test_the_trunk_learns_slower_and_its_first_stages_slowest():
    network = nn.Module()
    network.trunk, network.head = TinyPyramid(), nn.Linear(2, 2)
    groups = parameter_groups(network, OptimizerConfig(trunk_lr=0.5, layer_decay=0.8))
    scales = {id(p): group['lr_scale'] for group in groups for p in group['params']}
    assert len(scales) == len(list(network.parameters()))
    assert scales[id(network.head.weight)] == 1
    stages = [scales[id(stage.weight)] for stage in network.trunk.stages]
    assert stages == pytest.approx([0.5 * 0.8**3, 0.5 * 0.8**2, 0.5 * 0.8, 0.5])


def test_mixing_weights_do_not_decay():
    stitch = Stitch(1, 2, 0.9)
    groups = parameter_groups(stitch, OptimizerConfig(weight_decay=0.1))
    assert [group['weight_decay'] for group in groups] == [0]


def test_stages_change_the_augmentation_by_step(config_file):
    config = replace(
        load_config(config_file),
        stages=[StageConfig(0.25, {'height': 64, 'width': 96}), StageConfig(0.75, {'mosaic': 0.5})],
    )
    ends = [(end, augment.height, augment.mosaic) for end, augment in config.augment_stages()]
    steps, height = config.optimizer.steps, config.augment.height
    assert ends == [(steps // 4, 64, 0), (steps * 3 // 4, height, 0.5), (steps, height, 0)]
    with pytest.raises(ConfigError, match=r'stages\[1\]\.until'):
        replace(config, stages=[StageConfig(0.5), StageConfig(0.4)]).check()
    with pytest.raises(ConfigError, match='heigth'):
        replace(config, stages=[StageConfig(0.5, {'heigth': 3})]).check()


FIGURES = {
    'camvid/detection/AP50': 0.4, 'camvid/detection/AP': 0.2, 'camvid/semantic/miou': 0.6,
    'idd/semantic/miou': 0.2, 'idd/drivable/two_class_miou': 0.9,
}  # fmt: skip


def test_by_default_tasks_count_alike_whatever_number_of_sources_labels_them():
    assert score(FIGURES, []) == pytest.approx((0.4 + (0.6 + 0.2) / 2 + 0.9) / 3)


def test_named_figures_choose_the_best():
    assert score(FIGURES, ['*/semantic/miou']) == pytest.approx(0.4)
    assert score(FIGURES, ['idd/*', 'camvid/detection/AP']) == pytest.approx((0.2 + 0.9 + 0.2) / 3)
    with pytest.raises(ConfigError, match=r'\*/lane/miou'):
        score(FIGURES, ['*/lane/miou'])
    with pytest.raises(ConfigError, match='no figure'):
        score({}, [])


@pytest.fixture
def trained():
    """A network, its average and an optimizer with state."""
    torch.manual_seed(0)
    network = nn.Linear(300, 300)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 300)).sum().backward()
    optimizer.step()
    return network, nn.Linear(300, 300), optimizer


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, trained):
    folder = tmp_path / 'checkpoint'
    save_checkpoint(folder, *trained, {'step': 1})
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r'step 2 cannot be saved.*intact, of step 1'):
            save_checkpoint(folder, *trained, {'step': 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert [path.name for path in tmp_path.iterdir()] == ['checkpoint']
    assert load_checkpoint(folder, *trained)['step'] == 1


@pytest.mark.parametrize('renames', [0, 1])
def test_a_kill_between_two_renames_leaves_a_whole_checkpoint(
    tmp_path, trained, monkeypatch, renames
):
    folder = tmp_path / 'checkpoint'
    save_checkpoint(folder, *trained, {'step': 1})
    calls = []

    def rename(self, target, real=os.rename):
        if len(calls) == renames:
            raise KeyboardInterrupt
        calls.append(target)
        real(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('pathlib.Path.rename', rename)
        save_checkpoint(folder, *trained, {'step': 2})
    found = find_checkpoint(folder)
    assert found and read_state(found)['step'] == 1
    save_checkpoint(folder, *trained, {'step': 3})
    assert read_state(folder)['step'] == 3


def test_a_checkpoint_of_another_network_is_refused(tmp_path, trained):
    save_checkpoint(tmp_path / 'checkpoint', *trained, {'step': 1})
    other = nn.Linear(300, 2)
    with pytest.raises(CheckpointError, match='does not fit this network'):
        load_checkpoint(tmp_path / 'checkpoint', other, other, torch.optim.AdamW([other.weight]))


def test_a_fused_step_goes_on_with_kernels_that_are_channels_last(tmp_path):
    """It walks through memory: moments that were laid out otherwise would be those of others."""

    def stepped(steps, resume=None):
        torch.manual_seed(0)
        network = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
        if resume:
            load_checkpoint(resume, network, network, optimizer)
        for step in steps:
            optimizer.zero_grad()
            factors = torch.arange(288.0).view(8, 4, 3, 3) - 99 * step
            (network.weight * factors).sin().sum().backward()
            optimizer.step()
        return network, network, optimizer

    save_checkpoint(tmp_path / 'checkpoint', *stepped([0, 1]), {'step': 2})
    resumed, _, _ = stepped([2, 3], tmp_path / 'checkpoint')
    whole, _, _ = stepped([0, 1, 2, 3])
    assert torch.equal(resumed.weight, whole.weight)


def without_names(folder):
    """As earlier versions wrote it."""
    state = read_state(folder)
    del state['parameters']
    (folder / 'state.json').write_text(json.dumps(state))


def test_an_optimizer_state_of_more_parameters_is_refused(tmp_path, trained):
    """As when stages are frozen that were trained before."""
    network, ema, optimizer = trained
    save_checkpoint(tmp_path / 'checkpoint', network, ema, optimizer, {'step': 1})
    fewer = torch.optim.AdamW([network.weight], lr=1.0)
    with pytest.raises(CheckpointError, match=r'trained 2 parameters, .*number 1, bias there'):
        load_checkpoint(tmp_path / 'checkpoint', network, ema, fewer)
    without_names(tmp_path / 'checkpoint')
    with pytest.raises(CheckpointError, match=r'state of parameter 1, this run trains 1'):
        load_checkpoint(tmp_path / 'checkpoint', network, ema, fewer)


def test_moments_of_other_parameters_are_refused(tmp_path):
    """As when stages are trained that were frozen before: the numbers are those of others."""

    def adamw(network, layers):
        optimizer = torch.optim.AdamW([p for i in layers for p in network[i].parameters()])
        network(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        return network, network, optimizer

    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    folder = tmp_path / 'checkpoint'
    save_checkpoint(folder, *adamw(network, [2]), {'step': 1})
    with pytest.raises(CheckpointError, match=r'number 0, 2\.weight there and 1\.weight here'):
        load_checkpoint(folder, *adamw(network, [1, 2]))
    without_names(folder)
    with pytest.raises(CheckpointError, match=r'exp_avg.* of parameter 0 has shape \[3, 3\]'):
        load_checkpoint(folder, *adamw(network, [0, 1, 2]))


def test_a_cut_off_checkpoint_is_refused(tmp_path, trained):
    folder = tmp_path / 'checkpoint'
    save_checkpoint(folder, *trained, {'step': 1})
    path = folder / 'network.safetensors'
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r'network\.safetensors cannot be read'):
        load_checkpoint(folder, *trained)


def test_checkpoints_of_earlier_versions_load(tmp_path, trained):
    """Their state has no best score, no scaler, no names; `fit` fills in what is missing."""
    folder = tmp_path / 'checkpoint'
    save_checkpoint(folder, *trained, {'step': 5, 'seconds': 1.0, 'validation': {}})
    without_names(folder)
    assert load_checkpoint(folder, *trained) == {'step': 5, 'seconds': 1.0, 'validation': {}}


def board(config_file, output, step):
    state = {'step': step, 'seconds': 0.0, 'validation': {}, 'validation_due': False}
    return Board(load_config(config_file), output, state, torch.device('cpu'))


def test_steps_after_the_last_checkpoint_are_written_once(tmp_path, config_file):
    with board(config_file, tmp_path, 0) as first:
        for step in range(4):
            first.speed.ask()
            first.speed.receive()
            first.step(StepRecord(step, {'weather': step / 10}, 1.0, 1e-3, time.monotonic()))
            first.speed.finish()
    with (tmp_path / 'losses.csv').open('a') as file:
        file.write('4,0.')  # cut off by a kill
    with board(config_file, tmp_path, 2):
        pass
    rows = (tmp_path / 'losses.csv').read_text().splitlines()
    assert [row.split(',')[0] for row in rows] == ['step', '0', '1']


def test_speed_knows_the_time_that_data_were_waited_for(monkeypatch):
    now = [0.0]
    monkeypatch.setattr('training.board.time.monotonic', lambda: now[0])
    speed = Speed(batch_size=8)
    assert speed.values() == {}
    for _ in range(10):
        speed.ask()
        now[0] += 0.1
        speed.receive()
        now[0] += 0.3
        speed.finish()
        now[0] += 100  # validation
    assert speed.values() == {'images_per_s': 20.0, 'step_ms': 400.0, 'data_wait_share': 0.25}


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.yaml')), ids=lambda path: path.stem)
def test_every_configuration_describes_a_network(path):
    config = load_config(path)
    network = build_network(config.network, config.task_table(), initialise=False)
    assert [task.name for task in network.tasks] == config.tasks
    assert set(config.loss_weights) <= set(config.tasks)
    named = {pattern.split('/')[0] for pattern in config.best_by}
    assert named <= {layout.name for layout in config.data} | {'*'}
    for further in ('devices=8', 'devices=1'):
        load_config(path, [further])


def test_bdd100k_lies_where_the_environment_says(monkeypatch):
    monkeypatch.setenv('BDD100K', '/data/bdd100k')
    config = load_config(CONFIGS / 'bdd100k_b2.yaml')
    assert {layout.root for layout in config.data} == {'/data/bdd100k'}


def test_committed_bundles_are_small_enough_to_be_cloned():
    for manifest in (CONFIGS.parents[1] / 'models').glob('*/manifest.yaml'):
        size = sum(path.stat().st_size for path in manifest.parent.iterdir())
        assert size <= 25e6, f'{manifest.parent.name}: {size / 1e6:.1f} MB'
