# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The Fast DDS profile that fits /dev/shm, and what is said where none does."""

from __future__ import annotations

import pytest

from mtl_perception import shared_memory
from mtl_perception.shared_memory import PROFILE_VARIABLES, PROFILES, Room

LARGE, SMALL = PROFILES
MB = 10**6


@pytest.fixture
def room(monkeypatch):
    def of(size_mb):
        found = None if size_mb is None else Room(size_mb * MB, size_mb * MB)
        monkeypatch.setattr(Room, 'here', classmethod(lambda cls, folder=None: found))

    return of


@pytest.mark.parametrize(
    ('size_mb', 'name'), [(8000, LARGE), (300, LARGE), (67, SMALL), (40, SMALL), (16, None)]
)
def test_the_profile_that_fits_is_taken(room, size_mb, name):
    room(size_mb)
    environment = {}

    found = shared_memory.use_profile(environment)

    assert (found and found.name) == name
    assert environment == ({PROFILE_VARIABLES[0]: str(found)} if found else {})
    assert bool(shared_memory.complaint(environment)) == (name is None)


def test_a_profile_of_the_user_stays_and_is_measured_by_what_it_asks_for(room, tmp_path):
    room(67)
    large = next(path for path in [shared_memory._profile(LARGE, {})] if path)
    environment = {PROFILE_VARIABLES[1]: str(large)}

    assert shared_memory.use_profile(environment) is None
    said = shared_memory.complaint(environment)
    assert '/dev/shm of 67 MB' in said
    assert '64 MiB in every process' in said
    assert SMALL in said and '--shm-size' in said
    assert '64 MiB a process' in shared_memory.describe(environment)

    own = tmp_path / 'own.xml'
    own.write_text('<dds/>')
    assert shared_memory.complaint({PROFILE_VARIABLES[0]: str(own)}) == ''


def test_a_machine_without_shared_memory_is_said(room):
    room(None)

    assert shared_memory.use_profile({}) is None
    assert 'no /dev/shm' in shared_memory.complaint({})


@pytest.mark.parametrize('name', PROFILES)
def test_the_table_says_what_the_profiles_ask_for(name):
    path = shared_memory._profile(name, {})

    assert shared_memory._segment(path) == PROFILES[name]
