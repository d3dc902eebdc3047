# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The one error of this package."""


class NetworkError(ValueError):
    """A network that cannot be built as configured: which part, expected, found, next step."""
