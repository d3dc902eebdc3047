# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The error of studies, in a file of its own for whoever reads a part of a study file."""


class StudyError(Exception):
    """A study file or folder that cannot be used: which key, expected, found, what to do."""
