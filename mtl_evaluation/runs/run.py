# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A run: one model's answers to many frames, kept so that every figure can be made from them again.

    RUN/run.json               what was run and every figure; `complete` says whether it is whole
    RUN/frames/<bag>.sqlite    one record a frame (`part.py`)

A record holds the metric *pieces* of its frame. Pieces merge exactly, so a run, a slice of it, a
bag, a fleet or a bootstrap sample are sums over records, and no other file is needed to compare
two runs. Who reports on a run may put further files beside these (`report.html`, `overlay.mp4`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from mtl_evaluation import kinds
from mtl_evaluation.metrics.metrics import Metric
from mtl_evaluation.runs.part import FrameRecord, Part, RunError, frame_key
from mtl_perception.tasks import Task

__all__ = [
    'FrameRecord', 'Run', 'RunError', 'frame_key', 'merged', 'task_from_json', 'task_to_json',
    'write_json',
]  # fmt: skip

SCHEMA = 2
SUMMARY = 'run.json'


class Run:
    """A run that is read; it may still be written, or be partial."""

    def __init__(self, path: Path, summary: dict[str, Any]) -> None:
        """Use `open`."""
        self.path = path
        self.summary = summary
        self.tasks = tuple(task_from_json(task) for task in summary['tasks'])
        for task in self.tasks:
            if task.kind not in kinds.KINDS:
                raise RunError(
                    f'{path}: task {task.name!r} is of kind {task.kind!r}, and only '
                    f'{[*kinds.KINDS]} can be measured here. Install the package that brings it'
                )

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
        there = {
            unquote(file.stem, errors='surrogateescape') for file in files if file.stat().st_size
        }
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


def merged(records: Iterable[FrameRecord], tasks: Iterable[Task]) -> dict[str, Metric]:
    """One metric per task over all records, streaming; equal to one pass, whatever the order."""
    metrics = kinds.new_metrics(tasks)
    for record in records:
        for name, piece in record.pieces.items():
            metrics[name].merge(piece)
    return metrics


def part_file(run: Path, bag: str) -> Path:
    """File of a bag's records."""
    return run / 'frames' / f'{quote(bag, safe=" ,()+=@", errors="surrogateescape")}.sqlite'


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
        # A path that is no UTF-8 becomes a JSON escape, which reads back as that path.
        scratch.write_text(text, 'utf-8', 'backslashreplace')
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
