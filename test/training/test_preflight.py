# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What is known before the first step ends a run before it, with the cause; endings of commands."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_data import CAR, HEIGHT, WIDTH, frame, picture, put, put_json, write_layout
from tiny_training import CONFIG, ROOT, SMALL, tiny_overrides

torch = pytest.importorskip('torch', reason='training extras are not installed')

from training.checkpoint import CheckpointError  # noqa: E402
from training.command import check_output, run  # noqa: E402
from training.config import ConfigError, load_config  # noqa: E402
from training.data import check  # noqa: E402
from training.data.layout import open_layouts  # noqa: E402
from training.data.sample import DatasetError  # noqa: E402
from training.export import export  # noqa: E402
from training.model_card import read_description, read_metrics  # noqa: E402
from training.network_error import NetworkError  # noqa: E402
from training.networks.weights import make_timm_body  # noqa: E402
from training.preflight import check_labels, check_sizes, check_validation  # noqa: E402
from training.train import NonFiniteLossError, train  # noqa: E402

LABELLED = 'tasks=[detection,drivable,weather]'


@pytest.fixture
def data(tmp_path) -> Path:
    root = write_layout(tmp_path / 'data')
    return write_layout(root, 2, 'val')


def tiny(data: Path, output: Path, *more: str):
    small = 'optimizer={steps: 1, batch_size: 2, warmup_steps: 1}'
    network = 'network={trunk: resnet10t, neck_channels: 16}'
    overrides = (f'output={output}', network, small, 'validate_every=1', LABELLED, *more)
    return load_config(CONFIG, tiny_overrides(data, *overrides))


# Labels


def test_a_task_without_a_label_is_refused_with_the_sources_that_lack_it(data, tmp_path):
    config = tiny(data, tmp_path / 'run', 'tasks=[detection,semantic,lane]')
    message = r"tasks: no training image is labelled for \['lane', 'semantic'\].*scenes \(train\)"
    with pytest.raises(ConfigError, match=message):
        train(config)
    assert not (tmp_path / 'run').exists()


def test_the_cause_is_named_where_there_is_one(data, tmp_path):
    put(data / 'labels/sem_seg/masks/train/other_train_id.png', np.zeros((9, 9), np.uint8))
    put_json(data / 'labels/lane/polygons/lane_train.json', [])
    config = tiny(data, tmp_path, 'tasks=[semantic]')
    layouts = open_layouts(config.data, 'train')
    with pytest.raises(ConfigError, match='none is named as an image; the first mask is'):
        check_labels(config, layouts)
    with pytest.raises(ConfigError, match=r'training\.data\.to_masks'):
        check_labels(replace(config, tasks=['lane']), layouts)
    check_labels(replace(config, tasks=['detection', 'drivable', 'weather']), layouts)


# Validation


def without(data: Path, kind: str) -> None:
    if kind == 'objects':
        put_json(data / 'labels/det_20/det_val.json', [frame('frame_0.jpg')])
    elif kind == 'boxes':
        (data / 'labels/det_20/det_val.json').unlink()
    elif kind == 'split':
        (data / 'images/100k/val').rename(data / 'images/100k/test')
    elif kind == 'classes':
        for path in (data / 'labels/drivable/masks/val').iterdir():
            put(path, np.full((HEIGHT, WIDTH), 255, np.uint8))
    elif kind == 'whole':
        path = data / 'images/100k/val/frame_0.jpg'
        path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    ('kind', 'task', 'error', 'message'),
    [
        ('objects', 'detection', ConfigError, 'labelled, but with nothing in it'),
        ('boxes', 'detection', ConfigError, r'scenes \(val\): no such labels'),
        ('classes', 'drivable', ConfigError, 'labelled, but with nothing in it'),
        ('split', 'drivable', DatasetError, 'no images'),
        ('whole', 'drivable', DatasetError, 'truncated JPEG'),
    ],
)
def test_a_split_that_measures_nothing_is_found_before_the_first_step(
    data, tmp_path, kind, task, error, message, capsys
):
    without(data, kind)
    config = tiny(data, tmp_path / 'run', f'tasks=[{task}]')
    with pytest.raises(error, match=message):
        check_validation(config)
    check_validation(replace(config, validate_every=9))
    path = tmp_path / 'my.yaml'
    path.write_text(f'base: {CONFIG}\n')
    from training.config import save_config

    save_config(config, path)
    assert check.main(['--config', str(path), '--workers', '1']) == 1
    assert 'BROKEN: training would not begin: 1' in capsys.readouterr().out


def test_tasks_that_cannot_be_validated_are_said_and_the_others_count(data, tmp_path, caplog):
    without(data, 'objects')
    config = tiny(data, tmp_path)
    check_validation(config)
    assert "2 images of 'val' that are validated: detection" in caplog.text
    with pytest.raises(ConfigError, match=r"'\*/detection/AP50' matches no figure; there can be"):
        check_validation(replace(config, best_by=['*/detection/AP50']))
    check_validation(replace(config, best_by=['scenes/drivable/miou', '*/two_class_miou']))


def test_another_validation_split_is_checked_like_the_usual_ones(data, tmp_path, capsys):
    for part in ('images/100k', 'labels/drivable/masks'):
        (data / part / 'val').rename(data / part / 'night')
    (data / 'labels/det_20/det_val.json').unlink()
    from training.config import save_config

    config = tiny(data, tmp_path / 'run', 'validate_split=night')
    save_config(config, tmp_path / 'my.yaml')
    assert check.main(['--config', str(tmp_path / 'my.yaml'), '--workers', '1']) == 0
    assert ' night ' in capsys.readouterr().out


# Sizes


@pytest.mark.parametrize('side', ['augment.height', 'augment.input_width'])
def test_sizes_that_no_network_takes_are_refused(data, tmp_path, side):
    for value in (16, 100_000, 10**12):
        with pytest.raises(ConfigError, match='expected 32 to 8192 pixels each'):
            tiny(data, tmp_path, f'{side}={value}')


def test_sizes_that_a_structure_cannot_take_are_named(data, tmp_path):
    config = tiny(data, tmp_path, 'network.sharing={name: mtan}', 'network.frozen_stages=1')
    check_sizes(config)
    odd = replace(config, augment=replace(config.augment, input_height=72))
    with pytest.raises(ConfigError, match=r'augment\.input_height and input_width: .* 72x96'):
        check_sizes(odd)


def test_a_letterbox_colour_that_is_none_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match='three values of 0 to 255'):
        tiny(data, tmp_path, 'augment.letterbox_colour=[0,0,999]')


# Diagnoses


def test_a_run_that_diverges_before_its_first_checkpoint_says_that_there_is_none(data, tmp_path):
    more = ('optimizer.lr=1e9', 'optimizer.clip_norm=1e9', 'optimizer.steps=6')
    config = tiny(data, tmp_path / 'run', *more, 'validate_every=99', 'checkpoint_every=6')
    with pytest.raises(NonFiniteLossError, match='no checkpoint had been made yet'):
        train(config)
    assert not (tmp_path / 'run/checkpoint').exists()


def test_resuming_with_other_tasks_names_the_key(data, tmp_path):
    train(tiny(data, tmp_path / 'run', 'validate_every=9'))
    other = tiny(data, tmp_path / 'run', 'validate_every=9', 'tasks=[detection,drivable]')
    message = r"tasks: \['detection', 'drivable', 'weather'\] -> \['detection', 'drivable'\]"
    with pytest.raises(CheckpointError, match=message):
        train(other)


@pytest.mark.parametrize('error', [OSError('no route'), RuntimeError('none for it')])
def test_weights_that_cannot_be_downloaded_name_the_ways_out(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr('training.networks.weights.timm.create_model', fail)
    with pytest.raises(NetworkError, match=r'pretrained: .*trunk_weights: FILE'):
        make_timm_body('resnet10t', True)
    with pytest.raises(type(error)):
        make_timm_body('resnet10t', False)


# Export


@pytest.mark.parametrize(
    'text', ['', '[]', '{}', '{"results": {"a": 3}}', '{"results": [1]}', '[' * 99_999,
             '{"split": "v", "command": "c", "results": {"a": {"images": 1e999999}}}'[:-2]],
)  # fmt: skip
def test_metrics_that_are_none_are_refused_before_the_export(data, tmp_path, text):
    path = tmp_path / 'metrics.json'
    for missing in (True, False):
        if not missing:
            path.write_text(text)
        with pytest.raises(ConfigError, match=r'--metrics: .*metrics\.json'):
            export(tmp_path / 'no_run', tmp_path / 'bundle', [path])
    assert not (tmp_path / 'bundle').exists()


def test_metrics_that_are_not_finite_are_left_out(tmp_path):
    path = tmp_path / 'metrics.json'
    values = '{"images": 2, "drivable": {"miou": NaN, "accuracy": 0.5, "frames": 2}}'
    path.write_text(f'{{"split": "val", "command": "c", "results": {{"s": {values}}}}}')
    (metric,) = read_metrics(path)
    assert metric.values == {'drivable/accuracy': 0.5, 'images': 2.0}


def test_figures_by_input_size_are_of_the_fp32_engine(tmp_path):
    path = tmp_path / 'rate.json'
    row = {'height': 192, 'width': 320, 'accuracy': {'detection AP': 17.25, 'lane miou': math.nan}}
    rows = [{**row, 'precision': 'bf16', 'accuracy': {'detection AP': 1.0}},
            {**row, 'precision': 'fp32'}]  # fmt: skip
    record = {'command': 'c', 'measured': rows, 'data': '9 images of F, val (labels)'}
    path.write_text(json.dumps(record))
    (metric,) = read_metrics(path)
    assert (metric.data, metric.split) == ('input 192x320', '9 images of F, val')
    assert metric.values == {'detection/AP': 0.1725}


def test_a_description_that_cannot_be_read_is_refused(tmp_path):
    assert read_description(None) == ''
    (tmp_path / 'latin.md').write_bytes(b'\xfc')
    for name in ('none.md', 'latin.md'):
        with pytest.raises(ConfigError, match=rf'--description: .*{name}'):
            read_description(tmp_path / name)


# Endings


def test_outputs_that_cannot_be_written_are_found_first(tmp_path):
    check_output('--json', None)
    check_output('--json', tmp_path / 'new/folder/a.json')
    assert not (tmp_path / 'new/folder/a.json').exists()
    with pytest.raises(OSError, match=f'--json: {tmp_path} is a folder'):
        check_output('--json', tmp_path)
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match=r'--json: .* cannot be written'):
        check_output('--json', tmp_path / 'file/a.json')


@pytest.mark.parametrize('value', ['0', '-3', 'abc', '1.5'])
def test_numbers_that_count_nothing_are_wrong_usage(value, capsys):
    with pytest.raises(SystemExit, match='2'):
        check.main(['folder', '--workers', value])
    message = 'expected at least 1' if value in ('0', '-3') else 'invalid whole number value'
    assert message in capsys.readouterr().err


ENDINGS = """
import sys
from training.command import run

def stopped(): raise KeyboardInterrupt
def full(): raise OSError(28, 'No space left on device')
def closed(): raise BrokenPipeError
def foreign(): '\\udcff'.encode()
def printed(): print('caf\\u00e9 \\udcff' * 9999); return 0

sys.exit(run(globals()[sys.argv[1]]))
"""


@pytest.mark.parametrize(
    ('ending', 'stdout', 'code', 'message'),
    [
        ('stopped', '/dev/null', 130, 'stopped'), ('closed', '/dev/null', 1, ''),
        ('full', '/dev/null', 1, 'No space left'), ('foreign', '/dev/null', 1, 'is not UTF-8'),
        ('printed', '/dev/null', 0, ''), ('printed', '/dev/full', 1, 'No space left'),
    ],
)  # fmt: skip
def test_no_ending_of_a_command_is_a_traceback(ending, stdout, code, message):
    environment = {**os.environ, 'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}
    with Path(stdout).open('w') as target:
        done = subprocess.run(
            [sys.executable, '-c', ENDINGS, ending], cwd=ROOT, env=environment, stdout=target,
            stderr=subprocess.PIPE, text=True, timeout=600, check=False,
        )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert 'Traceback' not in done.stderr and 'Exception ignored' not in done.stderr


def test_what_a_main_returns_is_the_exit_code():
    assert run(lambda: 0) == 0 and run(lambda: 2) == 2


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 1])
def test_ctrl_c_ends_a_training_without_a_traceback(data, tmp_path, workers):
    overrides = tiny_overrides(
        data, f'output={tmp_path / "run"}', *SMALL, LABELLED, 'optimizer.steps=100000',
        'optimizer.batch_size=2', 'log_every=1', f'workers={workers}', 'validate_every=1000000',
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, '-m', 'training.train', str(CONFIG), *overrides], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        # Tests that run in the background of a shell ignore it, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        for line in process.stdout:
            if line.startswith('step '):
                break
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the loader's workers too
        _, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert 'stopped' in errors and 'Traceback' not in errors


def test_paths_that_are_not_utf_8_are_read(tmp_path, capsys):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b'/d\xffta'))
    try:
        root.mkdir()
    except OSError:
        pytest.skip('this file system takes UTF-8 names only')
    put_bytes = picture(1)
    image = root / 'images/100k/train/a.jpg'
    image.parent.mkdir(parents=True)
    put(tmp_path / 'a.jpg', put_bytes).rename(image)
    put_json(root / 'labels/det_20/det_train.json', [frame('a.jpg', CAR)])
    done = subprocess.run(
        [sys.executable, '-m', 'training.data.check', os.fsencode(root), '--workers', '1'],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and '0 broken' in done.stdout, done.stderr
