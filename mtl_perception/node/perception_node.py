# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The perception node: camera frames in, what is in them out, as a managed (lifecycle) node.

Transitions, parameters and `/diagnostics` are here; a frame's way is in `worker.py`, its topics in
`topics.py`.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from mtl_perception import shared_memory
from mtl_perception.adaptive import SizeController
from mtl_perception.bundle import BundleError
from mtl_perception.decode import Thresholds
from mtl_perception.engine_pool import EnginePool
from mtl_perception.engines.base import EngineError, Options
from mtl_perception.node import health, parameters
from mtl_perception.node.camera_geometry import CameraGeometry, Geometry
from mtl_perception.node.endpoints import OF_IMAGES, create_subscription
from mtl_perception.node.health import CameraHealth, EngineHealth, Status
from mtl_perception.node.lifecycle import ERROR, FAILURE, SUCCESS, ManagedNode
from mtl_perception.node.parameter_table import BY_NAME
from mtl_perception.node.parameters import ParameterError, Parameters
from mtl_perception.node.topics import (
    CameraTopics,
    image_topic,
    input_qos,
    unheard_publishers,
    unreached_subscribers,
)
from mtl_perception.node.transforms import TransformListener
from mtl_perception.node.worker import Camera, Worker
from mtl_perception.rate_choice import Measured, steps_for
from mtl_perception.text import one_line
from mtl_perception.tracking import Tracking

HEALTH_TICK_S = 0.05
"""How late a change of level can show in /diagnostics."""
WORKER_EXIT_S = 10.0
"""How long a transition waits for the frame in work; a worker that hangs longer is a fault."""
PROCESS_EXIT_S = 1.2
"""How long a signalled process waits for it."""
EXIT_ENGINE_LOST = 3
"""Exit code of a process that only a new one can mend."""


class PerceptionNode(ManagedNode):
    """Lifecycle node `perception`; parameters in `parameters.py`, topics in `topics.py`.

    lost: set when the engine fails on everything, so that the process has to be replaced.
    """

    def __init__(self) -> None:
        """Declare parameters, start /diagnostics; raises ParameterError on bad overrides."""
        super().__init__('perception')
        self._settings = parameters.declare(self)
        self.lost = False
        self._worker: Worker | None = None
        self._transforms: TransformListener | None = None
        self._engine = EngineHealth()
        self._levels: list[bytes] = []
        self._reported_s = 0.0
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)
        self._diagnostics = self.create_publisher(
            DiagnosticArray, '/diagnostics', QoSProfile(depth=5)
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(HEALTH_TICK_S, self._watch, clock=steady)

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
        self._engine.fault = f'not configured: {one_line(reason, 2 * health.MAX_REASON)}'
        name = self.get_fully_qualified_name()
        self.get_logger().error(
            f'{self._engine.fault} | after `ros2 param set {name} <parameter> <value>` try again: '
            f'`ros2 lifecycle set {name} configure`'
        )
        return FAILURE

    def _configure(self) -> None:
        self._engine = EngineHealth()  # an engine that still hangs keeps its own
        self._settings = p = parameters.read(self)
        building = '; building a missing engine can take minutes' if p.build else ''
        self.get_logger().info(f'configuring: model {p.model!r}, engine {p.engine!r}{building}')
        self._report()
        options = Options(None, p.device, p.precision)
        steps: tuple[Measured, ...] = ()
        if p.target_rate_hz:
            steps = steps_for(p.model, p.target_rate_hz, p.build)
        pool = EnginePool.open(
            p.model, p.engine, options, p.build, _thresholds(p), len(p.cameras), steps
        )
        sizes = None
        if p.adaptive_size:
            period_ms = 1e3 / (p.target_rate_hz * len(p.cameras))
            sizes = SizeController(period_ms, [each.p99_ms for each in steps])
        self._worker = Worker(self, p.cameras, pool, self._engine, sizes)
        settings = Geometry.of(p)
        self._transforms = TransformListener(self) if p.base_frame else None
        manifest = pool.full.bundle.manifest
        mask_task = parameters.overlay_task(p.overlay_task, manifest.tasks)
        with_logits = frozenset(
            task.name for task in manifest.tasks if 'logits' in manifest.outputs_of(task.name)
        )
        for name in p.cameras:
            topic = image_topic(self, name, p.image_transport)
            geometry = CameraGeometry(self, topic, settings, self._transforms)
            topics = CameraTopics(
                self, name, manifest.tasks, mask_task, geometry, with_logits, p.points_source
            )
            topics.tracks.configure(_tracking(p))
            topics.publish_label_infos(self.get_clock().now().to_msg())
            camera_health = CameraHealth(p.stall_warn_s, p.stall_error_s)
            self._worker.cameras[name] = Camera(name, topic, topics, camera_health)
        info = pool.full.info
        self.get_logger().info(
            f'configured: {manifest.name} on {info.name} {info.version}, {info.device}, '
            f'{info.precision}, input {manifest.input.height}x{manifest.input.width}; tasks '
            f'{", ".join(task.name for task in manifest.tasks)}'
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and listen to the cameras."""
        self._engine.reset()
        if self._worker is None:
            raise RuntimeError('activated without being configured')
        self._worker.start()
        p = self._settings
        for camera in self._cameras:
            camera.health.watchdog.feed()
            camera.topics.listen()
            camera.subscription = create_subscription(
                self,
                CompressedImage if p.image_transport == 'compressed' else Image,
                camera.topic,
                partial(self._worker.put, camera),
                input_qos(p.image_reliability),
                OF_IMAGES,
            )
            self.get_logger().info(f'active: listening to {camera.topic} ({p.image_transport})')
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening and inferring; the engine stays loaded. ERROR if the worker hangs."""
        if not self._stop(WORKER_EXIT_S):
            self._engine.fault = f'the worker did not end within {WORKER_EXIT_S:g} s'
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
        self._engine.fault = self._engine.fault or f'a transition from {state.label} failed'
        self.get_logger().error(f'{self._engine.fault}; the node goes back to unconfigured')
        self._release()
        return SUCCESS

    def _stop(self, timeout_s: float) -> bool:
        """End subscriptions and worker; False when the worker is still busy after `timeout_s`."""
        for camera in self._cameras:
            camera.topics.stop()
            if camera.subscription is not None:
                self.destroy_subscription(camera.subscription)
                camera.subscription = None
        return self._worker is None or self._worker.stop(timeout_s)

    def _release(self) -> None:
        """Let go of what a configuration made; an engine that still runs is left to itself."""
        idle = self._stop(WORKER_EXIT_S)
        for camera in self._cameras:
            camera.topics.destroy()
        if self._transforms is not None:
            self._transforms.destroy()
            self._transforms = None
        if self._worker is not None and idle:
            self._worker.pool.close()
        self._worker = None

    @property
    def _cameras(self) -> list[Camera]:
        """The cameras of the present configuration."""
        return list(self._worker.cameras.values()) if self._worker is not None else []

    # Parameters ----------------------------------------------------------------------------------

    def _check_parameters(self, changes: Sequence[RosParameter]) -> SetParametersResult:
        present = {name: self.get_parameter(name).value for name in BY_NAME}
        wanted = {change.name: change.value for change in changes}
        refusal = parameters.refusal_of_change(present, wanted, self._worker is not None)
        return SetParametersResult(successful=not refusal, reason=refusal)

    def _apply_parameters(self, changes: Sequence[RosParameter]) -> None:
        """Thresholds apply from the next frame on; the rest is read when it is needed."""
        if self._worker is not None:
            self._settings = parameters.read(self)
            self._worker.pool.thresholds = _thresholds(self._settings)
            for camera in self._cameras:
                camera.topics.tracks.configure(_tracking(self._settings))

    # Health --------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Every tick: act on a fault, say what is wanted, report when a level changed or is due."""
        if self._engine.fault and self.state == 'active':
            self._give_up()
        if self._worker is not None and self.state == 'active':
            wanted = (camera.topics.wanted().computed for camera in self._cameras)
            self._worker.pool.request(frozenset().union(*wanted))
            self._adapt(self._worker)
        due = time.monotonic() - self._reported_s >= self._settings.diagnostics_period_s
        if due or self._present_levels() != self._levels:
            self._report()

    def _adapt(self, worker: Worker) -> None:
        """Change the input size where frames take too long for it, or would not any more."""
        sizes = worker.sizes
        if sizes is None:
            return
        move = sizes.decide()
        if move is not None:
            period = f'the period of {sizes.period_ms:.1f} ms'
            if move.after > move.before:
                self.get_logger().warning(
                    f'frames take {move.p99_ms:.1f} ms (99th percentile), more than {period}: the '
                    f'input becomes smaller (step {move.after})'
                )
            else:
                self.get_logger().info(
                    f'a larger input would take {move.expected_ms:.1f} ms of {period}: it is taken '
                    f'again (step {move.after})'
                )
        worker.pool.resize(sizes.index)  # again, where another engine was being opened

    def _give_up(self) -> None:
        """The worker has stopped: go inactive, or ask for a new process where only that helps."""
        name = self.get_fully_qualified_name()
        if self._engine.beyond_repair:
            self.get_logger().fatal(
                f'{self._engine.fault}. The engine fails on an empty picture as well, so this '
                f'process ends with code {EXIT_ENGINE_LOST}, to be started again '
                f'(use_respawn:=true)'
            )
            self._report()
            self.lost = True
            return
        self.get_logger().error(
            f'{self._engine.fault}. Going inactive; '
            f'`ros2 lifecycle set {name} activate` tries again'
        )
        self.trigger_deactivate()

    def _present_levels(self) -> list[bytes]:
        levels = [self._engine.level(self.state)]
        if self.state == 'active':
            levels += [health.camera_level(camera.health) for camera in self._cameras]
        return levels

    def _report(self) -> None:
        if self.state == 'active':
            self._find_mismatches()
        statuses = self._statuses()
        self._levels = [status.level for status in statuses]
        self._reported_s = time.monotonic()
        name = self.get_fully_qualified_name()
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(health.diagnostics_message(statuses, name, stamp))

    def _find_mismatches(self) -> None:
        """Who cannot connect to a camera's topics for its QoS, and what cannot be served.

        What is new is logged.
        """
        for camera in self._cameras:
            found = []
            if camera.subscription is not None:
                qos = camera.subscription.qos_profile
                found += unheard_publishers(self, camera.topic, qos)
            found += unreached_subscribers(self, camera.topics.publishers)
            if self._settings.image_transport == 'raw' and (why := shared_memory.complaint()):
                found.append(why)
            found += camera.topics.faults
            for sentence in set(found).difference(camera.health.mismatches):
                self.get_logger().warning(sentence)
            camera.health.mismatches = tuple(found)

    def _statuses(self) -> list[Status]:
        name = self.get_fully_qualified_name().strip('/')
        statuses = [self._engine.status(f'{name}: engine', self.state, self._engine_values())]
        if self.state == 'active' and self._worker is not None:
            statuses += [
                health.camera_status(
                    f'{name}: camera {camera.name}'.rstrip(),
                    camera.topic,
                    self.count_publishers(camera.topic),
                    camera.health,
                    partial(self._worker.counts, camera.name),
                    camera.topics.objects.values,
                )
                for camera in self._cameras
            ]
        return statuses

    def _engine_values(self) -> dict[str, str]:
        if self._worker is None:
            return {'model': self._settings.model, 'shared_memory': shared_memory.describe()}
        pool = self._worker.pool
        info, bundle = pool.full.info, pool.full.bundle
        least, most = pool.batch_range
        return {
            'model': self._settings.model,
            'engine': info.name,
            'engine_version': info.version,
            'device': info.device,
            'precision': info.precision,
            'input': f'{bundle.manifest.input.height}x{bundle.manifest.input.width}',
            'input_step': str(pool.size),
            'target_rate_hz': f'{self._settings.target_rate_hz:g}',
            'bundle': bundle.manifest.name,
            'bundle_hash': bundle.hash,
            'shared_memory': shared_memory.describe(),
            'subset': ', '.join(sorted(pool.subset)),
            'batch': f'{most}, from {least} waiting cameras on' if most > 1 else '1',
        }

    # The process ---------------------------------------------------------------------------------

    def autostart(self) -> None:
        """Configure and activate, if the parameter says so.

        Done here and not by a launch file, so that a respawned process comes up again by itself.
        """
        if self._settings.autostart and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def stop(self) -> bool:
        """Before the process ends: stop the worker; False when a thread is still in an engine."""
        idle = self._stop(PROCESS_EXIT_S / 2)
        return idle and not (self._worker is not None and self._worker.pool.is_opening)


def _thresholds(p: Parameters) -> Thresholds:
    return Thresholds(
        p.score_threshold, p.nms_iou_threshold, p.max_detections, p.cross_class_iou_threshold
    )


def _tracking(p: Parameters) -> Tracking:
    return Tracking(p.track_start_score, p.track_memory_s)
