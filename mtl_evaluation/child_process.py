# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a child process does first."""

from __future__ import annotations

import ctypes
import signal


def die_with_parent(number: int = signal.SIGINT) -> None:
    """Ask Linux to signal this child when its parent ends without having stopped it."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, number)
