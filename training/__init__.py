# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Offline training: builds HydraNet-style models and writes the bundles that the vehicle reads."""

import sys
from types import TracebackType


def _end_quietly(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Ctrl-C while a command still imports torch, before `command.run` is there to see it."""
    if issubclass(kind, KeyboardInterrupt):
        print('stopped', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[0] == '-m':  # a command of this package is being started
    sys.excepthook = _end_quietly
