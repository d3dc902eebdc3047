# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Measuring engines on this machine: how fast (`timing.py`), at what cost, how accurate.

`mtl-perception bench` is `timing.py` with `costs.py` and `rivals.py`; `mtl-perception compile
--check` is `accuracy.py`. Frames come from `frames.py`.
"""
