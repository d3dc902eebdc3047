# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Runs: every answer of a model to a list of bags, kept so that any figure can be made of it."""
