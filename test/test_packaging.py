# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What gets installed, by colcon and by make, and what the set-up says when it cannot."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from copyright_lines import is_missing, sources, with_lines
from packaging.requirements import Requirement

import mtl_perception

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / 'requirements'
PACKAGE = ElementTree.parse(ROOT / 'package.xml')
ROS_PACKAGE = re.compile(
    r'rclpy|(rcl|launch|ament|rosbag2)_.*|.*_(msgs|interfaces)|launch|cv_bridge|message_filters'
)
CONSTRAINT_FILES = {'constraints.txt', 'oracle.txt', 'oracle-override.txt', 'ros-apt.txt'}
REQUIREMENT_FILES = sorted({path.name for path in REQUIREMENTS.glob('*.txt')} - CONSTRAINT_FILES)
LOCKED = [('oracle.in', 'oracle.txt'), *((name, 'constraints.txt') for name in REQUIREMENT_FILES)]


def requirement_lines(name):
    """Requirement texts of one file, without comments."""
    lines = (REQUIREMENTS / name).read_text().splitlines()
    return [text for line in lines if (text := line.partition('#')[0].strip())]


def imported_packages(folder):
    """Top-level packages that the Python files below a folder import, wherever they do it."""
    found = set()
    for path in (ROOT / folder).rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition('.')[0])
    return found


# --- package.xml and requirements ---------------------------------------------------------------


def test_version_is_one():
    assert PACKAGE.findtext('version') == mtl_perception.__version__
    assert importlib.metadata.version('mtl_perception') == mtl_perception.__version__


def test_package_xml_names_every_ros_package_that_is_imported():
    named = {element.text for element in PACKAGE.getroot() if element.tag.endswith('depend')}
    rooms = ('mtl_perception', 'mtl_evaluation', 'launch')
    imported = set().union(*map(imported_packages, rooms))

    text = (ROOT / 'package.xml').read_text('utf-8')
    optional = {*re.findall(r'Used where it is installed[^:]*: (\w+)', text)}
    assert {name for name in imported if ROS_PACKAGE.fullmatch(name)} <= named | optional


@pytest.mark.parametrize(('name', 'lock'), LOCKED)
def test_lock_holds_every_requirement_within_its_bounds(name, lock):
    pins = [Requirement(line) for line in requirement_lines(lock)]

    for line in requirement_lines(name):
        wanted = Requirement(line)
        locked = [pin for pin in pins if pin.name == wanted.name.lower()]
        assert locked, f'{wanted.name} is not in {lock}: make lock'
        for pin in locked:
            (version,) = (specifier.version for specifier in pin.specifier)
            assert wanted.specifier.contains(version), f'{pin} is not {wanted}: make lock'
            assert '+' not in version, f'{pin}: PyPI has no local versions'


@pytest.mark.parametrize('name', sorted({*REQUIREMENT_FILES} - {'ros-build.txt'}))
def test_requirements_have_an_upper_bound(name):
    for line in requirement_lines(name):
        operators = {specifier.operator for specifier in Requirement(line).specifier}
        assert operators & {'<', '==', '~='}, line


def test_runtime_needs_neither_torch_nor_evaluation_nor_the_wrong_lark():
    todo = [Requirement(line) for line in requirement_lines('runtime.txt')]
    needed = set()
    while todo:
        requirement = todo.pop()
        if requirement.name.lower() in needed:
            continue
        needed.add(requirement.name.lower())
        for text in importlib.metadata.requires(requirement.name) or ():
            dependency = Requirement(text)
            extras = [{'extra': extra} for extra in ('', *requirement.extras)]
            if not dependency.marker or any(map(dependency.marker.evaluate, extras)):
                todo.append(dependency)

    assert {'numpy', 'onnxruntime', 'rich'} <= needed
    assert not needed & {'torch', 'torchvision', 'timm', 'lark', 'rosbags', 'matplotlib'}


# --- colcon ---------------------------------------------------------------------------------------


@pytest.fixture(scope='module', params=['copied', 'symlinked'])
def colcon_install(request, tmp_path_factory):
    """Install folder of the package, as `colcon build` makes it from a fresh clone."""
    colcon = shutil.which('colcon', path=f'{Path(sys.executable).parent}{os.pathsep}{os.defpath}')
    if colcon is None or not importlib.util.find_spec('colcon_ros'):
        pytest.skip('colcon with colcon-ros is not installed: make setup-test')
    workspace = tmp_path_factory.mktemp(request.param)
    tracked = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode:
        pytest.skip('not a git checkout: what a fresh clone would hold is unknown')
    for name in filter(None, tracked.stdout.split('\0')):
        if (ROOT / name).is_file():
            (workspace / 'src' / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, workspace / 'src' / name)
    command = [colcon, 'build', *(['--symlink-install'] if request.param == 'symlinked' else [])]
    built = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return workspace / 'install' / 'mtl_perception'


@pytest.mark.slow
def test_colcon_installs_what_ros2_looks_for(colcon_install):
    share = colcon_install / 'share'
    for name in ('perception_node', 'test_pattern', 'mtl-perception'):
        executable = colcon_install / 'lib' / 'mtl_perception' / name
        assert os.access(executable, os.X_OK), f'ros2 run finds no {name}'
    assert (share / 'ament_index/resource_index/packages/mtl_perception').is_file()
    assert (share / 'mtl_perception' / 'package.xml').is_file()
    source = colcon_install.parents[1] / 'src'
    for room, pattern in (('launch', '*.launch.py'), ('config', '*'), ('models', '**/*')):
        shipped = {p.relative_to(source) for p in (source / room).glob(pattern) if p.is_file()}
        installed = {
            path.relative_to(share / 'mtl_perception')
            for path in (share / 'mtl_perception' / room).rglob('*')
            if path.is_file()
        }
        assert installed == shipped


@pytest.mark.slow
def test_colcon_package_imports_with_its_data_and_without_training(colcon_install):
    python = (
        'import importlib.util, mtl_perception, mtl_perception.interfaces as interfaces;'
        'from mtl_evaluation.report import page; page.dim("templates are there");'
        'print(mtl_perception.__file__, len(interfaces.message_texts()),'
        'importlib.util.find_spec("training"))'
    )
    source = '. install/setup.bash && "$0" -c "$1"'

    said = subprocess.run(
        ['bash', '-c', source, sys.executable, python],
        cwd=colcon_install.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )

    file, messages, training = said.stdout.split()
    assert Path(file).is_relative_to(colcon_install.parents[1])
    assert messages == '23'
    assert training == 'None'


# --- set-up: one sentence with the next command ---------------------------------------------------


def run_bootstrap(tmp_path, *arguments, **environment):
    """`requirements/bootstrap.sh` for an environment in tmp_path: exit code and what it said."""
    dropped = ('_ROS_WHEELS_BOOTSTRAP_COMPLETE', 'LD_LIBRARY_PATH')
    inherited = {key: value for key, value in os.environ.items() if key not in dropped}
    done = subprocess.run(
        [REQUIREMENTS / 'bootstrap.sh', tmp_path / 'venv', *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.strip()


def write_executable(path, text):
    """A bash script; returns its folder, for a PATH."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/bash\n{text}\n')
    path.chmod(0o755)
    return path.parent


def test_set_up_without_a_python_says_what_to_install(tmp_path):
    code, said = run_bootstrap(tmp_path, 'wheels', '/nowhere/python3')

    assert code == 1
    assert said.count('\n') == 0
    assert '/nowhere/python3' in said
    assert 'sudo apt install' in said


def test_set_up_without_ensurepip_names_the_apt_package(tmp_path):
    lacking = write_executable(
        tmp_path / 'bin' / 'python3',
        f'[[ $* == *ensurepip* ]] && exit 1; exec {sys.executable} "$@"',
    )

    code, said = run_bootstrap(tmp_path, 'wheels', lacking / 'python3')

    assert code == 1
    assert f'python3.{sys.version_info.minor}-venv' in said
    assert not (tmp_path / 'venv').exists()


def test_set_up_on_another_processor_points_at_an_apt_ros(tmp_path):
    fakes = write_executable(tmp_path / 'bin' / 'uname', 'echo aarch64')

    code, said = run_bootstrap(tmp_path, 'wheels', PATH=f'{fakes}{os.pathsep}{os.environ["PATH"]}')

    assert code == 1
    assert said.count('\n') == 0
    assert 'aarch64' in said
    assert 'apt' in said


def test_set_up_refuses_an_environment_of_another_ros(tmp_path):
    stamp = tmp_path / 'venv' / '.setup' / 'venv-wheels'
    stamp.parent.mkdir(parents=True)
    stamp.touch()

    code, said = run_bootstrap(tmp_path, 'jazzy')

    assert code == 1
    assert 'make clean' in said
    assert stamp.exists()


@pytest.fixture
def builder(monkeypatch):
    """requirements/ros/build_interfaces.py as a module."""
    path = REQUIREMENTS / 'ros' / 'build_interfaces.py'
    spec = importlib.util.spec_from_file_location('build_interfaces', path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_build_without_compiler_and_headers_names_the_apt_packages(
    builder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(builder.sysconfig, 'get_path', lambda name: str(tmp_path))
    monkeypatch.setattr(builder, 'installed_version', lambda name: None)
    monkeypatch.setattr(sys, 'argv', ['build_interfaces.py'])

    assert builder.main() == 1

    headers = f'python3.{sys.version_info.minor}-dev'
    assert f'sudo apt install gcc g++ {headers}' in capsys.readouterr().err


def test_build_key_follows_the_messages(builder, tmp_path, monkeypatch):
    def keys():
        return [interface.build_key() for interface in builder.INTERFACES]

    before = keys()
    shutil.copytree(builder.MESSAGES, tmp_path / 'texts')
    monkeypatch.setattr(builder, 'MESSAGES', tmp_path / 'texts')

    assert keys() == before
    (tmp_path / 'texts' / 'vision_msgs' / 'msg' / 'Point2D.msg').write_text('float64 x\n')
    assert [now == then for now, then in zip(keys(), before, strict=True)] == [False, True, True]


def test_every_source_file_begins_with_its_copyright():
    missing = [path.relative_to(ROOT) for path in sources() if is_missing(path.read_text('utf-8'))]

    assert not missing, 'run: python test/support/copyright_lines.py'
    assert with_lines('#!/bin/sh\necho\n').startswith('#!/bin/sh\n# Copyright')
    assert not is_missing(with_lines('"""A module."""\n'))
