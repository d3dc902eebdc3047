# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Multi-task driving perception: one shared trunk, many heads, ROS 2 topics out."""

import os

__version__ = '0.1.0'

NO_TELEMETRY = {
    'ORT_DISABLE_TELEMETRY': '1',
    'RAY_USAGE_STATS_ENABLED': '0',
    'HF_HUB_DISABLE_TELEMETRY': '1',
}
"""ONNX Runtime writes a device id below ~/.cache as soon as it is imported; Ray and the Hugging
Face hub report their use. Nothing of that unless the environment asks for it."""

for _name, _value in NO_TELEMETRY.items():
    os.environ.setdefault(_name, _value)
