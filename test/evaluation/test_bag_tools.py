# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`bag make` and `bag info`: what goes into a bag is in it, stopping loses nothing, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from drive_bags import make_bag, stereo_bag
from test_drive_sources import bdd_folder

from mtl_evaluation.bags import bag_make
from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_make import Stopped
from mtl_evaluation.bags.bag_make import make_bag as make
from mtl_evaluation.bags.bag_parts import PartialBag
from mtl_evaluation.bags.sources import ImageFolder, SourceError
from mtl_evaluation.messages.cdr import BagError
from mtl_perception import cli


def images(folder, count=7, suffix='.png', size=(24, 32)):
    folder.mkdir()
    for index in range(count):
        pixels = np.full((*size, 3), 10 * index, np.uint8)
        cv2.imwrite(str(folder / f'{index:03d}{suffix}'), pixels)
    return folder


def run(*arguments: object) -> int:
    return cli.main(['bag', *map(str, arguments)])


def frames_of(path):
    with DriveBag(path) as bag:
        return list(bag.frames())


def test_a_data_set_becomes_a_bag_with_its_labels(tmp_path, capsys):
    bdd_folder(tmp_path / 'data')

    assert run('make', tmp_path / 'bag', '--dataset', tmp_path / 'data', '--rate', 4) == 0
    assert run('info', tmp_path / 'bag', '--json') == 0

    found = json.loads(capsys.readouterr().out)
    (camera,) = found['cameras']
    assert camera['truth'] == {'detection': 2, 'semantic': 1, 'weather': 1, 'timeofday': 1}
    assert (camera['frames'], camera['rate_hz'], camera['names']) == (3, 4.0, True)
    assert (camera['size'], camera['encoding'], camera['camera_info']) == ([32, 24], 'jpeg', False)
    assert found['evaluable'] == camera['truth']
    assert (found['storage'], found['compression']) == ('mcap', 'zstd chunks')
    assert (found['generated'], found['partial'], found['duration_s']) == (False, False, 0.5)
    assert [frame.name for frame in frames_of(tmp_path / 'bag')] == ['a.jpg', 'b.jpg', 'c.png']


def test_one_folder_a_camera(tmp_path):
    left, right = images(tmp_path / 'left', 3), images(tmp_path / 'right', 2)

    code = run(
        'make', tmp_path / 'bag', '--images', f'left={left}', '--images', f'front/right={right}',
        '--storage', 'sqlite3',
    )  # fmt: skip

    assert code == 0
    with DriveBag(tmp_path / 'bag') as bag:
        assert [(c.topic, c.frames) for c in bag.cameras] == [
            ('/front/right/image_raw/compressed', 2), ('/left/image_raw/compressed', 3),
        ]  # fmt: skip
        assert bag.info.storage == 'sqlite3'


@pytest.mark.parametrize(
    ('suffix', 'encoding', 'expected'),
    [('.jpg', 'raw', 'rgb8'), ('.png', 'jpeg', 'jpeg'), ('.png', None, 'png')],
)
def test_encodings(tmp_path, suffix, encoding, expected):
    folder = images(tmp_path / 'images', 2, suffix)

    more = ['--encoding', encoding] if encoding else []
    assert run('make', tmp_path / 'bag', '--images', folder, *more) == 0

    with DriveBag(tmp_path / 'bag') as bag:
        assert bag.image.encoding == expected
        shades = [int(frame.image().pixels[0, 0, 0]) for frame in bag.frames()]
        assert shades == pytest.approx([0, 10], abs=2)


def test_a_generated_drive_knows_that_it_is_one(tmp_path, capsys):
    arguments = ['--generated', 0.2, '--size', '96x64', '--encoding', 'jpeg', '--camera', 'front']

    assert run('make', tmp_path / 'bag', *arguments) == 0
    assert run('info', tmp_path / 'bag', '--json') == 0

    found = json.loads(capsys.readouterr().out)
    assert found['generated']
    (camera,) = found['cameras']
    assert (camera['topic'], camera['encoding']) == ('/front/image_raw/compressed', 'jpeg')
    assert camera['camera_info']
    assert camera['truth']['semantic'] == 2
    with DriveBag(tmp_path / 'bag') as bag:
        assert (bag.image.model.width, bag.image.model.height) == bag.image.size == (96, 64)


def partial(tmp_path, folder, **options):
    options = {'storage': 'mcap', 'compress': True, 'cameras': ['camera'], 'custom': {}, **options}
    source = ImageFolder(folder)
    return PartialBag(tmp_path / 'bag', {'camera': source.identity}, **options), {'camera': source}


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_gone_on_with(tmp_path, monkeypatch, number):
    monkeypatch.setattr(bag_make, 'PART_FRAMES', 3)
    folder = images(tmp_path / 'images')

    def stop(done: int) -> None:
        if done == 5:
            os.kill(os.getpid(), number)

    bag, sources = partial(tmp_path, folder)
    with pytest.raises(Stopped, match=r'bag\.partial is a partial bag of 5 frames; the same comm'):
        make(bag, sources, None, stop)
    assert len(frames_of(tmp_path / 'bag.partial')) == 5
    assert not (tmp_path / 'bag').exists()

    seen: list[int] = []
    bag, sources = partial(tmp_path, folder)
    make(bag, sources, None, seen.append)

    assert seen == [6, 7]
    assert not (tmp_path / 'bag.partial').exists()
    whole = frames_of(tmp_path / 'bag')
    assert [frame.name for frame in whole] == [f'{index:03d}.png' for index in range(7)]
    assert np.diff([frame.stamp_ns for frame in whole]).tolist() == [100_000_000] * 6
    with DriveBag(tmp_path / 'bag') as bag:
        assert bag.info.files == ('bag_0.mcap', 'bag_1.mcap', 'bag_2.mcap')
        assert (bag.frames_total, 'mtl_perception.partial' in bag.info.custom) == (7, False)


def test_killed_it_loses_only_the_file_that_it_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr(bag_make, 'PART_FRAMES', 3)
    folder = images(tmp_path / 'images')

    def die(done: int) -> None:
        if done == 5:
            raise SystemExit

    bag, sources = partial(tmp_path, folder)
    with pytest.raises(SystemExit):
        make(bag, sources, None, die)
    (tmp_path / 'bag.partial' / 'bag_1').mkdir()  # as a kill leaves it
    (tmp_path / 'bag.partial' / 'bag_1' / 'bag_1.mcap').write_text('half')

    seen: list[int] = []
    bag, sources = partial(tmp_path, folder)
    make(bag, sources, None, seen.append)

    assert seen == [4, 5, 6, 7]
    assert len(frames_of(tmp_path / 'bag')) == 7


def test_a_split_bag_of_many_topics_is_whole(tmp_path, monkeypatch):
    """Only some frames have labels, so that files of the bag differ in their topics."""
    monkeypatch.setattr(bag_make, 'PART_FRAMES', 1)
    bdd_folder(tmp_path / 'data')

    for storage in ('mcap', 'sqlite3'):
        out = tmp_path / storage
        code = run('make', out, '--dataset', tmp_path / 'data', '--storage', storage)
        assert code == 0
        truths = [frame.truth() for frame in frames_of(out)]
        assert [truth.boxes is not None for truth in truths] == [True, False, True]
        assert [list(truth.masks) for truth in truths] == [[], ['semantic'], []]
        with DriveBag(out) as bag:
            assert len(bag.info.files) == 3


def test_nothing_is_overwritten_and_nothing_mixed(tmp_path, monkeypatch):
    monkeypatch.setattr(bag_make, 'PART_FRAMES', 3)
    folder = images(tmp_path / 'images')
    bag, sources = partial(tmp_path, folder)
    with pytest.raises(SystemExit):
        make(bag, sources, None, lambda done: sys.exit() if done == 5 else None)

    with pytest.raises(BagError, match=r'bag\.partial is part of another bag'):
        partial(tmp_path, folder, storage='sqlite3')
    (folder / '000.png').unlink()
    with pytest.raises(BagError, match=r'bag\.partial is part of another bag'):
        partial(tmp_path, folder)
    (tmp_path / 'bag.partial' / 'metadata.yaml').write_text('x: 1')
    with pytest.raises(BagError, match='is no bag of this command'):
        partial(tmp_path, folder)
    (tmp_path / 'bag').mkdir()
    with pytest.raises(BagError, match='Choose another name, or remove it'):
        partial(tmp_path, folder)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_full_disk_is_one_sentence_and_a_partial_bag(tmp_path, storage):
    """A limit on file sizes stands in for the disk: the second file of the bag meets it."""
    folder = images(tmp_path / 'images', 12, size=(48, 64))
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / '007.png'), noise)
    code = (
        'import resource, sys\n'
        'from mtl_perception import cli\n'
        'from mtl_evaluation.bags import bag_make\n'
        'bag_make.PART_FRAMES = 3\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n'
        'sys.exit(cli.main(sys.argv[1:]))\n'
    )

    done = subprocess.run(
        [
            sys.executable, '-c', code, 'bag', 'make', str(tmp_path / 'bag'), '--images',
            str(folder), '--storage', storage,
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('mtl-perception: cannot')
    assert 'bag.partial is a partial bag of 6 frames; the same command goes on with it' in last
    assert 'Traceback' not in done.stderr
    assert len(frames_of(tmp_path / 'bag.partial')) == 6
    assert run('make', tmp_path / 'bag', '--images', folder, '--storage', storage) == 0
    assert len(frames_of(tmp_path / 'bag')) == 12


def test_a_broken_image_is_kept_as_it_is_or_named(tmp_path, capsys):
    folder = images(tmp_path / 'images', 3)
    (folder / '001.png').write_bytes(b'\x89PNG\r\n\x1a\n broken')

    assert run('make', tmp_path / 'raw', '--images', folder, '--encoding', 'raw') == 1
    assert '001.png: broken PNG' in capsys.readouterr().err
    assert run('make', tmp_path / 'bag', '--images', folder) == 0
    assert run('info', tmp_path / 'bag', '--scan', '--json') == 0

    found = json.loads(capsys.readouterr().out)['scan']
    assert found['undecodable']['count'] == 1
    assert 'broken PNG' in found['undecodable']['first'][0]
    assert found['sizes'] == {'32x24': 2}
    assert found['frames'] == 3


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--images', 'none'], 'expected a folder of images, found nothing'),
        (['--images', 'images', '--images', 'images'], "camera 'camera' twice; name them"),
        (['--images', 'images', '--camera', '7 up'], 'letters, digits'),
        (['--images', 'images', '--rate', '0'], '--rate must be above 0'),
        (['--dataset', 'images'], r'expected images under images/*/val/, found none'),
        (['--generated', '1', '--size', 'big'], 'expected seconds above 0 and WIDTHxHEIGHT'),
        (['--video', 'images'], 'there is no such file'),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    images(tmp_path / 'images', 1)

    assert run('make', 'bag', *arguments) == 1

    assert message in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()


def test_info_for_people(tmp_path, capsys):
    stereo_bag(tmp_path / 'bag')

    assert run('info', tmp_path / 'bag', '--scan') == 0

    text = ' '.join(capsys.readouterr().out.split())
    assert 'camera /front/image_raw: 4 frames at 10 Hz, 8x6 rgb8, with camera info' in text
    assert 'labels: detection 2, drivable 2, weather 2, timeofday 2' in text
    assert 'can be evaluated: detection (6 frames), weather (6 frames), drivable (2 frames)' in text
    assert 'read 6 frames: 8x6 (4), 24x16 (2)' in text
    assert 'sensor_msgs/CompressedImage' in text


def test_a_scan_finds_damage_and_says_how_far_it_came(tmp_path, capsys):
    folder = make_bag(tmp_path / 'bag', compress=False)
    text = (folder / 'metadata.yaml').read_text().replace('message_count: 20', 'message_count: 21')
    (folder / 'metadata.yaml').write_text(text)

    assert run('info', folder, '--scan') == 1
    out = ' '.join(capsys.readouterr().out.split())
    assert 'read 20 frames' in out
    assert 'its index promises 21' in out

    (folder / 'bag.mcap').write_bytes((folder / 'bag.mcap').read_bytes()[:500])
    assert run('info', folder) == 1
    assert 'truncated or damaged' in capsys.readouterr().err


def test_source_errors_are_sentences(tmp_path):
    folder = images(tmp_path / 'images', 2)
    source = ImageFolder(folder)
    (folder / '001.png').unlink()

    with pytest.raises(SourceError, match=r'cannot read .*001\.png'):
        list(source.frames_from(0))
