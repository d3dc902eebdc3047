# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Lets `python test/benchmarks/X.py` import `training` and test helpers without PYTHONPATH."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[1:1] = [str(ROOT), str(ROOT / 'test' / 'support')]
