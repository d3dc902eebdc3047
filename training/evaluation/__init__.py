# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The parts of `python -m training.evaluate`: scores, costs, official formats and their oracle."""
