# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a camera can do to the node, as a process over real DDS, under simulation time."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import fault_runs
import live_node
import numpy as np
from fault_runs import camera_values
from live_node import NODE, NodeProcess, Peer, image, stamped
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures('private_ros')]


@pytest.fixture(scope='module')
def running(
    private_ros: None, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NodeProcess]:
    """An active node on simulation time, with the default limits of a stall."""
    with live_node.active_node(
        tmp_path_factory.mktemp('node'), model=tiny_bundle, build='true', engine='onnxruntime',
        diagnostics_period_s=0.2, use_sim_time='true',
    ) as node:  # fmt: skip
        yield node


@pytest.fixture
def peer(running: NodeProcess) -> Iterator[Peer]:
    with live_node.peer() as made:
        yield made


def answer(peer: Peer, message: Image) -> float:
    """Send once; seconds until the detections with this very header are back."""
    detections = peer.listen(f'{NODE}/detections', Detection2DArray)
    seen = len(detections)
    peer.send(message)
    sent_s = time.monotonic()
    peer.until(
        lambda: any(found.header == message.header for found in detections[seen:]),
        f'answer to {message.header}',
    )
    return time.monotonic() - sent_s


def changed(**fields: object) -> Callable[[], Image]:
    """A good image with some fields set to others."""

    def make() -> Image:
        message = image(0)
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    return make


GOOD = image(0)
NOT_A_NUMBER = array('B', np.full((120, 160), np.nan, np.float32).tobytes())
MALFORMED = {
    'step 0': changed(step=0),
    'short step': changed(step=479),
    'huge step': changed(step=2**32 - 1),
    'unknown encoding': changed(encoding='bgr9'),
    'no encoding': changed(encoding=''),
    '0x0': changed(height=0, width=0, step=0, data=array('B')),
    'no data': changed(data=array('B')),
    'truncated': changed(data=GOOD.data[:-5]),
    'too long': changed(data=GOOD.data + array('B', [0])),
    '32k header': changed(height=32768, width=32768, step=98304),
    'NaN in 32FC1': changed(encoding='32FC1', step=640, data=NOT_A_NUMBER),
    '16 bits as 8': changed(encoding='mono16', step=160),
}


def test_malformed_images_are_counted_and_the_next_good_one_is_answered(
    running: NodeProcess, peer: Peer
) -> None:
    peer.exchange(image(0))
    before = camera_values(peer)['']
    lines_before = running.output.count('image rejected')
    for number, make in enumerate(MALFORMED.values()):
        peer.send(make())
        peer.spin(0.03)
        answer(peer, image(100 + number))
    peer.diagnostics()
    after = camera_values(peer)['']

    def more(name: str) -> int:
        return int(after[name]) - int(before[name])

    assert more('processed') == len(MALFORMED)
    # One that is taken over by the good one behind it is counted as replaced.
    assert more('rejected') + more('replaced') == len(MALFORMED)
    assert more('rejected') > len(MALFORMED) / 2
    assert after['last_rejection']
    assert more('received') == more('processed') + more('rejected') + more('replaced')
    assert 1 <= running.output.count('image rejected') - lines_before <= 4


def test_no_frame_is_lost_when_size_or_encoding_changes(peer: Peer) -> None:
    """Each is sent once, and answered in its own size."""
    masks = peer.listen(f'{NODE}/drivable', Image)
    peer.exchange(image(0))
    bytes_of = {'bgr8': 3, 'mono8': 1, 'rgba8': 4, 'nv12': 1.5, 'bayer_rggb8': 1}
    sizes = [(120, 160), (240, 100), (64, 96)]
    for number, encoding in enumerate(list(bytes_of) * 2):
        height, width = sizes[number % 3]
        step = width if encoding == 'nv12' else int(width * bytes_of[encoding])
        data = array('B', bytes(int(height * width * bytes_of[encoding])))
        message = Image(height=height, width=width, encoding=encoding, step=step, data=data)
        message.header.stamp.sec = 5000 + number
        answer(peer, message)
        peer.until(lambda m=message: masks and masks[-1].header == m.header, 'mask')
        assert (masks[-1].height, masks[-1].width) == (height, width)


def test_clock_jumps_bag_loops_and_zero_stamps_are_answered_verbatim(peer: Peer) -> None:
    """By the very header that was sent, and within a second."""
    clock = peer.node.create_publisher(Clock, '/clock', 5)
    peer.until(clock.get_subscription_count, 'subscriber of /clock')
    peer.exchange(image(0))
    steady = [100.0, 100.1]
    jumps = [110.1, 110.2, 100.2, 100.3]  # +10 s, -10 s
    loop = [160.0, 50.0, 50.1]  # the bag begins again
    worst_s = 0.0
    for number, now_s in enumerate([*steady, *jumps, *loop]):
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(round(now_s * 1e9), 10**9)
        clock.publish(message)
        worst_s = max(worst_s, answer(peer, stamped(image(number), now_s)))
    for seconds in (0.0, -7.5, 2.0**31 - 1):
        worst_s = max(worst_s, answer(peer, stamped(image(0), seconds)))
    assert worst_s < 1


def test_a_stalled_camera_is_seen_by_the_steady_clock_and_so_is_its_return(peer: Peer) -> None:
    """Simulation time stands still all the while. Heard here, so with what DDS takes."""
    heard = fault_runs.stall(peer, 2.5)
    assert 0.85 < heard['warn_s'] < 1.5
    assert 1.85 < heard['error_s'] < 2.5
    assert heard['ok_s'] < 1
