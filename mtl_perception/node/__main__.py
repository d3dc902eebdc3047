"""The node's process, `python -m mtl_perception.node`: start, spin, and an end in time."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.utilities import remove_ros_args, try_shutdown

from mtl_perception import process
from mtl_perception.node.parameters import ParameterError
from mtl_perception.node.perception_node import EXIT_ENGINE_LOST, PROCESS_EXIT_S, PerceptionNode

UnknownROSArgsError = rclpy_implementation.UnknownROSArgsError

EXIT_BAD_START = 2
"""Exit code of a process that could not start."""

USAGE = 'parameters are given as `--ros-args -p name:=value` or `--ros-args --params-file FILE`'


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
        return EXIT_BAD_START
    package_log = logging.getLogger('mtl_perception')
    package_log.setLevel(logging.INFO)
    package_log.addHandler(process.ForwardLogs(node.get_logger()))
    context = node.context
    process.exit_in_time(context.ok, PROCESS_EXIT_S)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        node.autostart()
        while context.ok() and not node.lost:
            executor.spin_once()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if context.ok():  # else a signal came in between, and what failed had lost its context
            raise
    idle = node.stop()
    if node.lost:
        process.exit_now(EXIT_ENGINE_LOST)
    if not idle:
        process.exit_now(0)
    node.destroy_node()
    try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
