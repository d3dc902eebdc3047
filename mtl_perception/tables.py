# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Tables that fit the terminal: nothing is cut, long cells wrap, columns too many go below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

WHOLE = 18
"""A cell of at most so many characters stays on one line; a longer one wraps between words."""
FRAME = 3
"""Characters that a column takes besides its text: two spaces and a line."""


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table, in parts that begin with its first column where it is wider than `console`."""
    console = console or Console()
    for part in fitted(table, console):
        console.print(part)


def fitted(table: Table, console: Console) -> Iterator[Table]:
    """The table, or parts of it: each with the first column and as many others as fit."""
    width = console.width - 1
    widths = [_widths(column, console, width // 2) for column in table.columns]
    needs, wants = zip(*widths, strict=True)
    if sum(wants) + FRAME * len(wants) <= width:
        yield table
        return
    parts = [[0]]
    for index in range(1, len(needs)):
        taken = sum(needs[i] + FRAME for i in parts[-1])
        if len(parts[-1]) > 1 and taken + needs[index] + FRAME > width:
            parts.append([0])
        parts[-1].append(index)
    for number, indices in enumerate(parts):
        part = copy(table)
        left = width - sum(needs[i] + FRAME for i in indices)
        part.columns = []
        for place, index in enumerate(indices):
            more = min(wants[index] - needs[index], max(left, 0))
            left -= more
            part.columns.append(
                replace(
                    table.columns[index], _index=place, width=needs[index] + more,
                    overflow='fold', no_wrap=False,
                )
            )  # fmt: skip
        part.title = table.title if number == 0 else None
        part.caption = table.caption if number == len(parts) - 1 else None
        yield part


def _widths(column: Column, console: Console, most: int) -> tuple[int, int]:
    """Characters that a column needs and would like; a word longer than `most` is folded."""
    cells: Sequence[object] = [column.header, *column.cells]
    found = [Measurement.get(console, console.options, cell) for cell in cells]  # type: ignore
    want = max((each.maximum for each in found), default=0)
    word = max((each.minimum for each in found), default=0)
    return min(max(word, min(want, WHOLE)), most), want
