# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Child processes in a folder whose files have the names of modules that they import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mtl_perception import NO_TELEMETRY
from mtl_perception.children import ROOT, IsolatedSpawn, import_path, module_command, safe_path

TRAPS = ('yaml', 'json', 'numpy', 'cv2', 'types', 'runpy', 'socket', 'pickle', 'multiprocessing')


@pytest.fixture
def trapped(tmp_path, monkeypatch):
    """The current folder, full of modules that leave a mark when they run."""
    folder = tmp_path / 'mine'
    folder.mkdir()
    for name in TRAPS:
        (folder / f'{name}.py').write_text(
            f'open({str(tmp_path / "ran")!r}, "a").write("{name}\\n")'
        )
    monkeypatch.chdir(folder)
    return tmp_path / 'ran'


@pytest.mark.parametrize('python_path', ['', ':', '.', ':/nowhere'])
def test_a_module_that_is_started_takes_nothing_from_the_current_folder(
    trapped, monkeypatch, python_path
):
    monkeypatch.setenv('PYTHONPATH', python_path)
    command = module_command('mtl_perception.cli', '--version')

    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert not trapped.exists(), trapped.read_text()


def work(number):
    return number + 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason='Python 3.10 has no safe path')
def test_worker_processes_take_nothing_from_the_current_folder(trapped):
    with IsolatedSpawn().Pool(1) as pool:
        assert pool.apply(work, (1,)) == 2

    assert not trapped.exists(), trapped.read_text()


def test_a_child_imports_what_this_process_does(monkeypatch, tmp_path):
    (tmp_path / 'far').mkdir()
    (tmp_path / 'far' / 'only_here.py').write_text('print("found")')
    monkeypatch.syspath_prepend(str(tmp_path / 'far'))

    done = subprocess.run(module_command('only_here'), capture_output=True, text=True, timeout=60)

    assert done.stdout == 'found\n', done.stderr


def test_the_import_path_has_the_package_first_and_the_current_folder_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', ['', str(tmp_path), '/usr/lib/x'])

    assert import_path() == [ROOT, '/usr/lib/x']

    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert import_path() == [ROOT, str(tmp_path), '/usr/lib/x']


def test_the_environment_is_as_before_once_children_are_started(monkeypatch):
    monkeypatch.delenv('PYTHONSAFEPATH', raising=False)
    with safe_path():
        assert os.environ['PYTHONSAFEPATH'] == '1'
    assert 'PYTHONSAFEPATH' not in os.environ


def test_nothing_is_written_for_the_makers_of_a_library(tmp_path, monkeypatch):
    """ONNX Runtime leaves a device id below ~/.cache as soon as it is imported."""
    pytest.importorskip('onnxruntime')
    for name in (*NO_TELEMETRY, 'XDG_CACHE_HOME', 'XDG_CONFIG_HOME'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    code = 'from mtl_perception.engines.onnxruntime import _onnxruntime; _onnxruntime()'

    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, timeout=60)

    assert not list(tmp_path.rglob('*'))
