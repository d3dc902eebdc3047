# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The error of everything that runs a graph; a file of its own, so that all of it may import it."""


class EngineError(Exception):
    """An engine that cannot be built, opened or run: which, why, expected, found, next command."""
