# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Faults done to the real node as a process, and what was measured: `docs/reliability.md`.

The tests run each of them small, `test/benchmarks/reliability.py` in full.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from live_node import BEST_EFFORT, NODE, PATIENCE_S, NodeProcess, Peer, image, stamped, values
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from mtl_perception.node.health import RATE_WINDOW_S

SCRIPTED = """
import time
from mtl_perception.engines import fake
from mtl_perception.engines.base import EngineError
def run(self, batch, plain=fake.FakeEngine.run):
    print('in work', flush=True)
    {step}
    return plain(self, batch)
fake.FakeEngine.run = run
"""


def slow_engine(seconds: float) -> str:
    """Code for a NodeProcess: the fake engine takes so long for a frame, together or alone."""
    return SCRIPTED.format(step=f'time.sleep({seconds} * len(batch))')


def batching_engine(seconds: float) -> str:
    """The same for a run, of however many frames."""
    return SCRIPTED.format(step=f'time.sleep({seconds})')


OUT_OF_MEMORY = SCRIPTED.format(step="raise EngineError('out of memory')")
"""Code for a NodeProcess: the fake engine fails on whatever it is given."""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    seconds: float
    traceback: bool
    orphans: list[str]

    @property
    def well(self) -> bool:
        """Whether that is what a supervisor expects after a signal."""
        return self.code == 0 and self.seconds <= 2 and not self.traceback and not self.orphans


def signalled(folder: Path, bundle: Path, sent: signal.Signals, peer: Peer) -> Ended:
    """Start a node, send it a signal while a frame is in its engine, and see it end."""
    with NodeProcess(
        folder, slow_engine(0.4), model=bundle, engine='fake', autostart='true'
    ) as node:
        peer.listen(f'{NODE}/detections', Detection2DArray)
        deadline = time.monotonic() + PATIENCE_S
        while 'in work' not in node.output:
            assert time.monotonic() < deadline, f'no frame was taken: {node.output}'
            peer.send(image(0))
            peer.spin(0.02)
        code, seconds = node.stop(sent)
        return Ended(code, seconds, 'Traceback' in node.output, node.orphans())


def until_lost(folder: Path, bundle: Path, peer: Peer) -> tuple[int, float]:
    """Start a node whose engine always fails; exit code, and seconds since the third failure."""
    with NodeProcess(folder, OUT_OF_MEMORY, model=bundle, engine='fake', autostart='true') as node:
        peer.listen(f'{NODE}/detections', Detection2DArray)
        deadline = time.monotonic() + PATIENCE_S
        while node.output.count('in work') < 3:
            assert time.monotonic() < deadline, f'no three failures: {node.output}'
            peer.send(image(0))
            peer.spin(0.02)
        failed_s = time.monotonic()
        code = node.process.wait(PATIENCE_S)
        seconds = time.monotonic() - failed_s
        assert 'Traceback' not in node.output, node.output
        assert 'to be started again' in node.output, node.output
        return code, seconds


def lifecycle_cycles(node: NodeProcess, peer: Peer, cycles: int) -> list[float]:
    """Configure, activate, one frame, deactivate, cleanup; resident megabytes after each cycle."""
    rss_mb = []
    for number in range(cycles):
        for label in ('configure', 'activate'):
            assert peer.change(label), f'{label} in cycle {number}: {node.output}'
        peer.exchange(image(number))
        for label in ('deactivate', 'cleanup'):
            assert peer.change(label), f'{label} in cycle {number}: {node.output}'
        rss_mb.append(node.rss_mb)
    return rss_mb


@dataclass
class Load:
    """Images sent at a rate, and the answers with the age that they had on arrival."""

    sent: dict[str, int] = field(default_factory=dict)
    ages_s: dict[str, list[float]] = field(default_factory=dict)
    mixed: int = 0
    camera: dict[str, dict[str, str]] = field(default_factory=dict)
    """Diagnostic values by camera, of after the last image."""

    @property
    def answers(self) -> int:
        """Of all cameras."""
        return sum(len(ages) for ages in self.ages_s.values())

    @property
    def shares(self) -> dict[str, float]:
        """Answers of a camera relative to an equal share of all."""
        return {
            name: len(ages) * len(self.ages_s) / self.answers for name, ages in self.ages_s.items()
        }


@contextmanager
def spinning(peer: Peer) -> Any:
    """Callbacks of the peer run on a thread of their own inside the block."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            peer.spin(0.05)

    thread = threading.Thread(target=spin)
    thread.start()
    yield
    stop.set()
    thread.join()


def loaded(peer: Peer, cameras: list[str], rate_hz: float, seconds: float) -> Load:
    """Send small images of the present time to every camera at a rate, and wait for the end."""
    load = Load(dict.fromkeys(cameras, 0), {name: [] for name in cameras})
    prefixes = {name: f'{NODE}/{name}'.rstrip('/') for name in cameras}

    def answered(name: str, message: Detection2DArray) -> None:
        load.mixed += message.header.frame_id != f'camera_{name}'
        stamp = message.header.stamp
        load.ages_s[name].append(time.time() - stamp.sec - stamp.nanosec / 1e9)

    subscriptions = [
        peer.node.create_subscription(
            Detection2DArray, f'{prefix}/detections', lambda m, name=name: answered(name, m), 100
        )
        for name, prefix in prefixes.items()
    ]
    publishers = {
        name: peer.node.create_publisher(Image, f'{prefix}/image', BEST_EFFORT)
        for name, prefix in prefixes.items()
    }
    for name, prefix in prefixes.items():
        peer.until(publishers[name].get_subscription_count, f'subscriber of camera {name!r}')
        peer.until(lambda p=prefix: peer.node.count_publishers(f'{p}/detections'), 'publisher')
    peer.spin(0.5)
    before = camera_values(peer)
    with spinning(peer):
        started_s = time.monotonic()
        for number in range(round(rate_hz * seconds)):
            time.sleep(max(0.0, started_s + number / rate_hz - time.monotonic()))
            for name, publisher in publishers.items():
                message = stamped(image(0, height=64, width=96), time.time())
                message.header.frame_id = f'camera_{name}'
                publisher.publish(message)
                load.sent[name] += 1
        time.sleep(0.5)
    peer.diagnostics()
    after = camera_values(peer)
    for name, found in after.items():
        counts = ('received', 'processed', 'replaced', 'rejected', 'failed', 'unwanted', 'pending')
        load.camera[name] = found | {
            key: str(int(found[key]) - int(before[name][key])) for key in counts
        }
    for entity in subscriptions:
        peer.node.destroy_subscription(entity)
    for publisher in publishers.values():
        peer.node.destroy_publisher(publisher)
    return load


def camera_values(peer: Peer) -> dict[str, dict[str, str]]:
    """Diagnostic values by camera name."""
    head = f'{NODE.strip("/")}: camera'
    return {
        name.removeprefix(head).strip(): values(status)
        for name, status in peer.diagnostics().items()
        if name.startswith(head)
    }


def stall(peer: Peer, seconds: float) -> dict[str, float]:
    """Send images, stop for so long, send again: seconds until WARN, ERROR, and OK were heard.

    To be heard means: received by this process from /diagnostics. It begins when the camera is OK:
    images that were rejected before count for a while.
    """
    heard: dict[str, float] = {}
    names = {b'\x00': 'ok_s', b'\x01': 'warn_s', b'\x02': 'error_s'}
    status_name = f'{NODE.strip("/")}: camera'
    peer.exchange(image(0))
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < RATE_WINDOW_S + 1:
        peer.exchange(image(0))
        peer.diagnostics()
    peer.send(image(1))
    silent_s = time.monotonic()
    while time.monotonic() - silent_s < seconds:
        level = peer.diagnostics()[status_name].level
        if level != b'\x00':
            heard.setdefault(names[level], time.monotonic() - silent_s)
    back_s = time.monotonic()
    peer.send(image(2))
    while 'ok_s' not in heard and time.monotonic() - back_s < PATIENCE_S:
        if peer.diagnostics()[status_name].level == b'\x00':
            heard['ok_s'] = time.monotonic() - back_s
    return heard


def slope_mb_per_h(seconds: list[float], rss_mb: list[float]) -> float:
    """Least-squares slope of resident memory over time."""
    if len(seconds) < 2:
        raise ValueError('a slope needs two samples or more')
    return float(np.polyfit(np.asarray(seconds) / 3600, rss_mb, 1)[0])
