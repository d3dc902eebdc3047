# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Room for images between processes: what /dev/shm has, and the Fast DDS profile that fits it.

A profile asks for one segment in each process. Where that cannot be had, Fast DDS says so in a line
of its own and sends images by UDP, of which most are lost (docs/results/transport_loss.json).
Docker gives a container 64 MB unless `--shm-size` says more.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path('/dev/shm')
PROFILES = {'fastdds_shm.xml': 64 << 20, 'fastdds_shm_small.xml': 8 << 20}
"""Profile in config/ by the bytes of its segment, the better one first."""
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
PROCESSES = 4
"""So many must find room: the camera, the node, and two that look on."""
_SEGMENT = re.compile(r'<segment_size>\s*(\d+)\s*</segment_size>')


@dataclass(frozen=True)
class Room:
    """Bytes that /dev/shm has, and those of them that are free."""

    size: int
    free: int

    @classmethod
    def here(cls, folder: Path | None = None) -> Room | None:
        """That of this machine or container; None where there is none."""
        try:
            found = os.statvfs(folder or FOLDER)
        except OSError:
            return None
        return cls(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def __str__(self) -> str:
        """As df says it."""
        return f'{FOLDER} of {self.size / 1e6:.0f} MB, {self.free / 1e6:.0f} MB free'


def use_profile(environment: MutableMapping[str, str] = os.environ) -> Path | None:
    """Name the profile that fits in the environment, unless the user named one; before rclpy.init.

    Returns the profile that was set, None when there was one already, ours are not to be found, or
    there is room for neither.
    """
    if profile_in(environment) is not None:
        return None
    room = Room.here()
    for name, segment in PROFILES.items():
        path = _profile(name, environment)
        if path is not None and room is not None and room.size >= PROCESSES * segment:
            environment[PROFILE_VARIABLES[0]] = str(path)
            return path
    return None


def profile_in(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The profile that is in force."""
    named = [environment[name] for name in PROFILE_VARIABLES if environment.get(name)]
    return Path(named[0]) if named else None


def describe(environment: Mapping[str, str] = os.environ) -> str:
    """What there is and what a process asks for, in a few words."""
    room, profile = Room.here(), profile_in(environment)
    segment = _segment(profile)
    asked = (
        f'{profile.name}: {segment >> 20} MiB a process' if profile and segment else 'no profile'
    )
    return f'{room or f"no {FOLDER}"}; {asked}'


def complaint(environment: Mapping[str, str] = os.environ) -> str:
    """Why raw images between processes will be lost here, and the way out; empty where they won't.

    Environment: that of a process whose profile is set.
    """
    room, profile = Room.here(), profile_in(environment)
    segment = _segment(profile)
    small = _profile('fastdds_shm_small.xml', environment) or 'fastdds_shm_small.xml'
    more = 'Give it more (Docker: --shm-size=512m)'
    if room is None:
        return f'there is no {FOLDER}: raw images go by UDP, and many are lost. Mount a tmpfs there'
    if profile is None:
        if room.size >= PROCESSES * min(PROFILES.values()):
            return ''  # the middleware is another one, or the user's own choice
        return f'{room} is too small for raw images, many of which are lost. {more}'
    if segment and room.size < 2 * segment:
        return (
            f'{room} is too small for {profile.name}, which asks for {segment >> 20} MiB in every '
            f'process: shared memory is off and most raw images are lost. {more}, or set '
            f'{PROFILE_VARIABLES[0]}={small} in every process'
        )
    return ''


def _segment(profile: Path | None) -> int:
    """Bytes of shared memory that a profile asks for; 0 where that cannot be told."""
    try:
        found = _SEGMENT.search('' if profile is None else profile.read_text('utf-8', 'replace'))
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _profile(name: str, environment: Mapping[str, str]) -> Path | None:
    """A profile of ours: in the checkout, or in the share folder of an installation."""
    prefixes = [p for p in environment.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    folders = [
        Path(__file__).resolve().parents[1] / 'config',
        *(Path(p) / 'share' / 'mtl_perception' / 'config' for p in (*prefixes, sys.prefix)),
    ]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
