# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Runs the cells of a study, each in a process of its own, one after another or several at a time.

Nothing is remembered but what lies in the cells' folders. So a runner that was killed is begun
anew: finished cells are left alone, one that was begun resumes from its checkpoint, and one that
failed is named, and tried again only by `resume`.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mtl_perception import machine
from mtl_perception.children import module_command
from mtl_perception.engines.base import cores
from training.study.cells import LOG, STATUS, Cell, matching, replace_text
from training.study.comparisons import is_primary, named_in_time, notices, remember
from training.study.config import StudyConfig, StudyError
from training.study.initial import remember_initial_weights

Say = Callable[[str], None]

POLL_S = 0.2


@dataclass
class Running:
    """A child process and the cell that it works on."""

    cell: Cell
    slot: int
    process: subprocess.Popen[bytes]
    begun: float = field(default_factory=time.monotonic)


def run_cells(
    study: StudyConfig, cells: Iterable[Cell], jobs: int = 1, retry: bool = False,
    say: Say = print, only: Iterable[str] = (),
) -> bool:  # fmt: skip
    """Execute what is not finished; True when all chosen cells are. Raises StudyError.

    What the primary comparisons need runs first, so that a study cut short can still answer them.
    jobs: cells at a time. They share the GPUs out among themselves, and the cores of a machine
    without any. retry: cells that failed too. only: patterns of the ids to work on (fnmatch).
    """
    if jobs < 1:
        raise StudyError(f'--jobs: expected 1 or more, found {jobs}')
    everything = list(cells)
    states: dict[str, str] = {cell.id: cell.state() for cell in everything}
    wanted = {'new', 'begun'} | ({'failed'} if retry else set())
    chosen = matching(everything, only)
    waiting = [cell for cell in chosen if states[cell.id] in wanted]
    waiting.sort(key=lambda cell: not is_primary(study, cell))
    say(f'{study.name}: {summary(states.values())}; {len(waiting)} to do')
    for cell in everything:
        cell.check()
    remember(study, everything)
    remember_initial_weights(study, everything)
    for line in notices(study, named_in_time(study, everything)):
        say(f'{study.name}: {line}')
    for cell in waiting:
        cell.prepare()
    gpus, total, durations = visible_gpus(), len(waiting), [0.0]
    running: list[Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                slot = min({*range(jobs)} - {each.slot for each in running})
                running.append(_start(waiting.pop(0), slot, jobs, gpus))
            time.sleep(POLL_S)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                states[each.cell.id] = _ended(each)
                durations.append(time.monotonic() - each.begun)
                done = total - len(waiting) - len(running)
                left = (len(waiting) + len(running)) * sum(durations) / done / jobs / 60
                say(
                    f'{done}/{total} {each.cell.id}: {states[each.cell.id]} '
                    f'({durations[-1]:.0f} s, about {left:.0f} min left)'
                )
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            each.process.wait()
    failed = [cell for cell in chosen if states[cell.id] == 'failed']
    for cell in failed:
        say(f'failed: {cell.id}: {cell.status()["error"]} (see {cell.folder / LOG})')
    return all(states[cell.id] == 'finished' for cell in chosen)


def summary(states: Iterable[str]) -> str:
    """`12 cells: 3 finished, 9 new`."""
    counts = Counter(states)
    return f'{counts.total()} cells: ' + ', '.join(
        f'{counts[state]} {state}' for state in ('finished', 'begun', 'failed', 'new')
        if counts[state]
    )  # fmt: skip


def command_of(cell: Cell) -> list[str]:
    """What runs a cell."""
    return module_command(
        'training.study.cell', str(cell.folder), '--split', cell.study.split, '--keep',
        cell.study.keep,
    )  # fmt: skip


def child_environment(slot: int, jobs: int, gpus: list[str]) -> dict[str, str]:
    """Of the cell in a slot: one GPU, or its share of the cores."""
    environment = dict(os.environ)
    if gpus:
        environment['CUDA_VISIBLE_DEVICES'] = gpus[slot % len(gpus)]
    elif jobs > 1:
        environment.setdefault('OMP_NUM_THREADS', str(max(1, cores() // jobs)))
    return environment


def visible_gpus() -> list[str]:
    """Ids for CUDA_VISIBLE_DEVICES; those that it names already, when it is set."""
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    if named is not None:
        return [gpu.strip() for gpu in named.split(',') if gpu.strip()]
    return [str(i) for i in range(len(machine.gpus()))]


def _start(cell: Cell, slot: int, jobs: int, gpus: list[str]) -> Running:
    if cell.state() == 'failed':  # it may have been finished by another runner meanwhile
        (cell.folder / STATUS).unlink(missing_ok=True)
    with (cell.folder / LOG).open('ab') as log:
        process = subprocess.Popen(
            command_of(cell), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env=child_environment(slot, jobs, gpus),
        )  # fmt: skip
    return Running(cell, slot, process)


def _ended(each: Running) -> str:
    """The state that a child left; a failure is written down."""
    state: str = each.cell.state()
    if state != 'finished':
        code = each.process.returncode
        status = {'state': 'failed', 'code': code, 'error': _why(code, each.cell.folder / LOG)}
        replace_text(each.cell.folder / STATUS, json.dumps(status, indent=1) + '\n')
        state = 'failed'
    return state


def _why(code: int, log: Path) -> str:
    """One sentence: the signal, or the last line that was printed."""
    if code < 0:
        more = '; out of memory?' if code == -9 else ''
        return f'killed by signal {-code}{more}'
    lines = [line.strip() for line in log.read_text('utf-8', 'replace').splitlines()]
    last = next((line for line in reversed(lines) if line), 'nothing was printed')
    return f'exit code {code}: {last[:300]}'
