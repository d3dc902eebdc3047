# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Tasks that a configuration defines: of a kind there is, with a name and classes of their own.

    tasks: [detection, {name: gauge, kind: segmentation, classes: [dial, needle, rest]}]

An entry of `tasks` that says more than a name becomes one of `definitions`, and its name stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn

from mtl_perception import kinds
from mtl_perception.tasks import ALL_TASKS, NODE_TOPICS, TASK_NAME, Task, bitwise_colours

RESERVED = frozenset({'coarse7', 'images', 'two_class_drivable', 'yolop_style'})
"""What an evaluation calls figures of its own."""
MOST_CLASSES = 250
"""Of a mask of 8 bits, beside the values for unlabelled and unknown pixels."""


@dataclass
class TaskDefinition:
    """A task but for its name: kind, classes and their colours as of `mtl_perception.tasks.Task`.

    Without colours each class has one of Pascal VOC's.
    """

    kind: str
    classes: list[str] = field(default_factory=list)
    colours: list[Any] = field(default_factory=list)

    def task(self, name: str) -> Task:
        """The task; raises ValueError for a name, kind or classes that it cannot have."""
        taken = NODE_TOPICS | RESERVED
        if not TASK_NAME.fullmatch(name) or name in taken or hasattr(nn.ModuleDict, name):
            raise ValueError(
                f'task {name!r}: expected letters, digits and single underscores, a letter first, '
                f'no method of torch.nn.ModuleDict and none of {sorted(taken)}'
            )
        if len(self.classes) > MOST_CLASSES:
            raise ValueError(
                f'task {name!r}: {len(self.classes)} classes, expected at most {MOST_CLASSES}'
            )
        try:
            colours = tuple(tuple(int(value) for value in colour) for colour in self.colours)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'task {name!r}: colours {self.colours}, expected [red, green, blue] per class'
            ) from error
        kind = kinds.KINDS.get(self.kind)
        if not colours and kind is not None and not kind.is_label:
            colours = bitwise_colours(1, len(self.classes))
        triples = cast(tuple[tuple[int, int, int], ...], colours)
        task = kinds.check(Task(name, self.kind, tuple(self.classes), triples))
        known = ALL_TASKS.get(name)
        if known is not None and known != task:
            raise ValueError(
                f'task {name!r} is known already, of kind {known.kind} with classes '
                f'{list(known.classes)}: give yours another name, or leave kind and classes out'
            )
        return task


def with_known(definitions: Mapping[str, TaskDefinition]) -> dict[str, Task]:
    """Every task that a configuration may name; raises ValueError for a definition that is none."""
    return {**ALL_TASKS, **{name: one.task(name) for name, one in definitions.items()}}


def split_definitions(layer: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose `tasks` are names, and its `definitions` what the entries said.

    Raises ValueError for an entry that is neither a name nor a definition with one.
    """
    entries = layer.get('tasks')
    if not isinstance(entries, list) or all(isinstance(entry, str) for entry in entries):
        return layer
    names, found = [], dict(layer.get('definitions') or {})
    for entry in entries:
        if isinstance(entry, str):
            names.append(entry)
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get('name'), str):
            raise ValueError(
                f'tasks: {entry!r}, expected a name, or {{name: ..., kind: ..., classes: [...]}}'
            )
        more = {key: value for key, value in entry.items() if key != 'name'}
        if 'kind' not in more:
            raise ValueError(f'tasks: {entry["name"]!r} has no kind: expected kind and classes')
        if found.get(entry['name'], more) != more:
            raise ValueError(f'tasks: {entry["name"]!r} is defined twice, and differently')
        names.append(entry['name'])
        found[entry['name']] = more
    return {**layer, 'tasks': names, 'definitions': found}
