# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A frame's way through the node: take -> read -> infer -> decode -> publish, on one thread.

`put` (executor thread) keeps the newest message of a camera; the worker thread takes it, runs the
subscribed tasks, and publishes with the source header unchanged. Where a batch is faster, it takes
the newest of several cameras and runs them together. A frame that cannot be used is counted and
logged, without harm to the others; an engine that fails again and again stops the worker.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from mtl_perception.adaptive import SizeController
from mtl_perception.engine_pool import EnginePool
from mtl_perception.engines.base import EngineError
from mtl_perception.frame import Frame
from mtl_perception.image_codec import ImageError, decode_compressed
from mtl_perception.newest import NewestSlots, SlotCounts
from mtl_perception.node import health
from mtl_perception.node.bridge import decode_image
from mtl_perception.node.health import CameraHealth, EngineHealth
from mtl_perception.node.topics import CameraTopics, Wanted
from mtl_perception.pipeline import Inference
from mtl_perception.text import one_line, quoted

MAX_FRAME_ID = 256

ImageMessage: TypeAlias = Image | CompressedImage


@dataclass
class Camera:
    """What belongs to one camera while the node is configured."""

    name: str
    topic: str
    topics: CameraTopics
    health: CameraHealth
    subscription: Subscription | None = None


@dataclass(frozen=True)
class Job:
    """A frame of which something is requested."""

    camera: Camera
    header: Header
    frame: Frame
    wanted: Wanted
    image_ms: float


class Worker:
    """The thread that infers, for all cameras in turn."""

    def __init__(
        self,
        node: Node,
        cameras: Sequence[str],
        pool: EnginePool,
        engine: EngineHealth,
        sizes: SizeController | None = None,
    ) -> None:
        """Nothing runs before `start`, and `cameras` has an entry a name; `node` gives the rest.

        sizes: decides on the input size, and is told how long frames take.
        """
        self.cameras: dict[str, Camera] = {}
        self.pool = pool
        self.sizes = sizes
        self._node = node
        self._engine = engine
        self._slots: NewestSlots[ImageMessage] = NewestSlots(cameras)
        self._throttle = health.Throttle()
        self._thread: threading.Thread | None = None
        self._given_up = False

    def put(self, camera: Camera, message: ImageMessage) -> None:
        """Keep the newest; nothing here may take time, or DDS drops what comes next."""
        camera.health.watchdog.feed()
        self._slots.put(camera.name, message)

    def counts(self, camera: str) -> SlotCounts:
        """What became of one camera's frames before they were taken."""
        return self._slots.counts(camera)

    @property
    def is_running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Take frames from now on."""
        self._slots.reopen()
        self._thread = threading.Thread(target=self._run, name='perception', daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Drop what waits and end the thread; False when it is still busy after `timeout_s`.

        It is given up then: it is not waited for again, and publishes nothing should it come back.
        """
        self._slots.close()
        if self._thread is not None and not self._given_up:
            self._thread.join(timeout_s)
        self._given_up = self.is_running
        return not self._given_up

    def _run(self) -> None:
        """The thread: work until there is none left, and never end without saying so."""
        try:
            self._work()
        except Exception as error:  # what no frame can be blamed for
            if not self._is_leaving:
                self._engine.fault = f'the worker ended: {type(error).__name__}: {error}'
                self._node.get_logger().error(traceback.format_exc())
        self._engine.frame_ended()

    def _work(self) -> None:
        """Frame after frame until the slots are closed or the engine is given up.

        What raises in `_read`, `_infer` or `_answer` is counted as the failure of its frame there.
        """
        while not self._engine.fault and (taken := self._take()):
            jobs = [job for camera, message in taken if (job := self._read(camera, message))]
            for job, outcome in zip(jobs, self._infer(jobs), strict=False):
                self._answer(job, outcome)
            elapsed_s = self._engine.frame_ended()
            if jobs and self.sizes is not None:
                self.sizes.add(elapsed_s * 1e3 / len(jobs))

    def _take(self) -> list[tuple[Camera, ImageMessage]]:
        """Wait for the newest message of one camera, or of several where a batch is faster."""
        taken = self._slots.take_several(*self.pool.batch_range)
        self._engine.frame_started()
        return [(self.cameras[name], message) for name, message in taken]

    def _read(self, camera: Camera, message: ImageMessage) -> Job | None:
        """The frame of a message; None when nobody subscribes to it or it cannot be used."""
        with self._accounted(camera):
            wanted = camera.topics.wanted()
            if not wanted:
                camera.health.frame_unwanted()
                return None
            started_s = time.perf_counter()
            # It goes out with every box of the frame.
            if len(message.header.frame_id) > MAX_FRAME_ID:
                raise ImageError(
                    f'frame_id is {quoted(message.header.frame_id)}, expected at most '
                    f'{MAX_FRAME_ID} characters'
                )
            if isinstance(message, CompressedImage):
                frame = decode_compressed(message.format, message.data)
            else:
                frame = decode_image(message)
            image_ms = (time.perf_counter() - started_s) * 1e3
            return Job(camera, message.header, frame, wanted, image_ms)
        return None

    def _infer(self, jobs: Sequence[Job]) -> Sequence[Inference | Exception]:
        """What the engine computes for each; empty when it fails for all of them at once."""
        if not jobs:
            return []
        with self._accounted(*(job.camera for job in jobs)):
            tasks = frozenset().union(*(job.wanted.computed for job in jobs))
            return self.pool.infer([job.frame for job in jobs], tasks)
        return []

    def _answer(self, job: Job, outcome: Inference | Exception) -> None:
        """Decode and publish one frame."""
        with self._accounted(job.camera):
            if isinstance(outcome, Exception):
                raise outcome
            result = outcome.decode(job.wanted.computed, job.wanted.navigation.confidences)
            if self._given_up:
                return
            decoded_s = time.perf_counter()
            job.camera.topics.publish(job.header, job.frame, result, job.wanted)
            stages_ms = {
                'image': job.image_ms,
                **result.timings_ms,
                'publish': (time.perf_counter() - decoded_s) * 1e3,
            }
            job.camera.health.frame_done(stages_ms, self._age_ms(job.header))
            self._engine.failures = 0

    @contextmanager
    def _accounted(self, *cameras: Camera) -> Iterator[None]:
        """What raises inside is counted as a failed frame of each camera, logged, and ends here."""
        try:
            yield
        except ImageError as error:
            reason = one_line(str(error), health.MAX_REASON)
            for camera in cameras:
                camera.health.frame_rejected(reason)
                self._warn(f'{camera.topic}: image rejected: {reason}', key=f'image {camera.name}')
        except Exception as error:  # whatever an engine throws must not end the thread
            if not self._is_leaving:
                self._failed(cameras, error)

    @property
    def _is_leaving(self) -> bool:
        """Whether the node goes down or left this worker behind: publishing fails then, rightly."""
        return self._given_up or not self._node.context.ok()

    def _failed(self, cameras: Sequence[Camera], error: Exception) -> None:
        """Skip the frames; after a few in a row stop, and find out whether that can be mended."""
        self._engine.failures += 1
        for camera in cameras:
            camera.health.frame_failed()
        topics = ', '.join(camera.topic for camera in cameras)
        what = str(error) if isinstance(error, EngineError) else f'{type(error).__name__}: {error}'
        what = one_line(what, health.MAX_REASON)
        self._warn(f'{topics}: frame skipped: {what}', key='engine')
        self._node.get_logger().debug(traceback.format_exc())
        failures = self._engine.failures
        if failures >= health.MAX_FAILURES and not self._engine.fault:
            self._engine.beyond_repair = self._fails_on_nothing()
            self._engine.fault = f'{failures} frames in a row failed, the last with: {what}'

    def _fails_on_nothing(self) -> bool:
        """Whether the engine fails on an empty picture too: then no other frame will help it."""
        try:
            self.pool.full.run_empty()
        except Exception:  # what it throws has been said three times
            return True
        return False

    def _age_ms(self, header: Header) -> float | None:
        """From the image's stamp to now; None for a stamp that is not set or in the future."""
        stamp_ns = header.stamp.sec * 10**9 + header.stamp.nanosec  # rclpy's Time refuses negatives
        age_ns = self._node.get_clock().now().nanoseconds - stamp_ns
        return age_ns / 1e6 if stamp_ns > 0 and age_ns >= 0 else None

    def _warn(self, text: str, key: str) -> None:
        """Log a warning, at most once in 5 s a key."""
        held_back = self._throttle(key)
        if held_back is not None:
            more = f' ({held_back} more since the last such line)' if held_back else ''
            self._node.get_logger().warning(text + more)
