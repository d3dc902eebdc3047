# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What this machine is and which versions run on it: written beside every number we report."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mtl_perception.engines.base import cores
from mtl_perception.engines.cache import cpu_name

PACKAGES = (
    'numpy', 'opencv-python-headless', 'opencv-python', 'openvino', 'onnxruntime',
    'onnxruntime-gpu', 'torch', 'rosbags', 'mcap', 'faster-coco-eval', 'rich', 'PyYAML',
)  # fmt: skip
"""Distributions whose version is worth knowing, in this order."""


def describe() -> dict[str, Any]:
    """Machine and versions as plain data for JSON."""
    return {
        'cpu': cpu_name(),
        'cores': cores(),
        'load_average': [round(load, 2) for load in os.getloadavg()],
        'gpus': gpus(),
        'system': platform.platform(),
        'python': platform.python_version(),
        'packages': packages(),
    }


def packages() -> dict[str, str]:
    """Version by distribution, of those of `PACKAGES` that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gpus() -> list[str]:
    """NVIDIA GPUs as nvidia-smi names them, with driver and memory; empty without nvidia-smi."""
    if shutil.which('nvidia-smi') is None:
        return []
    query = ['nvidia-smi', '--query-gpu=name,driver_version,memory.total', '--format=csv,noheader']
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
