"""The perception node: camera frames in, what is in them out, as a managed (lifecycle) node.

A frame's way: `_on_image` (executor thread) puts the message into its camera's newest-frame slot ->
`_work` (the one worker thread) takes it -> `_process` decodes the image, runs the pipeline on the
tasks that somebody listens to, and publishes with the source header unchanged. The rest is
transitions, parameters and `/diagnostics`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from rclpy.utilities import remove_ros_args, try_shutdown
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from mtl_perception import health, parameters, process
from mtl_perception.bundle import BundleError
from mtl_perception.decode import Thresholds
from mtl_perception.engines.base import EngineError
from mtl_perception.health import CameraHealth, Status
from mtl_perception.image_codec import ImageError, decode_compressed, decode_raw
from mtl_perception.lifecycle import ERROR, FAILURE, SUCCESS, ManagedNode
from mtl_perception.newest import NewestSlots
from mtl_perception.parameters import ParameterError, Parameters
from mtl_perception.pipeline import Frame, Pipeline
from mtl_perception.topics import CameraTopics, image_topic, input_qos

UnknownROSArgsError = rclpy_implementation.UnknownROSArgsError

MAX_FAILURES = 3
"""Engine failures in a row after which the node goes inactive and says so."""
HEALTH_TICK_S = 0.05
"""How late a change of level can show in /diagnostics."""
WORKER_EXIT_S = 10.0
"""How long a transition waits for the frame in work; a worker that hangs longer is a fault."""
PROCESS_EXIT_S = 1.5
"""How long a signalled process waits for it."""

USAGE = 'parameters are given as `--ros-args -p name:=value` or `--ros-args --params-file FILE`'

ImageMessage: TypeAlias = Image | CompressedImage


@dataclass
class Camera:
    """What belongs to one camera while the node is configured."""

    name: str
    topic: str
    topics: CameraTopics
    health: CameraHealth
    subscription: Subscription | None = None


class PerceptionNode(ManagedNode):
    """Lifecycle node `perception`; parameters in `parameters.py`, topics in `topics.py`."""

    def __init__(self) -> None:
        """Declare parameters, start /diagnostics; raises ParameterError on bad overrides."""
        super().__init__('perception')
        self._settings = parameters.declare(self)
        self._pipeline: Pipeline | None = None
        self._slots: NewestSlots[ImageMessage] = NewestSlots(self._settings.cameras)
        self._cameras: dict[str, Camera] = {}
        self._worker: threading.Thread | None = None
        self._throttle = health.Throttle()
        self._failures = 0
        self._fault = ''
        self._levels: list[bytes] = []
        self._reported_s = 0.0
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)
        self._diagnostics = self.create_publisher(
            DiagnosticArray, '/diagnostics', QoSProfile(depth=5)
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(HEALTH_TICK_S, self._watch, clock=steady)

    # A frame's way -------------------------------------------------------------------------------

    def _on_image(self, camera: Camera, message: ImageMessage) -> None:
        """Keep the newest; nothing here may take time, or DDS drops what comes next."""
        camera.health.watchdog.feed()
        self._slots.put(camera.name, message)

    def _work(self) -> None:
        """The worker thread: frame after frame until the slots are closed."""
        while (taken := self._slots.take()) is not None:
            name, message = taken
            camera = self._cameras[name]
            try:
                self._process(camera, message)
                self._failures = 0
            except ImageError as error:
                camera.health.frame_rejected(str(error))
                self._warn(f'{camera.topic}: image rejected: {error}', key=f'image {name}')
            except Exception as error:  # whatever an engine throws must not end the thread silently
                if not self.context.ok():  # the process is going down: publishing fails, rightly
                    return
                self._failed(camera, error)
                if self._fault:
                    return

    def _process(self, camera: Camera, message: ImageMessage) -> None:
        wanted = camera.topics.wanted()
        if not wanted:
            camera.health.frame_unwanted()
            return
        started_s = time.perf_counter()
        frame = _decode(message)
        decoded_s = time.perf_counter()
        pipeline = self._pipeline
        if pipeline is None:
            raise RuntimeError('the worker runs without a pipeline')
        result = pipeline(frame, wanted.computed)
        inferred_s = time.perf_counter()
        camera.topics.publish(message.header, frame, result, wanted)
        stages_ms = {
            'image': (decoded_s - started_s) * 1e3,
            **result.timings_ms,
            'publish': (time.perf_counter() - inferred_s) * 1e3,
        }
        camera.health.frame_done(stages_ms, self._age_ms(message.header))

    def _failed(self, camera: Camera, error: Exception) -> None:
        """Skip the frame; after a few in a row stop, and say so in /diagnostics."""
        self._failures += 1
        camera.health.frame_failed()
        what = str(error) if isinstance(error, EngineError) else f'{type(error).__name__}: {error}'
        self._warn(f'{camera.topic}: frame skipped: {what}', key='engine')
        self.get_logger().debug(traceback.format_exc())
        if self._failures >= MAX_FAILURES:
            self._fault = f'{self._failures} frames in a row failed, the last with: {what}'

    def _age_ms(self, header: Header) -> float | None:
        """From the image's stamp to now; None for a stamp that is not set or in the future."""
        stamp_ns = header.stamp.sec * 10**9 + header.stamp.nanosec  # rclpy's Time refuses negatives
        age_ns = self.get_clock().now().nanoseconds - stamp_ns
        return age_ns / 1e6 if stamp_ns > 0 and age_ns >= 0 else None

    # Transitions ---------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open bundle and engine and create the outputs; else FAILURE with one sentence."""
        try:
            self._configure()
        except (ParameterError, BundleError, EngineError) as error:
            reason = str(error)
        except Exception as error:  # rclpy would swallow it without a word
            self.get_logger().debug(traceback.format_exc())
            reason = f'unexpected {type(error).__name__}: {error}'
        else:
            return SUCCESS
        self._release()
        self._fault = f'not configured: {reason}'
        name = self.get_fully_qualified_name()
        self.get_logger().error(
            f'{self._fault} | after `ros2 param set {name} <parameter> <value>` try again: '
            f'`ros2 lifecycle set {name} configure`'
        )
        return FAILURE

    def _configure(self) -> None:
        self._fault = ''
        self._settings = p = parameters.read(self)
        building = '; building a missing engine can take minutes' if p.build else ''
        self.get_logger().info(f'configuring: model {p.model!r}, engine {p.engine!r}{building}')
        self._report()
        self._pipeline = Pipeline.open(
            p.model,
            engine=p.engine,
            device=p.device,
            precision=p.precision,
            build=p.build,
            thresholds=_thresholds(p),
        )
        manifest = self._pipeline.bundle.manifest
        mask_task = parameters.overlay_task(p.overlay_task, manifest.tasks)
        self._slots = NewestSlots(p.cameras)
        for name in p.cameras:
            topics = CameraTopics(self, name, manifest.tasks, mask_task)
            topics.publish_label_infos(self.get_clock().now().to_msg())
            topic = image_topic(self, name, p.image_transport)
            camera_health = CameraHealth(p.stall_warn_s, p.stall_error_s)
            self._cameras[name] = Camera(name, topic, topics, camera_health)
        info = self._pipeline.info
        self.get_logger().info(
            f'configured: {manifest.name} on {info.name} {info.version}, {info.device}, '
            f'{info.precision}; tasks {", ".join(task.name for task in manifest.tasks)}'
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and listen to the cameras."""
        p = self._settings
        self._failures, self._fault = 0, ''
        self._slots.reopen()
        self._worker = threading.Thread(target=self._work, name='perception', daemon=True)
        self._worker.start()
        compressed = p.image_transport == 'compressed'
        for camera in self._cameras.values():
            camera.health.watchdog.feed()
            camera.subscription = self.create_subscription(
                CompressedImage if compressed else Image,
                camera.topic,
                partial(self._on_image, camera),
                input_qos(p.image_reliability),
            )
            self.get_logger().info(f'active: listening to {camera.topic} ({p.image_transport})')
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening and inferring; the engine stays loaded. ERROR if the worker hangs."""
        if not self._stop(WORKER_EXIT_S):
            self._fault = f'the worker did not end within {WORKER_EXIT_S:g} s'
            return ERROR
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of engine and topics."""
        self._release()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of everything, from whatever state."""
        self._release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, from where a good configuration can be tried again."""
        self._fault = self._fault or f'a transition from {state.label} failed'
        self._release()
        self.get_logger().error(f'{self._fault}; the node is unconfigured now')
        return SUCCESS

    def _stop(self, timeout_s: float) -> bool:
        """End subscriptions and worker; False when the worker is still busy after `timeout_s`."""
        for camera in self._cameras.values():
            if camera.subscription is not None:
                self.destroy_subscription(camera.subscription)
                camera.subscription = None
        self._slots.close()
        if self._worker is not None:
            self._worker.join(timeout_s)
            if self._worker.is_alive():
                return False
            self._worker = None
        return True

    def _release(self) -> None:
        """Let go of what a configuration made; an engine that still runs is left to itself."""
        idle = self._stop(WORKER_EXIT_S)
        for camera in self._cameras.values():
            camera.topics.destroy()
        self._cameras = {}
        if self._pipeline is not None and idle:
            self._pipeline.close()
        self._pipeline = None

    # Parameters ----------------------------------------------------------------------------------

    def _check_parameters(self, changes: Sequence[RosParameter]) -> SetParametersResult:
        present = {name: self.get_parameter(name).value for name in parameters.BY_NAME}
        wanted = {change.name: change.value for change in changes}
        refusal = parameters.refusal_of_change(present, wanted, self._pipeline is not None)
        return SetParametersResult(successful=not refusal, reason=refusal)

    def _apply_parameters(self, changes: Sequence[RosParameter]) -> None:
        """Thresholds apply from the next frame on; the rest is read when it is needed."""
        if self._pipeline is not None:
            self._settings = parameters.read(self)
            self._pipeline.thresholds = _thresholds(self._settings)

    # Health --------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Every tick: act on a fault of the worker, report when a level changed or it is time."""
        if self._fault and self.state == 'active':
            self.get_logger().error(
                f'{self._fault}. Going inactive; `ros2 lifecycle set '
                f'{self.get_fully_qualified_name()} activate` tries again'
            )
            self.trigger_deactivate()
        due = time.monotonic() - self._reported_s >= self._settings.diagnostics_period_s
        if due or self._present_levels() != self._levels:
            self._report()

    def _present_levels(self) -> list[bytes]:
        levels = [health.engine_level(self.state, self._fault)]
        if self.state == 'active':
            levels += [camera.health.watchdog.level for camera in self._cameras.values()]
        return levels

    def _report(self) -> None:
        statuses = self._statuses()
        self._levels = [status.level for status in statuses]
        self._reported_s = time.monotonic()
        name = self.get_fully_qualified_name()
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(health.diagnostics_message(statuses, name, stamp))

    def _statuses(self) -> list[Status]:
        name = self.get_fully_qualified_name().strip('/')
        state = self.state
        statuses = [
            health.engine_status(f'{name}: engine', state, self._fault, self._engine_values())
        ]
        if state == 'active':
            statuses += [
                health.camera_status(
                    f'{name}: camera {camera.name}'.rstrip(),
                    camera.topic,
                    self.count_publishers(camera.topic),
                    camera.health,
                    self._slots.counts(camera.name),
                )
                for camera in self._cameras.values()
            ]
        return statuses

    def _engine_values(self) -> dict[str, str]:
        if self._pipeline is None:
            return {'model': self._settings.model}
        info, bundle = self._pipeline.info, self._pipeline.bundle
        return {
            'model': self._settings.model,
            'engine': info.name,
            'engine_version': info.version,
            'device': info.device,
            'precision': info.precision,
            'bundle': bundle.manifest.name,
            'bundle_hash': bundle.hash,
            'failures_in_a_row': str(self._failures),
        }

    def _warn(self, text: str, key: str) -> None:
        """Log a warning, at most once in 5 s a key."""
        held_back = self._throttle(key)
        if held_back is not None:
            more = f' ({held_back} more since the last such line)' if held_back else ''
            self.get_logger().warning(text + more)

    # The process ---------------------------------------------------------------------------------

    def autostart(self) -> None:
        """Configure and activate, if the parameter says so.

        Done here and not by a launch file, so that a respawned process comes up again by itself.
        """
        if self._settings.autostart and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def stop(self) -> bool:
        """Before the process ends: stop the worker; False when it is stuck in the engine."""
        return self._stop(PROCESS_EXIT_S / 2)


def _decode(message: ImageMessage) -> Frame:
    if isinstance(message, CompressedImage):
        return decode_compressed(message.format, message.data)
    return decode_raw(
        message.encoding,
        message.height,
        message.width,
        message.step,
        message.is_bigendian,
        message.data,
    )


def _thresholds(p: Parameters) -> Thresholds:
    return Thresholds(p.score_threshold, p.nms_iou_threshold, p.max_detections)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM: exit code 0. Bad arguments: one sentence and 2."""
    arguments = sys.argv if argv is None else list(argv)
    process.tune_allocator()
    process.use_shared_memory_profile()
    try:
        foreign = remove_ros_args(arguments)[1:]
        if foreign:
            raise ParameterError(f'unknown arguments {foreign}; {USAGE}')
        rclpy.init(args=arguments)
        node = PerceptionNode()
    except (ParameterError, RuntimeError) as error:  # rclpy's own errors are RuntimeErrors
        what = 'unknown ROS arguments ' if isinstance(error, UnknownROSArgsError) else ''
        print(f'perception: cannot start: {what}{error}', file=sys.stderr)
        return 2
    package_log = logging.getLogger('mtl_perception')
    package_log.setLevel(logging.INFO)
    package_log.addHandler(process.ForwardLogs(node.get_logger()))
    context = node.context
    process.exit_in_time(context.ok, PROCESS_EXIT_S)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        node.autostart()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if context.ok():  # else a signal came in between, and what failed had lost its context
            raise
    idle = node.stop()
    sys.stdout.flush()
    sys.stderr.flush()
    if not idle:
        os._exit(0)  # finalising Python under a thread inside native code can crash
    node.destroy_node()
    try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
