# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The real node in a process of its own, fed over DDS, and what it says.

The only file of replay that needs ROS. Frames are published as a camera would: at the bag's pace or
at a rate, stamped with the moment they were due, never waiting for the node. Latency is the time
from that moment until the answer arrives here. Accuracy over all frames is the business of
`offline.py`: what a live run processes depends on the machine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import LabelInfo

from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_writer import MessageWriter
from mtl_evaluation.bags.cameras import Camera
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.live.live_io import Recorder, environment, prefetched
from mtl_evaluation.live.node_process import STOP_TIMEOUT_S, LiveError, NodeProcess, RunningNode
from mtl_evaluation.live.timing import LiveRun, Pace, PlayedFrame
from mtl_evaluation.messages.cdr import COMPRESSED_IMAGE, deserialise, stamp_of, with_stamp
from mtl_perception import kinds, process
from mtl_perception.bundle import Bundle
from mtl_perception.node.messages import message_type
from mtl_perception.node.topics import output_topic

if TYPE_CHECKING:
    from typing_extensions import Self

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

COUNTED = ('received', 'processed', 'replaced', 'rejected', 'failed')
"""The camera's counters in /diagnostics: the first is the sum of the others once all is done."""

Messages = Iterable[tuple[int, bytes]]
"""Stamp in the bag and serialised image, in order."""

Progress = Callable[[int, int], None]
"""Called with frames played and answers received."""


@dataclass(frozen=True)
class LiveSettings:
    """What is asked of the node.

    score_threshold: low, so that AP sees the whole curve; pictures are drawn above a higher one.
    domain: ROS_DOMAIN_ID of the run; None takes the environment's, or one that hardly anybody uses,
    so that a demo does not meet a robot. sim_time: the node lives in the bag's time, which is
    published on /clock, and frames keep their stamps. node: a node that runs already, by its full
    name, is played to instead of one of our own; it has its own parameters then.
    """

    model: str
    engine: str = 'auto'
    device: str = 'auto'
    precision: str = 'auto'
    score_threshold: float = 0.05
    domain: int | None = None
    sim_time: bool = False
    node: str = ''


def run_live(
    bag: DriveBag | GuardedBag,
    bundle: Bundle,
    settings: LiveSettings,
    outputs: Path,
    log_file: Path,
    progress: Progress,
    pace: Pace | None = None,
) -> LiveRun:
    """Play a bag through the node and record its outputs as a bag.

    Raises LiveError when the node does not become active, ends on its own, or nobody connects;
    BagError on a damaged bag. Ctrl-C stops early and still finishes the recording. The node process
    never outlives this call.
    """
    pace = pace or Pace()
    messages = prefetched((frame.stamp_ns, frame.cdr) for frame in bag.raw_frames())
    with (
        MessageWriter(outputs) as writer,
        Recorder(writer) as recorder,
        LiveSession(bag.image, bundle, settings, log_file, recorder) as session,
    ):
        run = session.play(messages, pace, progress)
        run.outputs = outputs
        if run.frames:
            first = run.frames[0]
            recorder.set_custom(
                PLAYED_KEY,
                f'stamp {first.stamp_ns} was {first.source_stamp_ns} in {bag.path}, '
                f'speed {pace.speed:g}',
            )
    return run


class Hears(Protocol):
    """Who is told of every message that arrives: `live_io.Recorder`."""

    def put(self, topic: str, msgtype: str, now_ns: int, cdr: bytes, latched: bool) -> None:
        """One message."""


class LiveSession:
    """The node, connected and active, to which frames may be played again and again.

    Use as a context manager: it starts the node (unless `settings.node` runs already), and ends it
    with the block.
    """

    def __init__(
        self,
        camera: Camera,
        bundle: Bundle,
        settings: LiveSettings,
        log_file: Path,
        heard: Hears | None = None,
    ) -> None:
        """`heard` is told of everything that the node publishes."""
        self._camera = camera
        self._bundle = bundle
        self._settings = settings
        self._log_file = log_file
        self._heard = heard
        self._name = f'/{settings.node.strip("/") or NODE}'
        self._lock = threading.Lock()
        self._counters: dict[str, str] = {}
        self._topics = {
            task.name: output_topic('', task).replace('~', self._name, 1)
            for task in bundle.manifest.tasks
        }
        answer = self._topics.get('detection') or next(iter(self._topics.values()))
        self.run = LiveRun(answer)

    def __enter__(self) -> Self:
        """Start the node and wait until it is active; raises LiveError."""
        process.tune_allocator()
        self._open = ExitStack()
        try:
            own_node = not self._settings.node
            self._open.enter_context(environment(own_node, self._settings.domain))
            self._process: NodeProcess | RunningNode = RunningNode(self._name)
            if own_node:
                topic = _played_topic(self._camera).removesuffix('/compressed')
                parameters = _parameters(self._camera, self._settings)
                self._process = self._open.enter_context(
                    NodeProcess(topic, parameters, self._log_file)
                )
            context = Context()
            rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
            self._open.callback(context.try_shutdown)
            self._node = Node('replay', context=context)
            self._connect()
            self._open.enter_context(_spinning(self._node, context))
            self._wait_until_active()
            self._wait_until_connected()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the node."""
        self._open.close()

    def play(self, messages: Messages, pace: Pace, progress: Progress) -> LiveRun:
        """Publish every frame when it is due, wait for the last answers; raises LiveError.

        Ctrl-C stops early; the run is then not `complete`.
        """
        with self._lock:
            before = {key: int(self._counters.get(key, 0)) for key in COUNTED}
            run = self.run = LiveRun(self.run.answer_topic)
        try:
            self._publish_all(messages, pace, progress)
        except KeyboardInterrupt:
            log.warning('stopped by Ctrl-C; the report covers what was played so far')
            run.complete = False
        self._drain(progress, before)
        with self._lock:
            run.counters = dict(self._counters)
            for key in COUNTED:
                if key in run.counters:
                    run.counters[key] = str(int(run.counters[key]) - before[key])
        return run

    def _connect(self) -> None:
        """Create publishers and subscriptions."""
        self._state = self._node.create_client(GetState, f'{self._name}/get_state')
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        image_type = CompressedImage if self._camera.msgtype == COMPRESSED_IMAGE else Image
        self._publisher = self._node.create_publisher(
            image_type, _played_topic(self._camera), best_effort
        )
        self._clock = None
        if self._settings.sim_time:
            self._clock = self._node.create_publisher(Clock, '/clock', best_effort)
        for task in self._bundle.manifest.tasks:
            topic = self._topics[task.name]
            kind = kinds.of(task)
            self._listen(topic, message_type(kind.message), QoSProfile(depth=20))
            if kind.is_mask:
                latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
                self._listen(f'{topic}/label_info', LabelInfo, latched)
        self._listen(DIAGNOSTICS, DiagnosticArray, QoSProfile(depth=20))

    def _listen(self, topic: str, message_type: type, qos: QoSProfile) -> None:
        msgtype = f'{message_type.__module__.partition(".")[0]}/msg/{message_type.__name__}'
        latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL

        def on_message(cdr: bytes) -> None:
            now_ns = time.time_ns()
            if topic == self.run.answer_topic:
                with self._lock:
                    self.run.answered_ns.setdefault(stamp_of(cdr), now_ns)
            elif topic == DIAGNOSTICS:
                self._note_diagnostics(cdr, now_ns)
            if self._heard is not None:
                self._heard.put(topic, msgtype, now_ns, cdr, latched)

        self._node.create_subscription(message_type, topic, on_message, qos, raw=True)

    def _note_diagnostics(self, cdr: bytes, now_ns: int) -> None:
        for status in deserialise(cdr, DIAGNOSTIC_ARRAY).status:
            if not status.name.startswith(self._name.strip('/')):
                continue
            values = {item.key: item.value for item in status.values}
            with self._lock:
                self._counters.update(values)
                if 'received' in values and self.run.frames:
                    elapsed_s = (now_ns - self.run.frames[0].due_ns) / 1e9
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
            if self._publisher.get_subscription_count() and self._node.count_publishers(
                self.run.answer_topic
            ):
                time.sleep(LEAD_S)
                return
            time.sleep(0.05)
        raise LiveError(
            self._process.told(
                f'node and player did not find each other within {CONNECT_TIMEOUT_S:g} s on '
                f'{self._publisher.topic_name}'
            )
        )

    def _publish_all(self, messages: Messages, pace: Pace, progress: Progress) -> None:
        run, sim_time = self.run, self._settings.sim_time
        start_ns, first_ns = time.time_ns() + int(LEAD_S * 1e9), None
        for index, (source_ns, cdr) in enumerate(messages):
            first_ns = source_ns if first_ns is None else first_ns
            due_ns = start_ns + pace.offset_ns(index, source_ns - first_ns)
            stamp_ns = source_ns if sim_time else due_ns
            message = cdr if sim_time else with_stamp(cdr, stamp_ns)
            while (wait_s := (due_ns - time.time_ns()) / 1e9) > 0:
                time.sleep(wait_s)
                self._process.check()
            late_ms = (time.time_ns() - due_ns) / 1e6
            with self._lock:
                run.frames.append(PlayedFrame(source_ns, stamp_ns, late_ms, due_ns))
            if self._clock is not None:
                seconds, nanoseconds = divmod(source_ns, 1_000_000_000)
                self._clock.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))
            self._publisher.publish(message)
            progress(len(run.frames), len(run.answered_ns))

    def _drain(self, progress: Progress, before: dict[str, int]) -> None:
        """Wait until the node has accounted for every frame, as far as it ever will."""
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        quiet_since, answers = time.monotonic(), -1
        while time.monotonic() < deadline:
            self._process.check()
            with self._lock:
                found = len(self.run.answered_ns)
                counts = {k: int(self._counters.get(k, 0)) - before[k] for k in COUNTED}
            progress(len(self.run.frames), found)
            settled = counts['received'] == sum(counts[k] for k in COUNTED if k != 'received')
            if found != answers:
                quiet_since, answers = time.monotonic(), found
            if time.monotonic() - quiet_since > 1.0 and settled and found >= counts['processed']:
                return
            time.sleep(0.1)
        log.warning('the node had not accounted for every frame after %g s', DRAIN_TIMEOUT_S)


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


def _parameters(camera: Camera, settings: LiveSettings) -> dict[str, str]:
    compressed = camera.msgtype == COMPRESSED_IMAGE
    return {
        'model': settings.model,
        'engine': settings.engine,
        'device': settings.device,
        'precision': settings.precision,
        'autostart': 'true',
        'score_threshold': f'{settings.score_threshold:.6f}',
        # Average precision wants every class of a box; what is drawn is suppressed again.
        'cross_class_iou_threshold': '1.0',
        'image_transport': 'compressed' if compressed else 'raw',
        'diagnostics_period_s': '0.5',
        'use_sim_time': 'true' if settings.sim_time else 'false',
    }


def _played_topic(camera: Camera) -> str:
    """The bag's image topic, as image_transport would name it."""
    topic = camera.topic
    if camera.msgtype == COMPRESSED_IMAGE and not topic.endswith('/compressed'):
        return f'{topic}/compressed'
    return topic
