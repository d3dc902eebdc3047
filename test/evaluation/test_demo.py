# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The whole demo over real DDS on a folder of pictures, and every way to ask for the impossible."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from red_drive import red_image, write_red_drive

from mtl_evaluation.accuracy import NO_TRUTH_NOTE
from mtl_perception.cli import main


@pytest.fixture(scope='module', autouse=True)
def private_ros(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A DDS domain of our own, where there is ROS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('ROS_DOMAIN_ID', '84')
        patch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        patch.setenv('ROS_LOG_DIR', str(tmp_path_factory.mktemp('log')))
        yield


@pytest.mark.ros
def test_pictures_of_mixed_sizes_become_a_report(tmp_path, tiny_bundle, capsys):
    pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
    pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for index in range(8):
        size = (96, 64) if index % 2 else (120, 90)
        picture = cv2.resize(red_image(), size)[..., ::-1]
        cv2.imwrite(str(folder / f'{index}.jpg'), picture)
    (folder / '8.jpg').write_bytes(b'\xff\xd8 broken')
    output = tmp_path / 'demo'

    code = main(
        ['demo', '--images', str(folder), '--model', str(tiny_bundle), '--engine', 'onnxruntime',
         '--output', str(output), '--rate', '4']
    )  # fmt: skip

    assert code == 0
    results = json.loads((output / 'results.json').read_text())
    frames = results['frames']
    answered = frames['answered']
    # The broken file is no frame: making the bag leaves it out and says so.
    assert (frames['played'], answered + frames['replaced'], frames['rejected']) == (8, 8, 0)
    assert answered >= 6, 'the machine is far too busy for 4 frames per second'
    assert (frames['lost_in_transport'], frames['unaccounted']) == (0, 0)
    assert results['undecodable'] == []
    assert results['accuracy_note'] == NO_TRUTH_NOTE
    assert results['model']['engine'] == 'onnxruntime'
    assert results['accuracy']['detection']['AP'] is None
    text = (output / 'report.html').read_text()
    assert f'{answered} / 8' in text
    assert text.count('<section class="example">') == 6
    assert cv2.VideoCapture(str(output / 'overlay.mp4')).read()[0]
    pictures = sorted((output / 'pictures').glob('*.png'))
    assert pictures
    assert all(cv2.imread(str(path)) is not None for path in pictures)
    assert (output / 'outputs' / 'metadata.yaml').is_file()
    printed = capsys.readouterr().out
    assert 'latency' in printed
    assert 'AP50' not in printed  # there are no labels


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--model', 'no_such_model'], "no model 'no_such_model'"),
        (['--bag', 'missing'], 'nothing is there'),
        (['--bag', 'empty'], 'is not a bag'),
        (['--images', 'empty'], 'found none'),
        (['--images', 'missing'], 'found nothing'),
        (['--video', 'text.mp4'], 'OpenCV reads no frame'),
        (['--size', 'large'], 'expected WIDTHxHEIGHT'),
        (['--speed', '0'], '--speed and --rate must be more than 0'),
        (['--bag', 'drive', '--topic', '/nothing'], 'has no image topic /nothing'),
    ],
)
def test_the_impossible_is_one_sentence_and_a_code(
    tmp_path, tiny_bundle, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('mtl_evaluation.commands.demo.need_ros', lambda what: None)
    Path('empty').mkdir()
    Path('text.mp4').write_text('not a video')
    if '--topic' in arguments:
        write_red_drive(Path('drive'), frames=1)
    model = [] if '--model' in arguments else ['--model', str(tiny_bundle)]

    assert main(['demo', *arguments, *model]) == 1

    error = capsys.readouterr().err
    assert message in error
    assert 'Traceback' not in error


def test_without_ros_the_next_command_is_named(tmp_path, tiny_bundle, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'rclpy', None)

    assert main(['demo', '--model', str(tiny_bundle)]) == 1

    assert 'make setup' in capsys.readouterr().err


def test_frames_shown_in_the_report_are_not_chosen():
    from mtl_evaluation.commands.demo import EXAMPLES, evenly_spaced

    assert evenly_spaced(list(range(100))) == {8, 25, 41, 58, 75, 91}
    assert evenly_spaced([7]) == {7}
    assert evenly_spaced([]) == set()
    assert len(evenly_spaced(list(range(EXAMPLES)))) == EXAMPLES
