# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Fixtures shared by all tests."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle

ROOMS = {'evaluation': 'rosbags', 'training': 'torch'}
"""Folder of tests: the requirement without which they are left out, as in `colcon test`."""
collect_ignore = [room for room, needs in ROOMS.items() if find_spec(needs) is None]


def pytest_report_header() -> str:
    """Which tests are left out."""
    return ''.join(f'test/{room} is left out: {ROOMS[room]} is missing' for room in collect_ignore)


def pytest_configure() -> None:
    """Ends where the installed package is older than setup.py: commands would not be found."""
    if not entry_points(group='mtl_perception.commands'):
        pytest.exit(
            f'{sys.prefix} has an mtl_perception without the commands of setup.py; run\n'
            f'{sys.executable} -m pip install -q --no-deps --no-build-isolation --editable .',
            returncode=4,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """A failed test shows the end of what the node said that it last spoke to."""
    report = yield
    live = sys.modules.get('live_node')
    if report.failed and live is not None and live.STARTED:
        node = live.STARTED[-1]
        if node.log.is_file():
            report.sections.append((f'node, rc {node.process.poll()}', node.output[-3000:]))
    return report


@pytest.fixture(scope='session')
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small real bundle, 64x96 input; see `tiny_bundle.py` for what it computes."""
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')


@pytest.fixture(scope='session', autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory):
    """Engines built by tests go to a cache of their own, for this process and its children."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp('cache')
    patch.setenv('XDG_CACHE_HOME', str(folder))
    yield folder / 'mtl_perception' / 'engines'
    patch.undo()


@pytest.fixture(scope='module')
def private_ros(tmp_path_factory: pytest.TempPathFactory):
    """A DDS domain of our own, for this process and its children."""
    from live_node import private_ros_environment

    from mtl_perception.shared_memory import PROFILE_VARIABLES

    patch = pytest.MonkeyPatch()
    for name, value in private_ros_environment(tmp_path_factory.mktemp('log')).items():
        patch.setenv(name, value)
    patch.setenv(PROFILE_VARIABLES[0], '')  # the node shall find the profile by itself
    yield
    patch.undo()
