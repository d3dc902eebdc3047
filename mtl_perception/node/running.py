# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""From the command line to an active node and to its end in time; `__main__.py` is before it."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.utilities import get_default_context, remove_ros_args, try_shutdown

from mtl_perception import process, shared_memory
from mtl_perception.node.parameters import ParameterError
from mtl_perception.node.perception_node import EXIT_ENGINE_LOST, PROCESS_EXIT_S, PerceptionNode
from mtl_perception.text import quoted

UnknownROSArgsError = rclpy_implementation.UnknownROSArgsError

STOPS = (signal.SIGINT, signal.SIGTERM)
EXIT_BAD_START = 2
"""Exit code of a process that could not start."""

USAGE = 'parameters are given as `--ros-args -p name:=value` or `--ros-args --params-file FILE`'


def run(arguments: Sequence[str], unblock_signals: Callable[[], object]) -> int:
    """Run the node until a signal; returns the exit code.

    unblock_signals: called once ROS handles them; one that came before is handled then.
    """
    process.tune_allocator()
    shared_memory.use_profile()
    context = get_default_context()
    node = None
    called_off: threading.Event | None = None
    try:
        foreign = remove_ros_args(arguments)[1:]
        if foreign:
            raise ParameterError(f'unknown arguments {quoted(foreign)}; {USAGE}')
        rclpy.init(args=list(arguments))
        called_off = process.exit_in_time(context.ok, PROCESS_EXIT_S)
        unblock_signals()
        node = PerceptionNode()
        _spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception as error:
        # After a signal whatever fails has lost its context.
        if context.ok() or called_off is None:
            if called_off is not None:
                called_off.set()
            if node is None and isinstance(error, (ParameterError, RuntimeError)):
                what = 'unknown ROS arguments ' if isinstance(error, UnknownROSArgsError) else ''
                print(f'perception: cannot start: {what}{error}', file=sys.stderr)
                return EXIT_BAD_START  # rclpy's own errors are RuntimeErrors
            raise
    for number in STOPS:  # a second Ctrl-C is for a process that does not end: this one does
        signal.signal(number, signal.SIG_IGN)
    if node is not None:
        idle = node.stop()
        if node.lost:
            process.exit_now(EXIT_ENGINE_LOST)
        if not idle:
            process.exit_now(0)
        node.destroy_node()
    try_shutdown()
    return 0


def _spin(node: PerceptionNode) -> None:
    """Bring the node up if it is to come up by itself, and serve it until its context ends."""
    package_log = logging.getLogger('mtl_perception')
    package_log.setLevel(logging.INFO)
    package_log.addHandler(process.ForwardLogs(node.get_logger()))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    node.autostart()
    while node.context.ok() and not node.lost:
        executor.spin_once()
