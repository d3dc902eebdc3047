# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Whether what a command is to write can be written, asked before it has worked for an hour."""

from __future__ import annotations

import os
from pathlib import Path


class TargetError(Exception):
    """A file or folder that a command could not write: which option, what is in the way."""


def check_target(path: Path, option: str, is_folder: bool = False) -> None:
    """Raise TargetError where `path` cannot become a file (or a folder); nothing is created."""
    kind = 'folder' if is_folder else 'file'
    if path.exists() and path.is_dir() != is_folder:
        found = 'a folder' if path.is_dir() else 'a file'
        raise TargetError(f'{option} {path}: expected a {kind}, found {found}')
    absolute = path.absolute()
    there = next(item for item in (absolute, *absolute.parents) if item.exists())
    if there != absolute and not there.is_dir():
        raise TargetError(f'{option} {path}: {there} is not a folder')
    if not os.access(there, os.W_OK):
        raise TargetError(f'{option} {path}: no permission to write in {there}')
