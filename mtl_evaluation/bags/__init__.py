# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Bags: what lies in them, reading them behind a wall, writing and making them."""
