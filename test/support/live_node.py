# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Helpers for tests over real DDS: the node as a process, and a peer that talks to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Classification, Detection2DArray

ROOT = Path(__file__).resolve().parents[2]
NODE = '/perception'
PATIENCE_S = 30.0
"""How long a busy machine may take for what a calm one does at once."""
ANSWER_S = 5.0
"""After this long an answer counts as lost."""
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

TRANSITIONS = {
    'configure': (Transition.TRANSITION_CONFIGURE, 'inactive'),
    'activate': (Transition.TRANSITION_ACTIVATE, 'active'),
    'deactivate': (Transition.TRANSITION_DEACTIVATE, 'inactive'),
    'cleanup': (Transition.TRANSITION_CLEANUP, 'unconfigured'),
}
"""Request and goal by the label that `ros2 lifecycle` uses."""

TINY_TOPICS: dict[str, type] = {
    f'{NODE}/detections': Detection2DArray,
    f'{NODE}/drivable': Image,
    f'{NODE}/semantic': Image,
    f'{NODE}/scene/weather': Classification,
    f'{NODE}/scene/timeofday': Classification,
}
"""What the tiny bundle's tasks are published on, for the camera without a name."""


STARTED: list[NodeProcess] = []
"""Every node of this test run, in order."""


def private_ros_environment(folder: Path) -> dict[str, str]:
    """Environment in which nobody outside this test run is heard."""
    return {
        'ROS_DOMAIN_ID': str(1 + os.getpid() % 50),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'ROS_LOG_DIR': str(folder),
    }


class NodeProcess:
    """`python -m mtl_perception.node` with parameters; its output goes to a file."""

    def __init__(self, folder: Path, code: str = '', **parameters: object) -> None:
        """Start it; `code` is Python to run first, in the same process."""
        self.log = folder / f'node_{time.monotonic_ns()}.log'
        STARTED.append(self)
        run = 'import sys\nfrom mtl_perception.node.__main__ import main\nsys.exit(main())'
        start = ['-c', f'{code}\n{run}'] if code else ['-m', 'mtl_perception.node']
        command = [sys.executable, *start, '--ros-args']
        for name, value in parameters.items():
            command += ['-p', f'{name}:={value}']
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=dict(os.environ),
                start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> NodeProcess:
        """For a block that must not leave the process behind, however it ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is still there."""
        self.process.kill()
        self.process.wait()

    @property
    def output(self) -> str:
        """Everything it has said so far."""
        return self.log.read_text()

    def wait_for_output(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        """Until the text is there; fails the test when it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(
                    f'no {text!r} from the node, rc {self.process.poll()}: {self.output}'
                )
            time.sleep(0.02)

    @property
    def rss_mb(self) -> float:
        """Its resident memory."""
        status = Path(f'/proc/{self.process.pid}/status').read_text()
        return int(status.partition('VmRSS:')[2].split()[0]) / 1024

    def orphans(self) -> list[str]:
        """What still runs of what it started: command names by its session, itself excepted."""
        found = []
        for path in Path('/proc').glob('[0-9]*/stat'):
            try:
                name, _, rest = path.read_text().rpartition(')')
            except OSError:  # it has just ended
                continue
            pid, session = int(path.parent.name), int(rest.split()[3])
            if session == self.process.pid != pid:
                found.append(name.partition('(')[2])
        return found

    def stop(self, sent: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; (exit code, seconds until it was gone)."""
        started_s = time.monotonic()
        self.process.send_signal(sent)
        return self.process.wait(PATIENCE_S), time.monotonic() - started_s


class Peer:
    """Another participant: publishes images, records what comes back, calls services."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node('test_peer', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.received: dict[str, list[Any]] = {}
        self._clients: dict[str, Any] = {}
        self._image_publishers: dict[str, Any] = {}

    def close(self) -> None:
        """Leave."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def listen(self, topic: str, kind: type, qos: QoSProfile | None = None) -> list[Any]:
        """Record a topic, or go on doing so."""
        if topic not in self.received:
            self.received[topic] = []
            self.node.create_subscription(
                kind, topic, self.received[topic].append, qos or QoSProfile(depth=50)
            )
        return self.received[topic]

    def listen_to_all(self) -> None:
        """Record every output of the tiny bundle; returns when all are connected."""
        for topic, kind in TINY_TOPICS.items():
            self.listen(topic, kind)
        self.until(
            lambda: all(self.node.count_publishers(topic) for topic in TINY_TOPICS),
            'publishers of all outputs',
        )

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Spin until the condition holds; fails the test otherwise."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f'no {what} within {timeout_s} s'
            self._executor.spin_once(timeout_sec=0.02)

    def spin(self, seconds: float) -> None:
        """Just listen for a while."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def send(self, message: Image | CompressedImage, topic: str = f'{NODE}/image') -> None:
        """Publish an image as a camera driver does; waits for the node the first time."""
        if topic not in self._image_publishers:
            self._image_publishers[topic] = self.node.create_publisher(
                type(message), topic, BEST_EFFORT
            )
        publisher = self._image_publishers[topic]
        self.until(publisher.get_subscription_count, f'subscriber on {topic}')
        publisher.publish(message)

    def exchange(self, message: Image | CompressedImage, topic: str = f'{NODE}/image') -> None:
        """Send until the detections of this very header are back."""
        detections = self.listen(f'{NODE}/detections', Detection2DArray)
        deadline = time.monotonic() + PATIENCE_S
        while not any(found.header == message.header for found in detections):
            assert time.monotonic() < deadline, f'no detections for {message.header}'
            self.send(message, topic)
            self.spin(0.1)

    def repeat(self, message: Image, answered: Callable[[], Any]) -> None:
        """Send an image until it is answered: the first ones may come before all are connected."""
        deadline = time.monotonic() + PATIENCE_S
        while not answered():
            assert time.monotonic() < deadline, f'no answer to {message.header}'
            self.send(message)
            self.spin(0.2)

    def call(
        self,
        kind: type,
        service: str,
        request: Any,
        timeout_s: float = PATIENCE_S,
        has_happened: Callable[[], bool] = lambda: False,
    ) -> Any:
        """Call a service of the node; None when the answer was lost but it has happened.

        DDS may lose an answer on a busy machine, when the service has not seen the client yet; so
        what is not answered is asked again.
        """
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, f'{NODE}/{service}')
            self.until(self._clients[service].service_is_ready, f'service {service}')
            time.sleep(0.5)  # the service may not see this client yet: its answer would be lost
        client = self._clients[service]
        deadline = time.monotonic() + timeout_s
        while True:
            future = client.call_async(request)
            patience_s = min(ANSWER_S, deadline - time.monotonic())
            try:
                self.until(future.done, f'answer from {service}', patience_s)
                return future.result()
            except AssertionError:
                client.remove_pending_request(future)
                if time.monotonic() >= deadline:
                    raise
                if has_happened():
                    return None

    def change(self, label: str) -> bool:
        """Ask for a lifecycle transition; whether it succeeded."""
        transition, goal = TRANSITIONS[label]
        request = ChangeState.Request(transition=Transition(id=transition))
        before = self.state()
        answer = self.call(
            ChangeState,
            'change_state',
            request,
            has_happened=lambda: before != goal and self.state() == goal,
        )
        return answer is None or bool(answer.success)

    def state(self) -> str:
        """The node's lifecycle state."""
        return str(self.call(GetState, 'get_state', GetState.Request()).current_state.label)

    def set(self, name: str, value: object) -> SetParametersResult:
        """Set a parameter of the node; its answer."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        answer = self.call(
            SetParameters, 'set_parameters', SetParameters.Request(parameters=[parameter])
        )
        return answer.results[0]

    def diagnostics(self) -> dict[str, Any]:
        """The next /diagnostics message: status by name."""
        messages = self.listen('/diagnostics', DiagnosticArray)
        seen = len(messages)
        self.until(lambda: len(messages) > seen, '/diagnostics')
        return {status.name: status for status in messages[-1].status}


@contextmanager
def active_node(folder: Path, **parameters: object) -> Iterator[NodeProcess]:
    """An active node, which a signal ends well."""
    with NodeProcess(folder, autostart='true', **parameters) as node:
        node.wait_for_output('active: listening')
        yield node
        code, _ = node.stop()
    assert code == 0, node.output
    assert 'Traceback' not in node.output


@contextmanager
def peer() -> Iterator[Peer]:
    """A peer that leaves at the end."""
    made = Peer()
    try:
        yield made
    finally:
        made.close()


def values(status: Any) -> dict[str, str]:
    """Key values of a DiagnosticStatus."""
    return {item.key: item.value for item in status.values}


def picture(height: int, width: int, red: bool) -> np.ndarray:
    """bgr8: the upper left quarter pure red (the tiny bundle finds objects there) or all grey."""
    pixels = np.full((height, width, 3), 90, np.uint8)
    if red:
        pixels[: height // 2, : width // 2] = (0, 0, 255)
    return pixels


def stamped(message: Image, seconds: float) -> Image:
    """The image with that stamp."""
    stamp = message.header.stamp
    stamp.sec, stamp.nanosec = divmod(round(seconds * 1e9), 10**9)
    return message


def image(number: int, red: bool = True, height: int = 120, width: int = 160) -> Image:
    """A numbered bgr8 image message."""
    pixels = picture(height, width, red)
    message = Image(height=height, width=width, encoding='bgr8', step=3 * width)
    message.header.stamp.sec = 1000 + number
    message.header.stamp.nanosec = number
    message.header.frame_id = f'camera_{number}'
    message.data = array('B', pixels.tobytes())
    return message


__all__ = [
    'BEST_EFFORT', 'LATCHED', 'NODE', 'TINY_TOPICS', 'NodeProcess', 'Peer', 'active_node', 'image',
    'peer', 'picture', 'private_ros_environment', 'stamped', 'values',
]  # fmt: skip
