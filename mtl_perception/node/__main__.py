# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The node's process, `python -m mtl_perception.node`: signals first, then everything else.

Importing ROS takes a second, in which SIGINT would be a traceback and SIGTERM code -15. Both wait
until ROS has its handlers; the process then ends with code 0 as from any other moment. (The ROS
wheels start Python anew meanwhile: what is blocked stays blocked across that.)
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

STOPS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM: exit code 0. Bad arguments: one sentence and 2."""
    arguments = sys.argv if argv is None else list(argv)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        from mtl_perception.node.running import run

        return run(arguments, _unblock)
    finally:
        _unblock()


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


if __name__ == '__main__':
    sys.exit(main())
