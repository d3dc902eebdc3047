"""A run: one model's answers to many frames, kept so that every figure can be made from them again.

    RUN/run.json               what was run and every figure; `complete` says whether it is whole
    RUN/frames/<bag>.sqlite    one record a frame (`part.py`)

A record holds the metric *pieces* of its frame. Pieces merge exactly, so a run, a slice of it, a
bag, a fleet or a bootstrap sample are sums over records, and no other file is needed to compare
two runs. Who reports on a run may put further files beside these (`report.html`, `overlay.mp4`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from mtl_perception.replay.scoring.metrics import Metric, metric_for
from mtl_perception.replay.runs.part import FrameRecord, Intrinsics, Part, RunError, frame_key
from mtl_perception.tasks import Task

if TYPE_CHECKING:
    from typing_extensions import Self

    from mtl_perception.replay.scoring.road import Mount

__all__ = [
    'FrameRecord', 'Intrinsics', 'Run', 'RunError', 'RunWriter', 'frame_key', 'merged',
    'new_metrics', 'task_from_json', 'task_to_json', 'write_json',
]  # fmt: skip

SCHEMA = 2
SUMMARY = 'run.json'
UNFINISHED = 'its command has not finished: it still runs, was killed, or the disk was full'


class Run:
    """A run that is read; it may still be written, or be partial."""

    def __init__(self, path: Path, summary: dict[str, Any]) -> None:
        """Use `open`."""
        self.path = path
        self.summary = summary
        self.tasks = tuple(task_from_json(task) for task in summary['tasks'])

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Read `run.json` of a run's folder; raises RunError."""
        path = Path(path).expanduser()
        file = path / SUMMARY
        try:
            summary = json.loads(file.read_text('utf-8'))
            schema = summary['schema']
        except FileNotFoundError:
            there = 'nothing' if not path.exists() else f'no {SUMMARY} in it'
            raise RunError(
                f'no run at {path}: {there}. `mtl-perception replay BAG --output {path}` makes one'
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f'{file} is not a readable run: {error!r}. Run the command again') from (
                error
            )
        if schema != SCHEMA:
            raise RunError(
                f'{file} has schema {schema}, this version reads {SCHEMA}. Run the command again'
            )
        return cls(path, summary)

    @property
    def bags(self) -> list[str]:
        """Names of the bags that have records, in the order of the run."""
        files = (self.path / 'frames').glob('*.sqlite')
        there = {unquote(file.stem) for file in files if file.stat().st_size}
        named = [bag['name'] for bag in self.summary.get('bags', []) if bag['name'] in there]
        return named + sorted(there.difference(named))

    def records(self, bags: Iterable[str] | None = None) -> Iterator[FrameRecord]:
        """Every record in order, one at a time; of some `bags` only. Raises RunError."""
        for bag in self.bags if bags is None else bags:
            part = Part(part_file(self.path, bag), bag, self.tasks)
            try:
                yield from part.records()
            finally:
                part.close()


class RunWriter:
    """Writes a run; a second writer on the same folder goes on where the first one stopped.

    Use as a context manager: leaving without `finish` keeps a run that says it is partial. Only one
    process at a time may hold a run's folder. Every error is a RunError.
    """

    def __init__(
        self,
        path: str | Path,
        tasks: Sequence[Task],
        identity: Mapping[str, Any] | None = None,
        bags: Sequence[Mapping[str, Any]] = (),
        fresh: bool = False,
    ) -> None:
        """Open or go on.

        identity: what the answers depend on (model, engine, options); going on with another one is
        an error. bags: `name` and what else is known of each, in the order of the run. fresh: begin
        again, whatever run is in the folder.
        """
        self.path = Path(path).expanduser()
        self.tasks = tuple(tasks)
        self._parts: dict[str, Part] = {}
        start = {
            'schema': SCHEMA,
            'complete': False,
            'partial_reason': UNFINISHED,
            'identity': json.loads(json.dumps(dict(identity or {}))),
            'tasks': [task_to_json(task) for task in self.tasks],
            'bags': [dict(bag) for bag in bags],
        }
        try:
            (self.path / 'frames').mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f'cannot make the folder of the run {self.path}: {error}') from error
        self._lock = _lock(self.path)
        try:
            if fresh:
                for file in (self.path / SUMMARY, *(self.path / 'frames').glob('*.sqlite*')):
                    file.unlink(missing_ok=True)
            earlier = self._earlier(start)
            known = {bag['name'] for bag in earlier['bags']} if earlier else set()
            if not (earlier and earlier['complete'] and known == {b['name'] for b in bags}):
                write_json(self.path / SUMMARY, start)
        except BaseException:
            self._lock.close()
            raise
        self._start = start

    def __enter__(self) -> Self:
        """The writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Commit, close and let others in."""
        try:
            for part in self._parts.values():
                part.commit()
        finally:
            for part in self._parts.values():
                part.close()
            self._parts = {}
            self._lock.close()

    def part(self, bag: str) -> Part:
        """The file of a bag, made when it is not there."""
        if bag not in self._parts:
            self._parts[bag] = Part(part_file(self.path, bag), bag, self.tasks, write=True)
        return self._parts[bag]

    def add(self, record: FrameRecord) -> None:
        """Append one record to its bag; raises RunError when it was added before."""
        part = self.part(record.bag)
        part.add(record)
        if part.commit_due():
            part.commit()

    def measure(self, mount: Mount | None = None) -> dict[str, Any]:
        """Every figure over the records so far; `mount` is needed for recall by distance."""
        # Imported here: the figures are made of the records that are defined here.
        from mtl_perception.replay.runs.figures import figures

        for part in self._parts.values():
            part.commit()
        return figures(Run(self.path, self._start), mount)

    def finish(self, summary: Mapping[str, Any], measured: Mapping[str, Any] | None = None) -> Run:
        """Write `run.json`: every figure (`measure` is called if it was not), then what is given.

        The run is complete unless the summary says `complete: False` and `partial_reason`. What the
        summary knows of a bag, by its `name`, is put beside the bag's figures.
        """
        measured = self.measure() if measured is None else measured
        whole = {**self._start, 'complete': True, 'partial_reason': None, **measured, **summary}
        figures = {bag['name']: bag for bag in measured['bags']}
        told = list(summary.get('bags', self._start['bags']))
        bags = [{**figures.pop(bag['name'], {'frames': 0}), **bag} for bag in told]
        whole['bags'] = bags + list(figures.values())
        write_json(self.path / SUMMARY, whole)
        return Run.open(self.path)

    def _earlier(self, start: Mapping[str, Any]) -> dict[str, Any] | None:
        """Summary of the run that is there already, None without one; raises RunError."""
        if not (self.path / SUMMARY).is_file():
            if any((self.path / 'frames').iterdir()):
                raise RunError(
                    f'{self.path} holds records but no {SUMMARY}. Delete it, or give another folder'
                )
            return None
        earlier = Run.open(self.path).summary
        gone = {bag['name'] for bag in earlier['bags']} - {bag['name'] for bag in start['bags']}
        if gone and start['bags']:
            raise RunError(
                f'{self.path} also holds {min(gone)!r}, which is not among the bags now. Give '
                f'another folder, or begin again (--fresh)'
            )
        for key in ('identity', 'tasks'):
            if earlier[key] != start[key]:
                raise RunError(
                    f'{self.path} holds another run: {_first_difference(earlier[key], start[key])}.'
                    f' Give another folder, or begin again (--fresh)'
                )
        return earlier


def merged(records: Iterable[FrameRecord], tasks: Iterable[Task]) -> dict[str, Metric]:
    """One metric a task over all records, streaming; equal to one pass, whatever the order."""
    metrics = new_metrics(tasks)
    for record in records:
        for name, piece in record.pieces.items():
            metrics[name].merge(piece)  # type: ignore[arg-type]
    return metrics


def new_metrics(tasks: Iterable[Task]) -> dict[str, Metric]:
    """A metric from no frame for every task of a kind that has one."""
    found = {task.name: metric_for(task) for task in tasks}
    return {name: metric for name, metric in found.items() if metric is not None}


def part_file(run: Path, bag: str) -> Path:
    """File of a bag's records."""
    return run / 'frames' / f'{quote(bag, safe=" ,()+=@")}.sqlite'


def task_to_json(task: Task) -> dict[str, Any]:
    """A task as plain data."""
    return {
        'name': task.name,
        'kind': task.kind,
        'classes': list(task.classes),
        'colours': [list(colour) for colour in task.colours],
    }


def task_from_json(data: Mapping[str, Any]) -> Task:
    """Inverse of `task_to_json`."""
    colours = tuple((red, green, blue) for red, green, blue in data['colours'])
    return Task(data['name'], data['kind'], tuple(data['classes']), colours)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write whole or not at all; raises RunError."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + '\n'
    scratch = path.with_name(f'.{path.name}.partial')
    try:
        scratch.write_text(text, 'utf-8')
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise RunError(
            f'cannot write {path}: {error}. The records are kept: run the same command again'
        ) from error


def answers_hash(digests: Iterable[str]) -> str:
    """Sha256 over the digests of frames in order: equal when every answer is."""
    whole = hashlib.sha256()
    for digest in digests:
        whole.update(bytes.fromhex(digest))
    return whole.hexdigest()


def _lock(path: Path) -> IO[str]:
    try:
        lock = (path / '.lock').open('w')
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise RunError(f'another process writes the run {path} at this moment') from None
    except OSError as error:
        raise RunError(f'cannot lock the run {path}: {error}') from error
    return lock


def _first_difference(theirs: Any, ours: Any, where: str = '') -> str:
    """Where two pieces of plain data differ first, in words."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in {**theirs, **ours}:
            if theirs.get(key) != ours.get(key):
                path = f'{where}.{key}' if where else str(key)
                return _first_difference(theirs.get(key), ours.get(key), path)
    return f'its {where or "table of tasks"} is {theirs!r:.200}, now it is {ours!r:.200}'
