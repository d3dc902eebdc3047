# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The real node as a process, over real DDS, with the tiny bundle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import live_node
import rclpy
from live_node import NODE, TINY_TOPICS, NodeProcess, Peer, image, values
from sensor_msgs.msg import CompressedImage, Image
from tiny_bundle import write_tiny_bundle
from vision_msgs.msg import Detection2DArray, LabelInfo

from mtl_perception.node.__main__ import main
from mtl_perception.tasks import DRIVABLE, SEMANTIC

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures('private_ros')]

OK, WARN, ERROR = b'\x00', b'\x01', b'\x02'


@pytest.fixture(scope='module')
def parameters(tiny_bundle: Path) -> dict[str, object]:
    """How the nodes of this file are started."""
    return {
        'model': tiny_bundle,
        'engine': 'onnxruntime',
        'build': 'true',
        'diagnostics_period_s': 0.2,
    }


@pytest.fixture(scope='module')
def running(
    private_ros: None, parameters: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NodeProcess]:
    """One active node for all tests that leave it active."""
    with live_node.active_node(tmp_path_factory.mktemp('node'), **parameters) as node:
        yield node


@pytest.fixture
def peer(running: NodeProcess) -> Iterator[Peer]:
    """A fresh participant, connected to the running node."""
    with live_node.peer() as made:
        yield made


def test_hundred_frames_in_hundred_complete_answers_out(peer: Peer) -> None:
    """Headers verbatim, every topic for every frame, empty detections published, masks right."""
    peer.listen_to_all()
    frames = [image(number, red=number % 2 == 0) for number in range(100)]
    frames[50].header.stamp.sec = frames[50].header.stamp.nanosec = 0
    frames[50].header.frame_id = ''
    frames[60].header.stamp.sec = -7
    peer.exchange(image(500))
    peer.spin(0.3)
    for messages in peer.received.values():
        messages.clear()
    for number, frame in enumerate(frames):
        peer.send(frame)
        peer.until(
            lambda n=number: all(len(peer.received[topic]) > n for topic in TINY_TOPICS),
            f'complete answer to frame {number}',
        )
    for topic in TINY_TOPICS:
        assert [message.header for message in peer.received[topic]] == [f.header for f in frames]
    for number, message in enumerate(peer.received[f'{NODE}/detections']):
        names = {found.results[0].hypothesis.class_id for found in message.detections}
        assert names == ({'pedestrian'} if number % 2 == 0 else set())
        assert all(found.header == message.header for found in message.detections)
    for name in ('drivable', 'semantic'):
        for mask in peer.received[f'{NODE}/{name}']:
            assert (mask.encoding, mask.height, mask.width, mask.step) == ('mono8', 120, 160, 160)
            assert len(mask.data) == 120 * 160
    red = np.frombuffer(peer.received[f'{NODE}/drivable'][0].data, np.uint8).reshape(120, 160)
    assert DRIVABLE.classes[red[20, 20]] == 'direct'


def test_late_joiner_gets_label_info(peer: Peer) -> None:
    """LabelInfo is latched beside each mask and names every class, 255 excepted."""
    for task in (DRIVABLE, SEMANTIC):
        infos = peer.listen(f'{NODE}/{task.name}/label_info', LabelInfo, live_node.LATCHED)
        peer.until(lambda infos=infos: infos, 'LabelInfo')
        found = {entry.class_id: entry.class_name for entry in infos[0].class_map}
        assert found == dict(enumerate(task.classes))


def test_overlay_is_published_to_who_asks(peer: Peer) -> None:
    """bgr8 and JPEG in the source's size, header unchanged, the source itself visible."""
    raw = peer.listen(f'{NODE}/overlay', Image)
    jpeg = peer.listen(f'{NODE}/overlay/compressed', CompressedImage)
    peer.exchange(image(7, red=False))
    peer.until(lambda: raw and jpeg, 'overlays')
    assert (raw[-1].encoding, raw[-1].height, raw[-1].width) == ('bgr8', 120, 160)
    assert raw[-1].header == jpeg[-1].header == image(7).header
    decoded = cv2.imdecode(np.frombuffer(jpeg[-1].data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (120, 160, 3)


def test_tracks_alone_are_computed_and_keep_their_id(peer: Peer) -> None:
    """One subscriber, of ~/tracks: its header, and one id until the camera is another one."""
    tracks = peer.listen(f'{NODE}/tracks', Detection2DArray)
    seen: list[list[str]] = []
    for number in range(12):
        frame = image(number)
        frame.header.frame_id = 'front' if number < 8 else 'rear'
        frame.header.stamp.sec, frame.header.stamp.nanosec = (
            5000 + number // 10,
            number % 10 * 10**8,
        )
        peer.send(frame)
        peer.until(
            lambda header=frame.header: tracks and tracks[-1].header == header, f'frame {number}'
        )
        seen.append([found.id for found in tracks[-1].detections])
    first = seen[1:8]
    assert first[0] and first == [first[0]] * 7, seen
    assert seen[8] == []
    assert seen[9] and not set(seen[9]) & set(first[0])


def test_annotations_are_drawn_over_the_image_that_they_are_stamped_like(peer: Peer) -> None:
    """Boxes, outlines and texts to a viewer's subscription alone; their points are the boxes'."""
    foxglove = pytest.importorskip('foxglove_msgs.msg', reason='make setup builds it')
    drawn = peer.listen(f'{NODE}/annotations', foxglove.ImageAnnotations)
    peer.exchange(image(31))
    peer.until(lambda: drawn and drawn[-1].points, 'annotations')
    detections = peer.listen(f'{NODE}/detections', Detection2DArray)
    peer.exchange(image(32))
    peer.until(
        lambda: (
            detections and drawn[-1].points
            and drawn[-1].points[0].timestamp == detections[-1].header.stamp
        ),
        'both of one frame',
    )  # fmt: skip
    boxes = [found.bbox for found in detections[-1].detections]
    assert boxes
    for box, line in zip(boxes, drawn[-1].points, strict=False):
        low = (box.center.position.x - box.size_x / 2, box.center.position.y - box.size_y / 2)
        assert (line.points[0].x, line.points[0].y) == pytest.approx(low)
        assert line.points[2].x - line.points[0].x == pytest.approx(box.size_x)
    assert len(drawn[-1].points) > len(boxes), 'no outline of the drivable area'
    assert any(text.text.startswith('pedestrian') for text in drawn[-1].texts)


def test_nobody_listening_costs_nothing(peer: Peer) -> None:
    """Frames that nobody wants are counted as such, not processed."""
    before = values(peer.diagnostics()['perception: camera'])
    settled = 0
    deadline = time.monotonic() + live_node.PATIENCE_S
    while settled < 5 and time.monotonic() < deadline:
        peer.send(image(0))
        after = values(peer.diagnostics()['perception: camera'])
        settled = sum(int(after[name]) - int(before[name]) for name in ('unwanted', 'replaced'))
    assert settled >= 5
    assert after['processed'] == before['processed']


def test_heads_without_listeners_are_left_out_without_a_gap(
    running: NodeProcess, peer: Peer
) -> None:
    """Every frame is answered while an engine for the one topic is prepared and takes over."""
    detections = peer.listen(f'{NODE}/detections', Detection2DArray)
    peer.exchange(image(0))
    says = 'only these heads are computed from now on: detection'
    deadline = time.monotonic() + live_node.PATIENCE_S
    sent = 0
    frames_after = 5

    def answers() -> list[Detection2DArray]:
        """Without those to the exchange above, of which more may still come."""
        return [found for found in detections if found.header != image(0).header]

    while frames_after:
        assert time.monotonic() < deadline, running.output
        frames_after -= says in running.output
        sent += 1
        peer.send(image(sent))
        peer.until(lambda n=sent: len(answers()) == n, f'answer {sent}')
    assert [message.header for message in answers()] == [image(n + 1).header for n in range(sent)]
    assert all(message.detections for message in answers())
    assert values(peer.diagnostics()['perception: engine'])['subset'] == 'detection'
    peer.listen_to_all()
    deadline = time.monotonic() + live_node.PATIENCE_S
    # The node hears of new listeners when discovery tells it, a frame or more later.
    while not all(peer.received[topic] for topic in TINY_TOPICS):
        assert time.monotonic() < deadline, 'no answers of the other heads'
        sent += 1
        peer.exchange(image(sent))


def test_diagnostics_name_engine_bundle_and_stages(peer: Peer) -> None:
    """What runs, how fast, and where the time goes."""
    peer.exchange(image(0))
    found = peer.diagnostics()
    engine = values(found['perception: engine'])
    assert engine['engine'] == 'onnxruntime'
    assert (engine['precision'], engine['bundle']) == ('fp32', 'tiny')
    assert len(engine['bundle_hash']) == 64
    camera = values(found['perception: camera'])
    assert {'rate_hz', 'received', 'processed', 'replaced', 'rejected', 'failed'} <= set(camera)
    for stage in ('image', 'letterbox', 'engine', 'decode', 'publish', 'age'):
        assert float(camera[f'{stage}_ms_p50']) <= float(camera[f'{stage}_ms_p99'])


def test_thresholds_apply_from_the_next_frame(peer: Peer) -> None:
    """A live change shows at once; a bad value is refused with the reason and changes nothing."""
    detections = peer.listen(f'{NODE}/detections', Detection2DArray)
    peer.exchange(image(0))
    assert detections[-1].detections
    assert peer.set('score_threshold', 1.0).successful
    peer.exchange(image(1))
    assert not detections[-1].detections
    refused = peer.set('score_threshold', 1.5)
    assert not refused.successful
    assert 'out of range' in refused.reason
    refused = peer.set('score_threshold', 'high')
    assert not refused.successful
    assert 'DOUBLE' in refused.reason
    assert peer.set('score_threshold', 0.4).successful
    peer.exchange(image(2))
    assert detections[-1].detections


def test_what_is_read_at_configure_cannot_change_while_configured(peer: Peer) -> None:
    """The node never says one model and runs another."""
    refused = peer.set('model', '/elsewhere')
    assert not refused.successful
    assert 'deactivate' in refused.reason
    assert not peer.set('autostart', False).successful


def test_impossible_transition_is_refused_and_survived(peer: Peer) -> None:
    """rclpy alone would end the process here."""
    assert not peer.change('configure')
    assert not peer.change('cleanup')
    assert peer.state() == 'active'


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A domain in which the module's running node is not heard."""
    monkeypatch.setenv('ROS_DOMAIN_ID', str(51 + os.getpid() % 50))


@pytest.mark.usefixtures('alone')
def test_reconfigured_for_compressed_images_and_two_cameras(
    parameters: dict[str, object], tmp_path: Path
) -> None:
    """Missing model: FAILURE, node alive; then a good one, JPEG input, headers never mixed."""
    missing = {**parameters, 'model': tmp_path / 'nowhere'}
    with NodeProcess(tmp_path, **missing) as node, live_node.peer() as peer:
        assert not peer.change('configure')
        assert peer.state() == 'unconfigured'
        assert str(tmp_path / 'nowhere') in node.output
        assert f'ros2 lifecycle set {NODE} configure' in node.output
        status = peer.diagnostics()['perception: engine']
        assert status.level == ERROR
        assert str(tmp_path / 'nowhere') in status.message
        assert not peer.change('activate')
        assert peer.set('model', str(parameters['model'])).successful
        assert peer.set('image_transport', 'compressed').successful
        assert peer.set('cameras', ['front', 'rear']).successful
        assert peer.change('configure')
        assert peer.change('activate')
        assert peer.state() == 'active'
        answers = {
            name: peer.listen(f'{NODE}/{name}/detections', Detection2DArray)
            for name in ('front', 'rear')
        }
        ok, jpeg = cv2.imencode('.jpg', live_node.picture(120, 160, red=True))
        assert ok
        data = array('B', jpeg.tobytes())
        for broken in (data[:-200], data[:3], array('B', b'no picture')):
            peer.send(CompressedImage(format='jpeg', data=broken), f'{NODE}/front/image/compressed')
            peer.spin(0.1)
        for number in range(10):
            for name in answers:
                message = CompressedImage(format='jpeg', data=data)
                message.header.stamp.sec = number
                message.header.frame_id = name
                peer.send(message, f'{NODE}/{name}/image/compressed')
            peer.spin(0.1)
        peer.until(lambda: all(answers.values()), 'answers for both cameras')
        for name, messages in answers.items():
            assert {message.header.frame_id for message in messages} == {name}
            assert len(messages[-1].detections) > 0
        assert int(values(peer.diagnostics()['perception: camera front'])['rejected']) >= 1
        assert peer.change('deactivate')
        assert peer.change('cleanup')
        assert peer.state() == 'unconfigured'
        returncode, _ = node.stop()
    assert returncode == 0
    assert 'Traceback' not in node.output


@pytest.mark.usefixtures('alone')
def test_depth_and_normals_are_published_while_somebody_listens(
    parameters: dict[str, object], tmp_path: Path
) -> None:
    """In metres and unit vectors of source pixels; a head without a listener is left out."""
    model = write_tiny_bundle(tmp_path / 'maps', maps=True)
    with live_node.active_node(tmp_path, **{**parameters, 'model': model}) as node:
        with live_node.peer() as peer:
            depth = peer.listen(f'{NODE}/depth', Image)
            deadline = time.monotonic() + live_node.PATIENCE_S
            while 'only these heads are computed from now on: depth' not in node.output:
                assert time.monotonic() < deadline, node.output
                peer.send(image(0))
                peer.spin(0.1)
            normals = peer.listen(f'{NODE}/normals', Image)
            while not normals:
                assert time.monotonic() < deadline, node.output
                peer.send(image(7))
                peer.spin(0.1)
        metres, vectors = depth[-1], normals[-1]
        assert metres.header == vectors.header == image(7).header
        assert (metres.encoding, vectors.encoding) == ('32FC1', '32FC3')
        assert (metres.height, metres.width, metres.step) == (120, 160, 640)
        red, grey = np.frombuffer(metres.data, np.float32).reshape(120, 160)[[20, 100], [20, 100]]
        np.testing.assert_allclose([red, grey], [1 + 10 / 3, 1 + 900 / 255], atol=1e-3)
        pointing = np.frombuffer(vectors.data, np.float32).reshape(120, 160, 3)
        np.testing.assert_allclose(pointing[20, 20], np.array([1, -1, -1]) / 3**0.5, atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(pointing, axis=2), 1, atol=1e-3)


STUCK = """
import time
from mtl_perception.engines import fake
def stuck(*_, **__):
    print('stuck now', flush=True)
    time.sleep(60)
fake.FakeEngine.{method} = stuck
"""


@pytest.mark.usefixtures('alone')
@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('method', ['__init__', 'run'])
def test_signal_while_the_engine_is_stuck_ends_in_time(
    method: str, sent: signal.Signals, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Also while an engine is being built or hangs in native code: exit code 0 within 2 s."""
    code = STUCK.format(method=method)
    parameters = {'autostart': 'true', 'model': tiny_bundle, 'engine': 'fake'}
    with NodeProcess(tmp_path, code, **parameters) as node, live_node.peer() as peer:
        if method == 'run':
            peer.listen_to_all()
            deadline = time.monotonic() + live_node.PATIENCE_S
            while 'stuck now' not in node.output and time.monotonic() < deadline:
                peer.send(image(0))  # until the node has seen us listening, too
                peer.spin(0.1)
        node.wait_for_output('stuck now')
        returncode, seconds = node.stop(sent)
    assert returncode == 0, node.output
    assert seconds < 2
    assert 'Traceback' not in node.output


@pytest.mark.usefixtures('alone')
def test_autostart_with_a_missing_model_stays_alive(tmp_path: Path) -> None:
    """An error line with the next command; a supervisor need not restart it."""
    with NodeProcess(tmp_path, autostart='true', model=tmp_path / 'nowhere') as node:
        node.wait_for_output(f'ros2 lifecycle set {NODE} configure')
        assert node.process.poll() is None
        assert node.stop()[0] == 0


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ('--ros-args -p score_threshold:=2.0', 'score_threshold must be 0 to 1, found 2'),
        ('--ros-args -p score_threshold:=1', 'must be a double, found 1 (write 1.0)'),
        ('--ros-args -p precision:=half', "must be one of ['auto', 'fp32'"),
        ('--ros-args -p stall_warn_s:=9.0', 'stall_error_s must be more than stall_warn_s'),
        ('--ros-args -p scor_threshold:=0.5', "did you mean 'score_threshold'?"),
        ('--ros-args -p cameras:=["a/b"]', 'distinct topic names'),
        ('--ros-args --nonsense', "unknown ROS arguments ['--nonsense']"),
        ('--model tiny', '`--ros-args -p name:=value`'),
    ],
)
def test_bad_start_is_one_sentence(
    arguments: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit code not 0, no traceback. In this process: starting eight more takes long."""
    assert main(['perception_node', *arguments.split()]) == 2
    said = capfd.readouterr().err
    rclpy.try_shutdown()
    assert says in said
    assert len(said.strip().splitlines()) == 1


def test_bad_parameter_is_the_exit_code_of_the_process() -> None:
    """What a supervisor sees."""
    done = subprocess.run(
        [sys.executable, '-m', 'mtl_perception.node', '--ros-args', '-p', 'score_threshold:=2.0'],
        cwd=live_node.ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith('perception: cannot start: score_threshold')
