# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Models that are missing, damaged, foreign or hostile, given to the node as a process.

Each is refused by configure within 5 s, in one sentence that says what was found and what to do;
the node lives on, and a good model then configures.
"""

from __future__ import annotations

import os
import pickle
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import live_node
import yaml
from live_node import NODE, NodeProcess, Peer, image

from mtl_perception.bundle import MAX_FILE_BYTES, Bundle, sha256_of
from mtl_perception.engines import cache, compile_engine

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures('private_ros')]

CONFIGURE_S = 5
ERROR = b'\x02'


class Canary:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def manifest(folder: Path, edit: Callable[[dict], object]) -> None:
    path = folder / 'manifest.yaml'
    data = yaml.safe_load(path.read_text())
    edit(data)
    path.write_text(yaml.safe_dump(data))


def vouch(folder: Path) -> None:
    """Make the manifest's hashes those of the files, as whoever made the bundle would."""
    manifest(folder, lambda d: d['files'].update({n: sha256_of(folder / n) for n in d['files']}))


def missing(folder: Path) -> None:
    shutil.rmtree(folder)


def without_graph(folder: Path) -> None:
    (folder / 'model.onnx').unlink()


def truncated(folder: Path) -> None:
    data = (folder / 'model.onnx').read_bytes()
    (folder / 'model.onnx').write_bytes(data[: len(data) // 2])


def truncated_and_vouched_for(folder: Path) -> None:
    truncated(folder)
    vouch(folder)


def wrong_hash(folder: Path) -> None:
    data = bytearray((folder / 'model.onnx').read_bytes())
    data[100] ^= 1
    (folder / 'model.onnx').write_bytes(data)


def fewer_classes(folder: Path) -> None:
    def edit(data: dict) -> None:
        task = next(task for task in data['tasks'] if task['name'] == 'semantic')
        task['classes'] = task['classes'][:-1]
        task['colours'] = task['colours'][:-1]

    manifest(folder, edit)


def other_schema(folder: Path) -> None:
    manifest(folder, lambda data: data.update(schema=99))


def pickled_graph(folder: Path) -> None:
    (folder / 'model.onnx').write_bytes(pickle.dumps(Canary(folder.parent / 'canary')))
    vouch(folder)


def python_tag(folder: Path) -> None:
    with (folder / 'manifest.yaml').open('a') as file:
        file.write(f'extra: !!python/object/apply:os.mkdir ["{folder.parent / "canary"}"]\n')


def name_that_climbs(folder: Path) -> None:
    (folder.parent / 'canary.txt').write_text('outside')
    manifest(folder, lambda data: data['files'].update({'../canary.txt': 'a' * 64}))


def archive(folder: Path) -> None:
    """A zip with an entry that would be written outside, in place of the folder."""
    shutil.rmtree(folder)
    with zipfile.ZipFile(folder, 'w') as file:
        file.writestr('../canary', 'written outside')


def oversized_graph(folder: Path) -> None:
    os.truncate(folder / 'model.onnx', MAX_FILE_BYTES + 1)  # sparse: takes no room


def slow_manifest(folder: Path) -> None:
    """YAML 1.1 reads this as a number in base 60, in quadratic time."""
    text = (folder / 'manifest.yaml').read_text()
    assert 'schema: 1\n' in text
    text = text.replace('schema: 1\n', f'schema: {"59:" * 80_000}59\n')
    (folder / 'manifest.yaml').write_text(text)


def repeated_key(folder: Path) -> None:
    with (folder / 'manifest.yaml').open('a') as file:
        file.write('schema: 1\n')


def oversized_manifest(folder: Path) -> None:
    with (folder / 'manifest.yaml').open('a') as file:
        file.write('#' * (2 << 20))


FAULTS: dict[Callable[[Path], None], str] = {
    missing: 'expected a bundle folder or one of',
    without_graph: 'listed in the manifest but is not a regular file',
    truncated: 'expected sha256',
    truncated_and_vouched_for: 'model.onnx',
    wrong_hash: 'expected sha256',
    fewer_classes: 'expected 18 first, as many as its classes',
    other_schema: 'manifest schema 99, this version reads 1',
    pickled_graph: 'model.onnx',
    python_tag: 'YAML tags are not allowed',
    name_that_climbs: "'../canary.txt' must be a plain name in the bundle",
    archive: 'expected a bundle folder',
    oversized_graph: f'expected at most {MAX_FILE_BYTES}',
    slow_manifest: "manifest schema '59:59:",
    oversized_manifest: 'larger than',
    repeated_key: "the key 'schema' is given twice",
}
"""What is done to a good bundle, and what the sentence must say."""


@pytest.fixture(scope='module')
def running(
    private_ros: None, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NodeProcess]:
    """A node that builds what is missing, unconfigured."""
    with NodeProcess(
        tmp_path_factory.mktemp('node'), model=tiny_bundle, engine='onnxruntime', build='true',
        diagnostics_period_s=0.2,
    ) as node:  # fmt: skip
        yield node
        code, _ = node.stop()
    assert code == 0, node.output
    assert 'Traceback' not in node.output


@pytest.fixture(scope='module')
def peer(running: NodeProcess) -> Iterator[Peer]:
    with live_node.peer() as made:
        yield made


def refused(node: NodeProcess, peer: Peer, says: str) -> None:
    """Configure fails in time with one line that says it, and the node is there."""
    said = len(node.output)
    started_s = time.monotonic()
    assert not peer.change('configure')
    assert time.monotonic() - started_s < CONFIGURE_S
    lines = [line for line in node.output[said:].splitlines() if 'not configured:' in line]
    assert len(lines) == 1
    assert says in lines[0], lines[0]
    assert f'`ros2 lifecycle set {NODE} configure`' in lines[0]
    assert peer.state() == 'unconfigured'
    status = peer.diagnostics()['perception: engine']
    assert status.level == ERROR
    assert says in status.message


def works(peer: Peer) -> None:
    """The model that is set configures and answers; unconfigured again at the end."""
    for label in ('configure', 'activate'):
        assert peer.change(label)
    peer.exchange(image(0))
    for label in ('deactivate', 'cleanup'):
        assert peer.change(label)


@pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: fault.__name__)
def test_a_bad_model_is_refused_in_one_sentence(
    fault: Callable[[Path], None], running: NodeProcess, peer: Peer, tiny_bundle: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / 'model'))
    fault(folder)
    assert peer.set('model', str(folder)).successful

    refused(running, peer, FAULTS[fault])

    assert not (tmp_path / 'canary').exists()


def test_a_good_model_configures_after_all_of_them(peer: Peer, tiny_bundle: Path) -> None:
    assert peer.set('model', str(tiny_bundle)).successful
    works(peer)


@pytest.mark.parametrize('other', ['GPU', 'version'])
def test_an_engine_built_elsewhere_is_not_taken(
    other: str, running: NodeProcess, peer: Peer, tiny_bundle: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Built for other hardware, or by another version: what is missing and the command."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / 'model'))
    manifest(folder, lambda data: data.update(parent_run=other))  # another hash: not built yet
    with monkeypatch.context() as patch:
        if other == 'GPU':
            patch.setattr(cache, 'cpu_name', lambda: 'Other GPU')
        else:
            engine = 'mtl_perception.engines.onnxruntime.OnnxRuntimeEngine.versions'
            patch.setattr(engine, lambda: {'onnxruntime': '0.1'})
        compile_engine(Bundle.open(folder), 'onnxruntime')
    assert peer.set('model', str(folder)).successful
    assert peer.set('build', False).successful

    refused(running, peer, f'mtl-perception compile {folder} --engine onnxruntime')

    assert peer.set('build', True).successful
    works(peer)
