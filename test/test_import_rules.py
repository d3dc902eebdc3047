"""Who may import what: DESIGN.md section 1, kept by reading every import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / 'mtl_perception'

ROS = {
    'rclpy', 'rcl_interfaces', 'builtin_interfaces', 'ament_index_python', 'sensor_msgs',
    'std_msgs', 'std_srvs', 'vision_msgs', 'diagnostic_msgs', 'lifecycle_msgs', 'geometry_msgs',
    'nav_msgs', 'rosgraph_msgs', 'tf2_ros', 'cv_bridge', 'rosbag2_py',
}  # fmt: skip
ROS_FILES = ('node/', 'mtl_evaluation/live/session.py', 'mtl_evaluation/commands/demo.py')
"""The only places of the runtime that may import ROS: the node and what replays live."""

LAUNCH = {'launch', 'launch_ros', 'launch_testing'}
TORCH = {'torch', 'torchvision', 'timm', 'torch_tensorrt', 'tensorrt', 'tensorrt_rtx'}
TORCH_FILES = ('engines/torch', 'engines/aot', 'engines/tensorrt')

PLAIN_MODULES = [
    'pipeline', 'decode', 'overlay', 'cli', 'compile', 'bench.timing', 'doctor', 'engines',
    'bundle', 'engines.fake', 'engines.cache', 'image_codec', 'newest', 'scenes',
    'replay.scoring.metrics', 'node.parameters', 'node.launch_checks',
]  # fmt: skip


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(module, line) of every import statement, nested ones and those for types included."""
    for node in ast.walk(ast.parse(path.read_text('utf-8'), str(path))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield '.' * node.level + (node.module or ''), node.lineno


def violations(folder: Path, forbidden: set[str], allowed) -> list[str]:
    """`file:line imports module` for every forbidden import outside the allowed files."""
    found = []
    for path in sorted(folder.rglob('*.py')):
        name = path.relative_to(folder).as_posix()
        for module, line in imports(path):
            if module.partition('.')[0] in forbidden and not allowed(name):
                found.append(f'{path.relative_to(ROOT)}:{line} imports {module}')
    return found


def test_the_runtime_never_imports_training_or_tests():
    assert violations(RUNTIME, {'training', 'test', 'conftest'}, lambda name: False) == []


def test_only_torch_engines_import_torch():
    assert violations(RUNTIME, TORCH, lambda name: name.startswith(TORCH_FILES)) == []


def test_only_the_node_and_its_parts_import_ros():
    assert violations(RUNTIME, ROS, lambda name: name.startswith(ROS_FILES)) == []


def test_only_launch_files_import_launch():
    for folder in (RUNTIME, ROOT / 'training'):
        assert violations(folder, LAUNCH, lambda name: False) == []


def test_training_needs_no_ros():
    assert violations(ROOT / 'training', ROS, lambda name: False) == []


def test_nothing_unpickles_in_the_runtime():
    forbidden = {'pickle', 'dill', 'cloudpickle', 'joblib', 'marshal', 'shelve'}

    assert violations(RUNTIME, forbidden, lambda name: False) == []


def test_the_runtime_imports_itself_by_its_full_name():
    relative = [
        f'{path.name}:{line}'
        for path in RUNTIME.rglob('*.py')
        for module, line in imports(path)
        if module.startswith('.')
    ]
    assert relative == []


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
        f'for name in {PLAIN_MODULES}: __import__("mtl_perception." + name)\n'
        f'print(sorted(set(sys.modules) & {TORCH | ROS | LAUNCH | {"training", "onnx"}}))'
    )

    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[]'
