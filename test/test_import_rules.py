# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Who may import what: the packages' arrows, and no circle of files or folders."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ('mtl_perception', 'mtl_evaluation', 'mtl_scenes')
PACKAGES = (*INSTALLED, 'training')

ARROWS = {
    'mtl_perception': set(),
    'mtl_scenes': {'mtl_perception'},
    'mtl_evaluation': {'mtl_perception', 'mtl_scenes'},
    'training': {'mtl_perception', 'mtl_evaluation', 'mtl_scenes'},
}
"""Package: those of ours that it may import."""

ROS = {
    'rclpy', 'rcl_interfaces', 'builtin_interfaces', 'ament_index_python', 'sensor_msgs',
    'std_msgs', 'std_srvs', 'vision_msgs', 'diagnostic_msgs', 'lifecycle_msgs', 'geometry_msgs',
    'nav_msgs', 'rosgraph_msgs', 'tf2_ros', 'cv_bridge', 'rosbag2_py',
}  # fmt: skip
ROS_FILES = (
    'mtl_perception/node/',
    'mtl_evaluation/live/session.py',
    'mtl_evaluation/live/test_pattern.py',
    'mtl_evaluation/commands/demo.py',
)
"""The only places that may import ROS: the node, a camera for it, and what replays live."""

LAUNCH = {'launch', 'launch_ros', 'launch_testing'}
TORCH = {'torch', 'torchvision', 'timm', 'torch_tensorrt', 'tensorrt', 'tensorrt_rtx'}
TORCH_FILES = tuple(f'mtl_perception/engines/{name}' for name in ('torch', 'aot', 'tensorrt'))
EVALUATION = {'rosbags', 'matplotlib', 'PIL', 'jinja2', 'markupsafe', 'ray', 'rerun'}
"""What the vehicle has to do without: the extra `evaluation` and what it may use."""

PLAIN_MODULES = [
    *(
        f'mtl_perception.{name}'
        for name in (
            'pipeline', 'decode', 'overlay', 'cli', 'compile', 'doctor', 'engines', 'bundle',
            'engines.fake', 'engines.cache', 'image_codec', 'newest', 'node.parameters',
            'node.launch_checks',
        )
    ),
    'mtl_scenes', 'mtl_evaluation.metrics.metrics', 'mtl_evaluation.bench.timing',
]  # fmt: skip


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(module, line) of every import statement, nested ones and those for types included."""
    for node in ast.walk(ast.parse(path.read_text('utf-8'), str(path))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield '.' * node.level + (node.module or ''), node.lineno


def python_files(*packages: str) -> Iterator[tuple[str, Path]]:
    """(name below the root, path) of every Python file of the packages."""
    for package in packages:
        for path in sorted((ROOT / package).rglob('*.py')):
            yield path.relative_to(ROOT).as_posix(), path


def violations(packages: Iterable[str], forbidden: set[str], allowed=()) -> list[str]:
    """`file:line imports module` for every forbidden import outside the allowed files."""
    return [
        f'{name}:{line} imports {module}'
        for name, path in python_files(*packages)
        for module, line in imports(path)
        if module.partition('.')[0] in forbidden and not name.startswith(tuple(allowed))
    ]


@pytest.mark.parametrize('package', PACKAGES)
def test_packages_import_only_what_their_arrows_allow(package):
    forbidden = {*PACKAGES, 'test', 'conftest'} - ARROWS[package] - {package}

    assert violations([package], forbidden) == []


def test_scenes_know_tasks_and_nothing_else_of_the_vehicle():
    allowed = ('mtl_scenes', 'mtl_perception.tasks')
    found = [
        f'{name}: {module}'
        for name, path in python_files('mtl_scenes')
        for module in modules(path)
        if module.startswith('mtl_') and not module.startswith(allowed)
    ]
    assert found == []


def test_the_vehicle_needs_nothing_of_the_evaluation_extra():
    assert violations(['mtl_perception', 'mtl_scenes'], EVALUATION) == []


def test_only_torch_engines_import_torch():
    assert violations(INSTALLED, TORCH, TORCH_FILES) == []


def test_only_the_node_and_its_parts_import_ros():
    assert violations(PACKAGES, ROS, ROS_FILES) == []


def test_only_launch_files_import_launch():
    assert violations(PACKAGES, LAUNCH) == []


def test_nothing_unpickles_in_what_is_installed():
    forbidden = {'pickle', 'dill', 'cloudpickle', 'joblib', 'marshal', 'shelve'}

    assert violations(INSTALLED, forbidden) == []


def test_packages_import_themselves_by_their_full_names():
    relative = [
        f'{name}:{line}'
        for name, path in python_files(*INSTALLED)
        for module, line in imports(path)
        if module.startswith('.')
    ]
    assert relative == []


# --- circles --------------------------------------------------------------------------------------


def modules(path: Path) -> Iterator[str]:
    """What a file imports when it runs, by full names; imports for types alone left out."""
    tree = ast.parse(path.read_text('utf-8'), str(path))
    for_types = {
        id(below)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test)
        for below in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def imports_between_files() -> dict[str, set[str]]:
    """File: the files of ours that it imports."""
    by_module = {
        name.removesuffix('.py').removesuffix('/__init__').replace('/', '.'): (name, path)
        for name, path in python_files(*PACKAGES)
    }
    graph: dict[str, set[str]] = {}
    for name, path in by_module.values():
        graph[name] = set()
        for module in modules(path):
            while module and module not in by_module:
                module = module.rpartition('.')[0]
            if module and by_module[module][0] != name:
                graph[name].add(by_module[module][0])
    return graph


def imports_between_folders(files: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Folder: the folders that its files import; a folder and one inside it count as one room."""
    graph: dict[str, set[str]] = {name.rpartition('/')[0]: set() for name in files}
    for name, targets in files.items():
        folder = name.rpartition('/')[0]
        for other in {target.rpartition('/')[0] for target in targets} - {folder}:
            if not f'{other}/'.startswith(f'{folder}/') and not f'{folder}/'.startswith(
                f'{other}/'
            ):
                graph[folder].add(other)
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan, SIAM J. Comput. 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def test_no_files_import_each_other_in_a_circle():
    assert circles(imports_between_files()) == []


def test_no_folders_import_each_other_in_a_circle():
    assert circles(imports_between_folders(imports_between_files())) == []


def test_circles_are_found():
    assert circles({'a': {'b'}, 'b': {'c'}, 'c': {'a'}, 'd': {'a'}}) == [['a', 'b', 'c']]
    assert circles({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}) == []


# --- the reader of imports, and what loading imports ----------------------------------------------


@pytest.mark.parametrize('source', ['import torch.nn', 'def f():\n  from rclpy.node import Node'])
def test_the_reader_finds_imports_wherever_they_are(tmp_path, source):
    (tmp_path / 'x.py').write_text(source)

    assert [module.partition('.')[0] for module, _ in imports(tmp_path / 'x.py')] in (
        ['torch'], ['rclpy'],
    )  # fmt: skip


def test_plain_modules_load_without_torch_and_ros():
    """In a fresh interpreter, where no other test has imported anything."""
    code = (
        'import sys\n'
        f'for name in {PLAIN_MODULES}: __import__(name)\n'
        f'print(sorted(set(sys.modules) & {TORCH | ROS | LAUNCH | {"training", "onnx"}}))'
    )

    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[]'
