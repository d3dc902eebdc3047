"""A bag through the real node: the process is started, fed over DDS, and what it says is recorded.

The only file here that needs ROS. Frames are published as a camera would: at the bag's pace,
stamped with the moment they were due, never waiting for the node. Latency is the time from that
stamp until the answer arrives here. Accuracy over all frames is the business of `offline.py`: what
a live run processes depends on the machine.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import LabelInfo

from mtl_perception import process
from mtl_perception.bundle import Bundle
from mtl_perception.replay.bag import DriveBag
from mtl_perception.replay.bag_writer import MessageWriter
from mtl_perception.replay.cdr import COMPRESSED_IMAGE, deserialise, stamp_of, with_stamp
from mtl_perception.replay.node_process import STOP_TIMEOUT_S, LiveError, NodeProcess
from mtl_perception.replay.timing import LiveRun, PlayedFrame
from mtl_perception.topics import TYPES, output_topic

log = logging.getLogger(__name__)

NODE = 'perception'
DIAGNOSTICS = '/diagnostics'
DIAGNOSTIC_ARRAY = 'diagnostic_msgs/msg/DiagnosticArray'
PLAYED_KEY = 'mtl_perception.played'

ACTIVE, UNCONFIGURED = 3, 1
READY_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 15.0
DRAIN_TIMEOUT_S = 10.0
LEAD_S = 0.3
"""Time between connecting and the first frame."""


@dataclass(frozen=True)
class LiveSettings:
    """What is asked of the node and of the player.

    speed: 1 is the bag's own pace. score_threshold: low, so that AP sees the whole curve; pictures
    are drawn above a higher one. domain: ROS_DOMAIN_ID of the run; None takes the environment's,
    or one that hardly anybody uses, so that a demo does not meet a robot.
    """

    model: str
    engine: str = 'auto'
    device: str = 'auto'
    precision: str = 'auto'
    speed: float = 1.0
    score_threshold: float = 0.05
    domain: int | None = None


def run_live(
    bag: DriveBag,
    bundle: Bundle,
    settings: LiveSettings,
    outputs: Path,
    log_file: Path,
    progress: Callable[[int, int], None],
) -> LiveRun:
    """Play a bag through the node and record its outputs as a bag.

    `progress` is called with frames played and answers received. Raises LiveError when the node
    does not become active, ends on its own, or nobody connects; BagError on a damaged bag. Ctrl-C
    stops early and still finishes the recording. The node process never outlives this call.
    """
    process.tune_allocator()
    with (
        _environment(settings),
        NodeProcess(
            _played_topic(bag).removesuffix('/compressed'), _parameters(bag, settings), log_file
        ) as node_process,
    ):
        context = Context()
        rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
        try:
            node = Node('replay', context=context)
            with MessageWriter(outputs) as writer:
                session = _Session(node, bag, bundle, writer, node_process, outputs)
                with _spinning(node, context):
                    return session.play(settings.speed, progress)
        finally:
            context.try_shutdown()


class _Session:
    """Publisher, subscriptions and recording of one run."""

    def __init__(
        self,
        node: Node,
        bag: DriveBag,
        bundle: Bundle,
        writer: MessageWriter,
        node_process: NodeProcess,
        outputs: Path,
    ) -> None:
        self._node = node
        self._bag = bag
        self._process = node_process
        self._writer = _Recorder(writer)
        topics = {
            task.name: output_topic('', task).replace('~', f'/{NODE}', 1)
            for task in bundle.manifest.tasks
            if task.kind in TYPES
        }
        answer = topics.get('detection') or next(iter(topics.values()))
        self.run = LiveRun(outputs, answer)
        self._lock = threading.Lock()
        self._state = node.create_client(GetState, f'/{NODE}/get_state')
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        image_type = CompressedImage if bag.image.msgtype == COMPRESSED_IMAGE else Image
        self._camera = node.create_publisher(image_type, _played_topic(bag), best_effort)
        for task in bundle.manifest.tasks:
            if task.name not in topics:
                continue
            self._record(topics[task.name], TYPES[task.kind], QoSProfile(depth=20))
            if task.kind == 'segmentation':
                latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
                self._record(f'{topics[task.name]}/label_info', LabelInfo, latched)
        self._record(DIAGNOSTICS, DiagnosticArray, QoSProfile(depth=20))

    def play(self, speed: float, progress: Callable[[int, int], None]) -> LiveRun:
        """Wait for the node, publish every frame when it is due, wait for the last answers."""
        with self._writer:
            self._wait_until_active()
            self._wait_until_connected()
            try:
                self._publish_all(speed, progress)
            except KeyboardInterrupt:
                log.warning('stopped by Ctrl-C; the report covers what was played so far')
                self.run.complete = False
            self._drain(progress)
            if self.run.frames:
                first = self.run.frames[0]
                self._writer.set_custom(
                    PLAYED_KEY,
                    f'stamp {first.stamp_ns} was {first.source_stamp_ns} in {self._bag.path}, '
                    f'speed {speed:g}',
                )
        return self.run

    def _record(self, topic: str, message_type: type, qos: QoSProfile) -> None:
        msgtype = f'{message_type.__module__.partition(".")[0]}/msg/{message_type.__name__}'
        latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL

        def on_message(cdr: bytes) -> None:
            now_ns = time.time_ns()
            if topic == self.run.answer_topic:
                with self._lock:
                    self.run.answered_ns.setdefault(stamp_of(cdr), now_ns)
            elif topic == DIAGNOSTICS:
                self._note_diagnostics(cdr, now_ns)
            self._writer.put(topic, msgtype, now_ns, cdr, latched)

        self._node.create_subscription(message_type, topic, on_message, qos, raw=True)

    def _note_diagnostics(self, cdr: bytes, now_ns: int) -> None:
        for status in deserialise(cdr, DIAGNOSTIC_ARRAY).status:
            if not status.name.startswith(NODE):
                continue
            values = {item.key: item.value for item in status.values}
            with self._lock:
                self.run.counters.update(values)
                if 'received' in values and self.run.frames:
                    elapsed_s = (now_ns - self.run.frames[0].stamp_ns) / 1e9
                    self.run.history.append({**values, 'elapsed_s': f'{elapsed_s:.3f}'})

    def _wait_until_active(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        unconfigured = 0
        while time.monotonic() < deadline:
            self._process.check()
            if self._state.wait_for_service(timeout_sec=0.2):
                request = self._state.call_async(GetState.Request())
                until = time.monotonic() + 2.0
                while not request.done() and time.monotonic() < until:
                    time.sleep(0.02)
                answer = request.result() if request.done() else None
                if answer is not None and answer.current_state.id == ACTIVE:
                    return
                # It configures before it answers: unconfigured means that it tried and failed.
                unconfigured += answer is not None and answer.current_state.id == UNCONFIGURED
                if unconfigured >= 3:
                    raise LiveError(self._process.told('the node could not be configured'))
            time.sleep(0.1)
        raise LiveError(
            self._process.told(f'the node did not become active within {READY_TIMEOUT_S:g} s')
        )

    def _wait_until_connected(self) -> None:
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while time.monotonic() < deadline:
            self._process.check()
            if self._camera.get_subscription_count() and self._node.count_publishers(
                self.run.answer_topic
            ):
                time.sleep(LEAD_S)
                return
            time.sleep(0.05)
        raise LiveError(
            self._process.told(
                f'node and player did not find each other within {CONNECT_TIMEOUT_S:g} s on '
                f'{self._camera.topic_name}'
            )
        )

    def _publish_all(self, speed: float, progress: Callable[[int, int], None]) -> None:
        start_ns, first_ns = time.time_ns() + int(LEAD_S * 1e9), None
        for stamp_ns, cdr in _prefetched(self._bag):
            first_ns = stamp_ns if first_ns is None else first_ns
            due_ns = start_ns + round((stamp_ns - first_ns) / speed)
            message = with_stamp(cdr, due_ns)
            while (wait_s := (due_ns - time.time_ns()) / 1e9) > 0:
                time.sleep(wait_s)
                self._process.check()
            late_ms = (time.time_ns() - due_ns) / 1e6
            with self._lock:
                self.run.frames.append(PlayedFrame(stamp_ns, due_ns, late_ms))
            self._camera.publish(message)
            progress(len(self.run.frames), len(self.run.answered_ns))

    def _drain(self, progress: Callable[[int, int], None]) -> None:
        """Wait until the node has accounted for every frame, as far as it ever will."""
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        quiet_since, answers = time.monotonic(), -1
        while time.monotonic() < deadline:
            self._process.check()
            with self._lock:
                found = len(self.run.answered_ns)
                counts = {k: int(self.run.counters.get(k, 0)) for k in COUNTED}
            progress(len(self.run.frames), found)
            settled = counts['received'] == sum(counts[k] for k in COUNTED if k != 'received')
            if found != answers:
                quiet_since, answers = time.monotonic(), found
            if time.monotonic() - quiet_since > 1.0 and settled and found >= counts['processed']:
                return
            time.sleep(0.1)
        log.warning('the node had not accounted for every frame after %g s', DRAIN_TIMEOUT_S)


COUNTED = ('received', 'processed', 'replaced', 'rejected', 'failed')
"""The camera's counters in /diagnostics: the first is the sum of the others once all is done."""


class _Recorder:
    """Writes messages from a thread of its own, so that compressing delays no callback."""

    def __init__(self, writer: MessageWriter) -> None:
        self._writer = writer
        self._queue: queue.SimpleQueue[tuple[str, str, int, bytes, bool] | None]
        self._queue = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._write, name='recorder', daemon=True)

    def __enter__(self) -> _Recorder:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def put(self, topic: str, msgtype: str, now_ns: int, cdr: bytes, latched: bool) -> None:
        """Queue one message."""
        self._queue.put((topic, msgtype, now_ns, cdr, latched))

    def set_custom(self, key: str, value: str) -> None:
        """Note something in the bag's metadata."""
        self._writer.set_custom(key, value)

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._writer.write(*item)
                except Exception as error:
                    self._error = error  # raised again by whoever leaves the block


def _prefetched(bag: DriveBag, depth: int = 8) -> Iterator[tuple[int, bytes]]:
    """Stamp and serialised image of every frame, read ahead by a thread."""
    items: queue.Queue[tuple[int, bytes] | Exception | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: tuple[int, bytes] | Exception | None) -> bool:
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for frame in bag.frames(truth=False):
                if not put((frame.stamp_ns, frame.cdr)):
                    return
            put(None)
        except Exception as error:
            put(error)  # raised again by whoever reads

    thread = threading.Thread(target=read, name='bag', daemon=True)
    thread.start()
    try:
        while (item := items.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


@contextmanager
def _spinning(node: Node, context: Context) -> Iterator[None]:
    """Answer subscriptions in a thread while the block runs."""
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            return

    thread = threading.Thread(target=spin, name='ros', daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join(STOP_TIMEOUT_S)
        node.destroy_node()


@contextmanager
def _environment(settings: LiveSettings) -> Iterator[None]:
    """DDS settings of this run, for us and for the node; put back afterwards."""
    before = dict(os.environ)
    domain = settings.domain if settings.domain is not None else os.environ.get('ROS_DOMAIN_ID')
    os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100 if domain is None else domain)
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ['PYTHONUNBUFFERED'] = '1'
    os.environ.setdefault('RCUTILS_COLORIZED_OUTPUT', '0')
    process.use_shared_memory_profile()
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _parameters(bag: DriveBag, settings: LiveSettings) -> dict[str, str]:
    compressed = bag.image.msgtype == COMPRESSED_IMAGE
    return {
        'model': settings.model,
        'engine': settings.engine,
        'device': settings.device,
        'precision': settings.precision,
        'autostart': 'true',
        'score_threshold': f'{settings.score_threshold:.6f}',
        'image_transport': 'compressed' if compressed else 'raw',
        'diagnostics_period_s': '0.5',
    }


def _played_topic(bag: DriveBag) -> str:
    """The bag's image topic, as image_transport would name it."""
    topic = bag.image.topic
    if bag.image.msgtype == COMPRESSED_IMAGE and not topic.endswith('/compressed'):
        return f'{topic}/compressed'
    return topic
