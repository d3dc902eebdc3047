# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The node as a child process: started with parameters, heard, and ended with us."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from mtl_evaluation.child_process import die_with_parent
from mtl_perception.children import module_command

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0


class LiveError(Exception):
    """A live run that could not be made or finished: what failed, with the node's own words."""


def need_ros(what: str) -> None:
    """Raise LiveError unless ROS 2 and vision_msgs are here; `what` needs them."""
    try:
        import_module('rclpy')
        import_module('vision_msgs.msg')
    except ImportError as error:
        raise LiveError(
            f'{what} needs ROS 2 ({error}). Run `make setup`, which installs it into .venv, or '
            f'source your ROS 2; `mtl-perception replay` without --live needs none.'
        ) from error


class NodeProcess:
    """The node as a child process that ends with this block, or with this process."""

    def __init__(self, image_topic: str, parameters: Mapping[str, str], log_file: Path) -> None:
        words = ['--ros-args', '-r', f'~/image:={image_topic}']
        for name, value in parameters.items():
            words += ['-p', f'{name}:={value}']
        self._command = module_command('mtl_perception.node', *words)
        self._log_file = log_file
        self._lines: deque[str] = deque(maxlen=200)

    def __enter__(self) -> NodeProcess:
        # A group of its own: Ctrl-C is for us, and we stop the node when its answers are in.
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self._reader = threading.Thread(target=self._read, name='node log', daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                break
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                log.warning('the node did not end on %s', number.name)
        self._reader.join(1.0)

    def check(self) -> None:
        """Raise LiveError when the node has ended."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(1.0)
            raise LiveError(self.told(f'the node ended with code {code}'))

    def told(self, what: str) -> str:
        """A sentence with the node's own errors, or its last lines."""
        lines = list(self._lines)
        errors = [line for line in lines if 'ERROR' in line or 'cannot start' in line]
        said = '\n  '.join(errors[-3:] or lines[-5:]) or 'nothing'
        return f'{what}. It said:\n  {said}\nThe whole log: {self._log_file}'

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._log_file.open('w', encoding='utf-8', errors='replace') as file:
            for line in self._process.stdout:
                file.write(line)
                file.flush()
                self._lines.append(line.rstrip())


class RunningNode:
    """A node that somebody else started and watches."""

    def __init__(self, name: str) -> None:
        """Full name of the node."""
        self._name = name

    def check(self) -> None:
        """Nothing is known of its process."""

    def told(self, what: str) -> str:
        """A sentence without the node's words, which only its starter has."""
        return f'{what}: {self._name}. Look at its own output, and at its domain (ROS_DOMAIN_ID)'
