# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The records of one bag on disk: an SQLite file that a kill or a full disk leaves readable.

What was committed is there, what was not is rolled back by whoever opens the file next. Numbers
come back bit by bit: arrays as their bytes, times as the shortest decimals that round to them.
"""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation import kinds
from mtl_evaluation.metrics.metrics import Metric
from mtl_evaluation.metrics.temporal import Stability
from mtl_evaluation.runs.tracks import FrameTracks
from mtl_evaluation.truth.truth import TruthPlaces
from mtl_perception.camera_model import CameraModel
from mtl_perception.geometry import Mount
from mtl_perception.tasks import Task

COMMIT_S = 1.0
"""At most so much work is lost by a kill."""

Arrays = dict[str, NDArray[Any]]

_PLACES = '/places'
_TRACKS = '/tracks/'
"""Before the names of tasks: no task is called so."""

_PAGE = 256
"""Records per query: a reader holds no lock while it works, so it never keeps a writer waiting."""

_SCHEMA = """
BEGIN;
CREATE TABLE IF NOT EXISTS about (state TEXT NOT NULL);
INSERT INTO about SELECT '{}' WHERE NOT EXISTS (SELECT * FROM about);
CREATE TABLE IF NOT EXISTS frames (
    number INTEGER PRIMARY KEY,
    camera TEXT NOT NULL,
    frame INTEGER NOT NULL,
    stamp_ns INTEGER NOT NULL,
    name TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    slices TEXT NOT NULL,
    timings_ms TEXT NOT NULL,
    camera_model TEXT,
    digest TEXT NOT NULL,
    arrays BLOB NOT NULL,
    UNIQUE (camera, frame)
);
COMMIT;
"""


class RunError(Exception):
    """A run that cannot be read or written: what, where, expected, found, next step."""


@dataclass(frozen=True)
class FrameRecord:
    """What one frame gave.

    bag: name of its bag, unique in the run (of its data set in `training.evaluate`). camera: image
    topic, '' for images. index: within bag and camera. size: width, height. slices: `weather` ->
    `rainy` and so on, from the truth. digest: sha256 (hex) of everything that was answered.
    pieces: by task a metric with exactly this frame in it, where prediction and truth both exist.
    stability: what changed since the frames before, None where that was not looked at. tracks: by
    detection task. places: true ones.
    camera_model: for pixels of this image; where there is none, a sentence that says why.
    """

    bag: str
    camera: str
    index: int
    stamp_ns: int
    name: str
    size: tuple[int, int]
    digest: str
    slices: Mapping[str, str] = field(default_factory=dict)
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    pieces: Mapping[str, Metric] = field(default_factory=dict)
    stability: Stability | None = None
    camera_model: CameraModel | str = 'no CameraInfo'
    tracks: Mapping[str, FrameTracks] = field(default_factory=dict)
    places: TruthPlaces | None = None

    @property
    def key(self) -> str:
        """Name of the frame, unique in the run."""
        return frame_key(self.bag, self.camera, self.index)


def frame_key(bag: str, camera: str, index: int) -> str:
    """Name of a frame, unique in a run; sorts by bag, camera, index."""
    return f'{bag}{camera}#{index:09d}'


class Part:
    """One bag's file. Every error is a RunError.

    state: plain data that is written at each commit and is there again when the file is opened.
    """

    def __init__(self, path: Path, bag: str, tasks: tuple[Task, ...], write: bool = False) -> None:
        """Open; `write` makes a file that is not there."""
        self.path = path
        self.bag = bag
        self._tasks = {task.name: task for task in tasks}
        self._committed = time.monotonic()
        with _as_run_error(path):
            mode = 'rwc' if write else 'rw'
            self._database = sqlite3.connect(
                f'{path.absolute().as_uri()}?mode={mode}', uri=True, timeout=30
            )
            if write:
                # A kill loses nothing that was committed; only a power failure could.
                self._database.execute('PRAGMA synchronous = OFF')
                self._database.executescript(_SCHEMA)
            self._frames = self._scalar('SELECT COUNT(*) FROM frames')
            self.state: dict[str, Any] = json.loads(self._scalar('SELECT state FROM about'))

    def __len__(self) -> int:
        """Frames in the file."""
        return int(self._frames)

    def add(self, record: FrameRecord) -> None:
        """Append one frame; it is safe after the next commit."""
        arrays = {
            f'{name}/{key}': array
            for name, metric in record.pieces.items()
            for key, array in metric.to_arrays().items()
        }
        if record.stability is not None:
            arrays |= {f'/{key}': array for key, array in record.stability.to_arrays().items()}
        if record.places is not None:
            mount = record.places.mount
            arrays[f'{_PLACES}/feet'] = record.places.feet
            arrays[f'{_PLACES}/mount'] = np.array([*mount.rotation, *mount.translation])
        for name, tracks in record.tracks.items():
            arrays |= {f'{_TRACKS}{name}/{k}': array for k, array in tracks.to_arrays().items()}
        model = record.camera_model
        row = (
            len(self), record.camera, record.index, record.stamp_ns, record.name, *record.size,
            json.dumps(dict(record.slices)), json.dumps(dict(record.timings_ms)),
            json.dumps(model if isinstance(model, str) else asdict(model)),
            record.digest, pack(arrays),
        )  # fmt: skip
        with _as_run_error(self.path):
            self._database.execute(f'INSERT INTO frames VALUES ({",".join("?" * 12)})', row)
        self._frames += 1

    def commit(self) -> None:
        """Make everything so far safe."""
        with _as_run_error(self.path):
            self._database.execute('UPDATE about SET state = ?', (json.dumps(self.state),))
            self._database.commit()
        self._committed = time.monotonic()

    def commit_due(self) -> bool:
        """Whether the last commit is `COMMIT_S` ago."""
        return time.monotonic() - self._committed > COMMIT_S

    def records(self, first: int = 0) -> Iterator[FrameRecord]:
        """Frames in order from the `first` on, one at a time."""
        query = 'SELECT * FROM frames WHERE number >= ? ORDER BY number LIMIT ?'
        while True:
            with _as_run_error(self.path):
                rows = self._database.execute(query, (first, _PAGE)).fetchall()
            if not rows:
                return
            for row in rows:
                with _as_run_error(self.path):
                    record = self._record(row)
                yield record
            first = rows[-1][0] + 1

    def close(self) -> None:
        """Close without committing."""
        self._database.close()

    def _record(self, row: tuple[Any, ...]) -> FrameRecord:
        _, camera, index, stamp_ns, name, width, height, slices, timings, model, digest, blob = row
        grouped: dict[str, Arrays] = {}
        for key, array in unpack(blob).items():
            task, _, part = key.rpartition('/')
            grouped.setdefault(task, {})[part] = array
        stability = grouped.pop('', None)
        places = grouped.pop(_PLACES, None)
        tracks = {
            group.removeprefix(_TRACKS): FrameTracks.from_arrays(grouped.pop(group))
            for group in list(grouped)
            if group.startswith(_TRACKS)
        }
        return FrameRecord(
            self.bag, camera, index, stamp_ns, name, (width, height), digest,
            json.loads(slices), json.loads(timings),
            {name: self._piece(name, arrays) for name, arrays in grouped.items()},
            Stability.from_arrays(stability) if stability is not None else None,
            _camera_model(model), tracks, _places(places),
        )  # fmt: skip

    def _piece(self, name: str, arrays: Arrays) -> Metric:
        task = self._task(name)
        metric: Metric = kinds.of(task).metric.from_arrays(task, arrays)
        return metric

    def _task(self, name: str) -> Task:
        if name not in self._tasks:
            raise RunError(f'{self.path}: a frame holds task {name!r}, the run {list(self._tasks)}')
        return self._tasks[name]

    def _scalar(self, query: str) -> Any:
        return self._database.execute(query).fetchone()[0]


def _places(arrays: Arrays | None) -> TruthPlaces | None:
    if arrays is None:
        return None
    *rotation, x, y, z = arrays['mount'].tolist()
    return TruthPlaces(arrays['feet'], Mount(tuple(rotation), (x, y, z)))


def _camera_model(text: str | None) -> CameraModel | str:
    """Of a record's column; runs from before distortion was looked at have four numbers there."""
    values = json.loads(text or '"no CameraInfo"')
    if isinstance(values, list):
        return 'recorded without the distortion of the camera: replay again'
    return values if isinstance(values, str) else CameraModel.from_dict(values)


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays by name -> bytes that `unpack` turns into equal arrays of equal types.

    Each is stored in the smallest type that holds its values exactly, then deflated.
    """
    heads, bodies = [], []
    for name, array in arrays.items():
        stored = _smallest(array)
        heads.append([name, array.dtype.str, stored.dtype.str, array.shape])
        bodies.append(stored.tobytes())
    head = json.dumps(heads, separators=(',', ':')).encode()
    return zlib.compress(b''.join([len(head).to_bytes(4, 'little'), head, *bodies]), 1)


def unpack(data: bytes) -> Arrays:
    """Inverse of `pack`."""
    raw = zlib.decompress(data)
    at = 4 + int.from_bytes(raw[:4], 'little')
    arrays = {}
    for name, dtype, stored, shape in json.loads(raw[4:at]):
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(raw, stored, count, at).reshape(shape).astype(dtype)
        at += count * np.dtype(stored).itemsize
    return arrays


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    if not array.size:
        return array
    if array.dtype == np.float64:
        with np.errstate(over='ignore'):
            single = array.astype(np.float32)
        return single if (single.astype(np.float64) == array).all() else array
    if array.dtype == np.int64:
        for bound, dtype in ((1 << 7, np.int8), (1 << 15, np.int16), (1 << 31, np.int32)):
            if -bound <= array.min() and array.max() < bound:
                return array.astype(dtype)
    return array


@contextmanager
def _as_run_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise RunError(f'{path}: a frame was added twice ({error})') from error
    except (sqlite3.Error, zlib.error) as error:
        if 'full' in str(error) or 'disk I/O' in str(error):
            raise RunError(
                f'cannot write {path}: {error}. What was written before is kept; free some space '
                f'and run the same command again to go on'
            ) from error
        raise RunError(
            f'{path} is not a readable part of a run: {error}. Delete it and run the command again'
        ) from error
