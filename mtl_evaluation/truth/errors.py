# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What is raised by everything that reads labels."""


class LabelError(Exception):
    """Labels that were found but cannot be used: which file, what, next step."""
