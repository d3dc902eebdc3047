# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the node's process needs around ROS: allocator, logs, and an exit in time."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn, Protocol


class RosLogger(Protocol):
    """The part of rclpy's logger that is used here."""

    def info(self, message: str) -> object:
        """Log at INFO."""

    def warning(self, message: str) -> object:
        """Log at WARN."""

    def error(self, message: str) -> object:
        """Log at ERROR."""


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def tune_allocator() -> bool:
    """Let glibc keep image-sized blocks instead of returning each to the kernel.

    A 2.7 MB image message is otherwise mapped and faulted in page by page for every frame, which
    makes receiving one three times as slow. False where there is no glibc; nothing is changed then.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 512 << 20), (_M_ARENA_MAX, 1))
    accepted = [mallopt(name, value) for name, value in settings]
    return all(accepted)


class ForwardLogs(logging.Handler):
    """Hands what the ROS-free rooms log to the node's logger, so that /rosout has it too."""

    def __init__(self, logger: RosLogger) -> None:
        """Take everything from INFO up."""
        super().__init__(logging.INFO)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """One record at the nearest of rclpy's levels."""
        # rclpy ties a place in the code to one level and raises when it changes: a line per level.
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


def exit_now(code: int) -> NoReturn:
    """End the process without finalising Python: a thread or engine in a bad state may crash it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def exit_in_time(
    running: Callable[[], bool], grace_s: float, period_s: float = 0.1
) -> threading.Event:
    """End the process with code 0 when it is still there `grace_s` after `running` became false.

    For what Python cannot interrupt: an engine that is being built, or is inside a long inference,
    when the signal comes. Whoever supervises us waits two seconds, then kills. Setting the event
    that is returned calls it off: a process that never came up has an exit code of its own.
    """
    off = threading.Event()

    def watch() -> None:
        while running():
            if off.wait(period_s):
                return
        if not off.wait(grace_s):
            exit_now(0)

    threading.Thread(target=watch, name='exit in time', daemon=True).start()
    return off
