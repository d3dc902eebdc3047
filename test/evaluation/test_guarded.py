# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A bag read through the child process is the same bag; a broken child produces one error."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from drive_bags import SECOND, START, TRUTH, image_cdr, jpeg, make_bag, picture, stereo_bag

from mtl_evaluation.bags import wire
from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.bags.guarded import GuardedBag, Limits
from mtl_evaluation.messages.cdr import IMAGE, BagError
from mtl_evaluation.truth.truth import Truth
from mtl_perception.image_codec import ImageError


def content(frame) -> tuple:
    """All of a frame, comparable."""
    try:
        image = frame.image()
        pixels: object = (image.order, image.pixels.shape, image.pixels.tobytes())
    except ImageError as error:
        pixels = str(error)
    truth = frame.truth()
    boxes = truth.boxes
    return (
        frame.index, frame.stamp_ns, frame.camera, frame.name, pixels, dict(truth.labels),
        {name: (mask.shape, mask.tobytes()) for name, mask in truth.masks.items()},
        boxes and (boxes.boxes.tobytes(), boxes.classes, boxes.ignore.tolist()),
    )  # fmt: skip


def test_nothing_is_lost_on_the_way_through_the_child(tmp_path):
    with DriveWriter(tmp_path / 'bag', cameras=('front', 'rear')) as writer:
        for index in range(6):
            stamp = START + index * SECOND // 10
            truth = TRUTH if index % 2 else Truth()
            image = EncodedImage(data=jpeg() if index < 4 else b'\xff\xd8 no', format='jpeg')
            writer.write_frame(stamp, image, truth, np.eye(3), f'{index}.jpg', 'front')
            writer.write_frame(stamp, EncodedImage(picture(index)), TRUTH, camera='rear')
        writer.write('/rear/image_raw', IMAGE, START + SECOND, image_cdr(START))
        writer.write('/rear/ground_truth/drivable', IMAGE, START + SECOND, image_cdr(START + 7))

    with DriveBag(tmp_path / 'bag') as bag, GuardedBag(tmp_path / 'bag') as guarded:
        expected = [content(frame) for frame in bag.frames()]
        found = [content(frame) for frame in guarded.frames()]
        again = [content(frame) for frame in guarded.frames()]
        assert found == again == expected
        assert len(found) == guarded.frames_total - 1 == 12
        assert (guarded.info, guarded.cameras) == (bag.info, bag.cameras)
        assert guarded.stamps() == bag.stamps()
        list(bag.frames())
        list(guarded.frames())
        assert guarded.repeated == bag.repeated
        assert guarded.unmatched_truth == bag.unmatched_truth
        assert guarded.unmatched_truth.count == guarded.repeated.count == 1


@pytest.fixture(scope='module')
def twenty(tmp_path_factory):
    """An opened bag of twenty frames; starting a process for every test takes time."""
    path = make_bag(tmp_path_factory.mktemp('twenty') / 'bag')
    with GuardedBag(path, limits=Limits(memory_bytes=1 << 30)) as bag:
        yield bag


def test_serialised_images_come_through_too(twenty):
    with DriveBag(twenty.path) as bag:
        assert [f.cdr for f in twenty.raw_frames()] == [f.cdr for f in bag.raw_frames()]


def test_arrays_are_the_frames_own(twenty):
    frames = list(twenty.frames())

    image = frames[3].image().pixels
    assert int(image[0, 0, 0]) == 3
    image[:] = 9
    assert int(frames[2].image().pixels[0, 0, 0]) == 2


def test_reading_can_be_broken_off_and_begun_again(tmp_path):
    with GuardedBag(make_bag(tmp_path / 'bag')) as bag:
        first = content(next(bag.frames()))

        again = [content(frame) for frame in bag.frames()]

    assert again[0] == first
    assert len(again) == 20


def test_a_malformed_truth_is_told_by_the_frame_that_has_it(tmp_path):
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth())
        writer.write('/ground_truth/drivable', IMAGE, START, image_cdr(START))

    with GuardedBag(tmp_path / 'bag') as bag:
        frame = next(bag.frames())
    with pytest.raises(BagError, match='frame 0 of /camera/image_raw: /ground_truth/drivable: exp'):
        frame.truth()


def test_errors_of_the_child_are_the_same_sentences(tmp_path):
    make_bag(tmp_path / 'bag')
    file = tmp_path / 'bag' / 'bag.mcap'
    file.write_bytes(file.read_bytes()[:200])
    for path in (tmp_path / 'nothing', tmp_path / 'bag'):
        with pytest.raises(BagError) as here:
            DriveBag(path)
        with pytest.raises(BagError) as there:
            GuardedBag(path)
        assert str(there.value) == str(here.value)


def test_a_parser_that_hangs_is_stopped(tmp_path):
    with GuardedBag(stereo_bag(tmp_path / 'bag'), limits=Limits(stall_s=3)) as bag:
        frames = bag.frames()
        next(frames)
        os.kill(bag.process_id, signal.SIGSTOP)

        with pytest.raises(BagError, match='made no progress for 3 s'):
            list(frames)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    folder = make_bag(tmp_path / 'bag')
    (folder / 'bag.mcap').unlink()
    os.mkfifo(folder / 'bag.mcap')  # opening it would wait for a writer that never comes

    with pytest.raises(BagError, match='none of its files is there'):
        GuardedBag(folder, limits=Limits(stall_s=3))


def test_a_parser_that_crashes_says_how_far_it_came(tmp_path):
    with GuardedBag(stereo_bag(tmp_path / 'bag')) as bag:
        frames = bag.frames()
        first = next(frames)
        os.kill(bag.process_id, signal.SIGSEGV)

        with pytest.raises(BagError, match=r'died of SIGSEGV after [1-4] of 6 frames'):
            list(frames)

    assert first.image().pixels.shape == (6, 8, 3)  # what came before it is still there


def test_no_process_and_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setattr('tempfile.tempdir', None)
    with GuardedBag(make_bag(tmp_path / 'bag')) as bag:
        next(bag.frames())
        process = bag._child
    with pytest.raises(BagError):
        GuardedBag(tmp_path / 'nothing')

    assert process is None or process._process.poll() is not None
    assert [path.name for path in tmp_path.iterdir()] == ['bag']


def test_the_child_runs_within_limits(twenty):
    text = Path(f'/proc/{twenty.process_id}/limits').read_text()

    table = {line[:26].strip(): line[26:].split()[0] for line in text.splitlines()}
    assert table['Max address space'] == str(1 << 30)
    assert table['Max core file size'] == '0'
    assert table['Max file size'] == str(Limits().unpacked_bytes)


def test_a_message_on_the_wire_is_checked():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 4), np.float32)]
    wire.send(theirs, {'kind': 'x'}, arrays)

    header, found = wire.receive(ours)

    assert header == {'kind': 'x'}
    assert [array.tolist() for array in found] == [array.tolist() for array in arrays]

    for text in (b'{"arrays": [["uint8", [99], 0]]}', b'{"arrays": [["object", [1], 0]]}', b'no'):
        file = os.memfd_create('x', os.MFD_ALLOW_SEALING)
        os.write(file, len(text).to_bytes(8, 'little') + text)
        socket.send_fds(theirs, [b'm'], [file])
        with pytest.raises(wire.WireError, match='not sealed'):
            wire.receive(ours)
        wire.fcntl.fcntl(file, wire.fcntl.F_ADD_SEALS, wire.SEALS)
        socket.send_fds(theirs, [b'm'], [file])
        with pytest.raises(wire.WireError):
            wire.receive(ours)
        os.close(file)
    theirs.close()
    with pytest.raises(wire.WireError, match='gone'):
        wire.receive(ours)
    ours.close()


def test_the_reader_of_a_bag_takes_nothing_from_the_current_folder(tmp_path, monkeypatch):
    """A `yaml.py` of the user would run there, and the bag would be called damaged."""
    path = make_bag(tmp_path / 'bag')
    (tmp_path / 'mine').mkdir()
    monkeypatch.chdir(tmp_path / 'mine')
    monkeypatch.setenv('PYTHONPATH', ':')
    for name in ('yaml', 'json', 'numpy', 'cv2', 'runpy', 'socket'):
        Path(f'{name}.py').write_text('raise RuntimeError("the file of the current folder")')

    with GuardedBag(path) as bag:
        assert list(bag.frames())
