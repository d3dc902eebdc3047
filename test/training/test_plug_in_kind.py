# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A kind of tasks in three files of a plug-in, one per package, goes the whole way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_data import picture, put, put_json
from tiny_training import CONFIG, SMALL

pytest.importorskip('torch', reason='training extras are not installed')

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FILES = {
    'mtl_perception.kinds': 'glow_vehicle',
    'mtl_evaluation.kinds': 'glow_evaluation',
    'training.tasks': 'glow_training',
}
"""By group of entry points: the whole plug-in."""

DRIVE = """
import sys
import numpy as np
from tiny_data import picture
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.truth.truth import Truth

with DriveWriter(sys.argv[1]) as writer:
    for i in range(40):
        truth = Truth(others={'glow': {'shine': i / 80}})
        writer.write_frame(10**18 + i * 10**8, EncodedImage(picture(i, 96, 64)), truth)
"""


def run(folder: Path, *words: object, fails: bool = False) -> str:
    """What a Python process with the plug-in installed prints."""
    paths = [folder / 'site', ROOT, ROOT / 'test/support']
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def command(folder: Path, *words: object, fails: bool = False) -> str:
    """The same of `mtl-perception`."""
    code = 'import sys; from mtl_perception.cli import main; sys.exit(main())'
    return run(folder, '-c', code, *words, fails=fails)


def install(folder: Path) -> None:
    """The three files, and beside them what pip notes of a package's entry points."""
    about = folder / 'site/glow-1.0.dist-info'
    about.mkdir(parents=True)
    (about / 'METADATA').write_text('Metadata-Version: 2.1\nName: glow\nVersion: 1.0\n')
    groups = (f'[{group}]\nglow = {module}\n' for group, module in FILES.items())
    (about / 'entry_points.txt').write_text('\n'.join(groups))
    for module in FILES.values():
        shutil.copy(ROOT / f'test/support/glow/{module}.py', folder / 'site')


def write_data(folder: Path) -> Path:
    """Six images per split whose brightness their attributes tell; returns the configuration."""
    for split in ('train', 'val'):
        images = []
        for i in range(6):
            put(folder / f'data/images/{split}/{i}.png', picture(i, 96, 64))
            about = {'id': i, 'file_name': f'{i}.png', 'width': 96, 'height': 64}
            images.append({**about, 'attributes': {'shine': i / 12}})
        listed = {'images': images, 'categories': [], 'annotations': []}
        put_json(folder / f'data/annotations/instances_{split}.json', listed)
    source = {
        'name': 'lamps', 'root': str(folder / 'data'), 'kind': 'coco', 'coco': {'boxes': False},
    }  # fmt: skip
    path = folder / 'glow.yaml'
    tasks = [{'name': 'shine', 'kind': 'glow'}]
    path.write_text(
        yaml.safe_dump({'base': str(CONFIG), 'tasks': tasks, 'loss_weights': {}, 'data': [source]})
    )
    return path


@pytest.fixture(scope='module')
def plug_in(tmp_path_factory):
    """A folder with the plug-in, a model that was trained for two steps, and a drive with truth."""
    folder = tmp_path_factory.mktemp('glow')
    install(folder)
    options = [
        *SMALL, 'optimizer.steps=2',
        'augment={height: 64, width: 96, input_height: 64, input_width: 96}',
        'precision=32-true', 'accelerator=cpu', 'workers=1', 'log_every=1', 'checkpoint_every=2',
        'validate_every=2',
    ]  # fmt: skip
    config = write_data(folder)
    printed = run(folder, '-m', 'training.train', config, f'output={folder / "run"}', *options)
    assert 'lamps/shine/near' in printed
    for name, weights in (('first', 'best'), ('second', 'last')):
        target = [folder / 'run', folder / name, '--no-program', '--weights', weights]
        run(folder, '-m', 'training.export', *target)
    run(folder, '-c', DRIVE, folder / 'drive')
    return folder


def replay(folder: Path, model: str, output: str, *more: object) -> dict:
    """Summary of a replay of the drive."""
    engine = ['--engine', 'onnxruntime', '--build', '--output', folder / output]
    command(folder, 'replay', folder / 'drive', '--model', folder / model, *engine, *more)
    return json.loads((folder / output / 'run.json').read_text())


def test_three_files_are_all_of_it(plug_in):
    files = [path.name for path in (plug_in / 'site').iterdir() if path.suffix == '.py']
    assert sorted(files) == sorted(f'{module}.py' for module in FILES.values())
    packages = ('mtl_perception', 'mtl_evaluation', 'training')
    sources = [path for package in packages for path in (ROOT / package).rglob('*.py')]
    here = [path for path in sources if "'glow'" in path.read_text('utf-8')]
    assert here == []


def test_its_tasks_are_scored_by_training(plug_in):
    scored = [plug_in / 'first', '--output', plug_in / 'scored', '--latency', '0']
    printed = run(plug_in, '-m', 'training.evaluate', *scored, '--engine', 'onnxruntime')
    assert 'lamps/shine/near' in printed
    results = json.loads((plug_in / 'scored/evaluation.json').read_text())['results']
    assert results['lamps']['shine']['frames'] == 6
    assert 'brightness off' in (plug_in / 'scored/report.html').read_text()


def test_its_labels_can_be_looked_at(plug_in):
    size = ['augment.height=64', 'augment.width=96']
    run(plug_in, '-m', 'training.data.preview', plug_in / 'glow.yaml', *size, '--count', '2')
    assert (plug_in / 'sheet.png').stat().st_size > 1000


def test_replay_compare_and_pages_know_it(plug_in):
    first = replay(plug_in, 'first', 'was', '--answers')
    assert first['accuracy']['shine']['kind'] == 'glow'
    assert first['accuracy']['shine']['frames'] == 40 == first['frames']['labelled']
    assert 0 < first['accuracy']['shine']['off'] < 1
    page = (plug_in / 'was/report.html').read_text()
    assert 'brightness farthest off' in page and 'shine within 0.1' in page

    again = plug_in / 'was/recordings/drive/answers'
    code = (
        'import sys; from pathlib import Path\n'
        'from mtl_evaluation.bags.outputs import recorded_results as read\n'
        'from mtl_perception.tasks import Task\n'
        "print(len({result.answers['shine'] for _, result in read(Path(sys.argv[1]), "
        "[Task('shine', 'glow')])}) > 1)"
    )
    assert run(plug_in, '-c', code, again).strip() == 'True'

    replay(plug_in, 'second', 'now')
    compared = ['compare', plug_in / 'was', plug_in / 'now', '--samples', '100', '--block-s', '0.2']
    assert 'brightness off' in command(plug_in, *compared)
    found = json.loads((plug_in / 'now/against_was/compare.json').read_text())
    assert {'shine/near', 'shine/off'} == {item['metric'] for item in found['differences']}
    assert 'brightness off' in (plug_in / 'now/against_was/compare.html').read_text()


@pytest.mark.ros
@pytest.mark.usefixtures('private_ros')
def test_a_live_node_publishes_it(plug_in, tmp_path, monkeypatch):
    pytest.importorskip('rclpy', reason='needs ROS 2')
    from live_node import NODE, active_node, image, peer
    from sensor_msgs.msg import Illuminance

    monkeypatch.setenv('PYTHONPATH', str(plug_in / 'site'))
    settings = {'model': plug_in / 'first', 'engine': 'onnxruntime', 'build': 'true'}
    with active_node(tmp_path, **settings), peer() as other:
        heard = other.listen(f'{NODE}/glow/shine', Illuminance)
        other.until(lambda: other.node.count_publishers(f'{NODE}/glow/shine'), 'the publisher')
        sent = image(3, height=64, width=96)
        other.repeat(sent, lambda: heard)
        assert heard[0].header == sent.header and 0 <= heard[0].illuminance <= 1


def test_without_the_plug_in_there_is_one_clear_error(plug_in, tmp_path):
    error = command(tmp_path, 'bundle', plug_in / 'first', fails=True)
    assert "kind 'glow' is not one of" in error and 'Traceback' not in error
    if (plug_in / 'was').is_dir():
        error = command(tmp_path, 'compare', plug_in / 'was', plug_in / 'was', fails=True)
        assert "is of kind 'glow'" in error and 'Traceback' not in error
