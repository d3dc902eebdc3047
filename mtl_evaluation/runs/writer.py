# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Writing a run: one holder at a time, which resumes where an earlier one stopped."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mtl_evaluation.runs.figures import figures
from mtl_evaluation.runs.part import FrameRecord, Part, RunError
from mtl_evaluation.runs.run import (
    SCHEMA,
    SUMMARY,
    Run,
    part_file,
    task_to_json,
    write_json,
)
from mtl_perception.tasks import Task

if TYPE_CHECKING:
    from typing_extensions import Self

    from mtl_perception.geometry import Mount

UNFINISHED = 'its command has not finished: it still runs, was killed, or the disk was full'


class RunWriter:
    """Writes a run; a second writer on the same folder resumes where the first one stopped.

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
        """Begin or resume.

        identity: what the answers depend on (model, engine, options); to resume with another one is
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
