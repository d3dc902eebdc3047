# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics with one owner, and what they are made of."""
