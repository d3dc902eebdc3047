# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How far long work is: one line on the terminal, the same for every command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Show(Protocol):
    """Shows how far it is."""

    def __call__(
        self, done: int, note: str = '', *, text: str | None = None, total: int | None = None
    ) -> None:
        """`done` of `total`; note: at the end of the line; text, total: as changed."""


@contextmanager
def shown(
    text: str, total: int | None, console: Console | None = None, done: int = 0, keep: bool = True
) -> Iterator[Show]:
    """A bar while the block runs: `text`, how many of `total` (None: unknown), the time left.

    console: standard error by default. done: what was there before. keep: leave the line standing.
    """
    columns = (
        TextColumn('{task.description}', markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn('{task.fields[note]}', markup=False),
    )
    console = console or Console(stderr=True)
    with Progress(*columns, console=console, transient=not keep) as progress:
        task = progress.add_task(text, total=total, completed=done, note='')

        def show(
            done: int, note: str = '', *, text: str | None = None, total: int | None = None
        ) -> None:
            progress.update(task, completed=done, note=note, description=text, total=total)

        yield show
