# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`manifest.yaml`: what a bundle says about itself, and the checks of what is untrusted in it.

Plain data only: no YAML tags, no aliases, no unknown keys. `bundle.py` is the folder around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import yaml

from mtl_perception import kinds
from mtl_perception.plain_yaml import MAX_BYTES, PlainYamlError, read_plain_yaml
from mtl_perception.schema import fields_of
from mtl_perception.tasks import NODE_TOPICS, TASK_NAME, Task
from mtl_perception.text import one_line, quoted

SCHEMA = 1
MANIFEST = 'manifest.yaml'
MAX_MANIFEST_BYTES = MAX_BYTES
MAX_TEXT, MAX_NAME = 4096, 200
MAX_SIDE = 65536
MAX_TENSOR_BYTES = 2 << 30
"""Of one output and one frame: more than that is no answer of a camera network."""
DTYPES = ('uint8', 'int8', 'int32', 'int64', 'float16', 'float32')
"""What an output tensor may be made of."""

MIN_SIDE = 128
"""Below this a graph of any size cannot be built: it has fewer points than boxes to choose."""


class BundleError(Exception):
    """A bundle that cannot be used: what failed, where, expected, found, next step."""


@dataclass(frozen=True)
class InputSpec:
    """Network input: uint8 [B, height, width, 3] RGB, letterboxed with `letterbox_colour`.

    size_step: engines may be built for any height and width that are multiples of it; 0 where the
    graph is fixed to this size.
    """

    height: int
    width: int
    letterbox_colour: tuple[int, int, int] = (114, 114, 114)
    name: str = 'image'
    size_step: int = 0


@dataclass(frozen=True)
class OutputSpec:
    """One output tensor. `shape` is without the batch axis; `stride` is input pixels per cell."""

    name: str
    task: str
    meaning: str
    dtype: str
    shape: tuple[int, ...]
    stride: int = 1


@dataclass(frozen=True)
class Metric:
    """Values measured on one split of one data set, by the command named."""

    data: str
    split: str
    values: Mapping[str, float]
    command: str = ''


@dataclass(frozen=True)
class Manifest:
    """Everything `manifest.yaml` says; unknown keys are errors.

    terms: what each data source, teacher and pretrained network that the weights come from may be
    used for, by its name.
    """

    name: str
    tasks: tuple[Task, ...]
    input: InputSpec
    outputs: tuple[OutputSpec, ...]
    files: Mapping[str, str]
    licence: str
    training_data: tuple[str, ...]
    built_with: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    parent_run: str = ''
    terms: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def task(self, name: str) -> Task:
        """The task of that name; raises BundleError naming those there are."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise BundleError(
            f'bundle {self.name!r} has no task {name!r}; it has {[t.name for t in self.tasks]}'
        )

    def outputs_of(self, task: str) -> dict[str, OutputSpec]:
        """Outputs of a task by meaning."""
        return {output.meaning: output for output in self.outputs if output.task == task}


def at_size(manifest: Manifest, height: int, width: int) -> Manifest:
    """The same for engines of another input size; raises BundleError where the graph has only one.

    Maps shrink and grow with the input; what is counted (boxes, classes) stays.
    """
    spec = manifest.input
    if (height, width) == (spec.height, spec.width):
        return manifest
    if not spec.size_step:
        raise BundleError(
            f'bundle {manifest.name!r} has a graph for {spec.height}x{spec.width} only, asked for '
            f'was {height}x{width}. Export it again: `python -m training.export` writes graphs for '
            f'any multiple of 32.'
        )
    if height % spec.size_step or width % spec.size_step or min(height, width) < MIN_SIDE:
        raise BundleError(
            f'bundle {manifest.name!r} cannot take an input of {height}x{width}: both sides must '
            f'be multiples of {spec.size_step}, at least {MIN_SIDE}'
        )
    outputs = tuple(
        replace(
            output,
            shape=(*output.shape[:-2], height // output.stride, width // output.stride),
        )
        if output.meaning in kinds.grids()
        else output
        for output in manifest.outputs
    )
    return replace(manifest, input=replace(spec, height=height, width=width), outputs=outputs)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.yaml` into a bundle folder; what is written is first parsed back."""
    data = as_data(manifest)
    parse_manifest(data, 'the manifest to be written')
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
    (folder / MANIFEST).write_text(text, 'utf-8')


def as_data(manifest: Manifest) -> dict[str, Any]:
    """Plain data of a manifest; what older ones do not say is left out where it has its default."""
    data: dict[str, Any] = plain(asdict(manifest))
    optional = {item.name: item for item in fields(Task) if not item.compare}
    for task in data['tasks']:
        for name, item in optional.items():
            if task[name] == plain(item.default):
                del task[name]
    if not data['terms']:
        del data['terms']
    if not manifest.input.size_step:
        del data['input']['size_step']
    return data


def parse_manifest(data: Any, where: str) -> Manifest:
    """Check untrusted YAML data and build the Manifest; raises BundleError naming `where`."""
    found = data.get('schema') if isinstance(data, dict) else None
    if found != SCHEMA:
        raise BundleError(
            f'{where}: manifest schema {quoted(found)}, this version reads {SCHEMA}. '
            f'Export the bundle again with the training package of this version.'
        )
    top = _fields(Manifest, data, where)
    _check_lengths(top, where)
    tasks = tuple(
        _task(item, f'{where}: tasks[{i}]')
        for i, item in enumerate(_list(top['tasks'], f'{where}: tasks'))
    )
    _check_names(tasks, where)
    outputs = tuple(
        _output(item, f'{where}: outputs[{i}]', tasks)
        for i, item in enumerate(_list(top['outputs'], f'{where}: outputs'))
    )
    input_spec = _build(
        InputSpec, _tuples(_fields(InputSpec, top['input'], f'{where}: input')), f'{where}: input'
    )
    sides = (input_spec.height, input_spec.width)
    if not 32 <= min(sides) <= max(sides) <= 8192:
        raise BundleError(
            f'{where}: input is {input_spec.height}x{input_spec.width}, '
            f'expected sides of 32 to 8192 pixels'
        )
    step = input_spec.size_step
    if step < 0 or (step and (sides[0] % step or sides[1] % step)):
        raise BundleError(
            f'{where}: input: size_step must be 0 or divide {sides[0]} and {sides[1]}, found {step}'
        )
    if any(not 0 <= value <= 255 for value in input_spec.letterbox_colour):
        raise BundleError(
            f'{where}: input: letterbox_colour must be three values of 0 to 255, '
            f'found {quoted(input_spec.letterbox_colour)}'
        )
    metrics = tuple(
        _build(Metric, _fields(Metric, item, f'{where}: metrics[{i}]'), f'{where}: metrics[{i}]')
        for i, item in enumerate(_list(top.get('metrics', []), f'{where}: metrics'))
    )
    top.update(
        tasks=tasks,
        outputs=outputs,
        input=input_spec,
        metrics=metrics,
        files=_files(top['files'], where),
        training_data=tuple(_list(top['training_data'], f'{where}: training_data')),
    )
    return _build(Manifest, top, where)


def read_yaml(path: Path) -> Any:
    """Plain YAML data of an untrusted file; raises BundleError."""
    try:
        return read_plain_yaml(path, MAX_MANIFEST_BYTES)
    except PlainYamlError as error:
        raise BundleError(f'{path} is no manifest: {error}') from error


def _check_lengths(data: Any, where: str) -> None:
    """Every text of a manifest is shown somewhere: in logs, on /diagnostics, as a topic."""
    if isinstance(data, dict):
        for key, value in data.items():
            most = MAX_NAME if key in ('name', 'classes', 'task') else MAX_TEXT
            for text in value if isinstance(value, list) else (key, value):
                if isinstance(text, str) and len(text) > most:
                    raise BundleError(
                        f'{where}: {quoted(key)} is {quoted(text)}, expected at most {most}'
                    )
            _check_lengths(value, where)
    elif isinstance(data, list):
        for item in data:
            _check_lengths(item, where)


def _check_names(tasks: Sequence[Task], where: str) -> None:
    """Task names become topics: ROS names, each once, and none that the node has already."""
    names = [task.name for task in tasks]
    for name in names:
        if not TASK_NAME.fullmatch(name) or name in NODE_TOPICS or names.count(name) > 1:
            raise BundleError(
                f'{where}: task name {quoted(name)}: expected letters, digits and single '
                f'underscores, a letter first, each name once and none of {sorted(NODE_TOPICS)}, '
                f'found {quoted(names)}'
            )


def _task(item: Any, where: str) -> Task:
    task: Task = _build(Task, _tuples(_fields(Task, item, where)), where)
    try:
        return kinds.check(task)
    except ValueError as error:
        raise BundleError(f'{where}: {one_line(str(error), 500)}') from error


def _output(item: Any, where: str, tasks: Sequence[Task]) -> OutputSpec:
    output = _build(OutputSpec, _tuples(_fields(OutputSpec, item, where)), where)
    if (
        not 1
        <= min((*output.shape, output.stride))
        <= max((*output.shape, output.stride))
        <= (MAX_SIDE)
    ):
        raise BundleError(
            f'{where}: shape {quoted(output.shape)} and stride {output.stride} must be 1 to '
            f'{MAX_SIDE} each'
        )
    if output.meaning not in kinds.meanings():
        raise BundleError(
            f'{where}: meaning {quoted(output.meaning)} is not one of {sorted(kinds.meanings())}'
        )
    if output.dtype not in DTYPES:
        raise BundleError(f'{where}: dtype {quoted(output.dtype)} is not one of {DTYPES}')
    if math.prod(output.shape) * np.dtype(output.dtype).itemsize > MAX_TENSOR_BYTES:
        raise BundleError(
            f'{where}: {output.dtype} of shape {quoted(output.shape)} has more than '
            f'{MAX_TENSOR_BYTES} bytes per frame'
        )
    classes = {task.name: len(task.classes) for task in tasks}
    if output.task not in classes:
        raise BundleError(
            f'{where}: task {quoted(output.task)} is not among {quoted(sorted(classes))}'
        )
    count = classes[output.task]
    if output.meaning in ('logits', 'probabilities') and output.shape[:1] != (count,):
        raise BundleError(
            f'{where}: {output.meaning} of {output.task!r} have shape {quoted(output.shape)}, '
            f'expected {count} first, as many as its classes. Export the bundle again.'
        )
    return output


def _files(data: Any, where: str) -> dict[str, str]:
    if not isinstance(data, dict) or not data:
        raise BundleError(f'{where}: files must map file names to sha256, found {quoted(data)}')
    for name, digest in data.items():
        if not isinstance(name, str) or name != Path(name).name or name in ('', '.', '..'):
            raise BundleError(
                f'{where}: file name {quoted(name)} must be a plain name in the bundle'
            )
        if not isinstance(digest, str) or len(digest) != 64:
            raise BundleError(
                f'{where}: sha256 of {quoted(name)} is {quoted(digest)}, expected 64 hex digits'
            )
    return data


def _fields(cls: type, data: Any, where: str) -> dict[str, Any]:
    return fields_of(cls, data, where, BundleError)


def _build(cls: type, values: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(cls)
    for key, value in values.items():
        if not _is_a(value, hints[key]):
            hint = getattr(cls.__annotations__[key], '__name__', cls.__annotations__[key])
            raise BundleError(f'{where}: {key} must be {hint}, found {quoted(value)}')
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise BundleError(f'{where}: {one_line(str(error), 500)}') from error


def _is_a(value: Any, hint: Any) -> bool:
    """Whether plain data fits the type of a field of one of the classes above."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_is_a(value, one) for one in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_is_a(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_is_a, value, arguments))
    if origin is Mapping or origin is dict:
        return isinstance(value, dict) and all(
            _is_a(key, arguments[0]) and _is_a(item, arguments[1]) for key, item in value.items()
        )
    if origin is Literal:
        return isinstance(value, str)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _list(data: Any, where: str) -> Sequence[Any]:
    if not isinstance(data, list):
        raise BundleError(f'{where}: expected a list, found {type(data).__name__}')
    return data


def _tuples(data: Any) -> Any:
    """Lists in YAML become tuples, at every depth below the mapping itself."""
    if isinstance(data, dict):
        return {key: _tuples(value) for key, value in data.items()}
    if isinstance(data, list):
        return tuple(_tuples(value) for value in data)
    return data


def plain(data: Any) -> Any:
    """Tuples become lists and mappings dicts, for `yaml.safe_dump`."""
    if isinstance(data, Mapping):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    return data
