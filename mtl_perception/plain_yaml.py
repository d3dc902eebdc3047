# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""YAML of unknown origin: plain data only, and no more work than its size explains.

No tags, no aliases (they multiply), no deep nesting, a bounded size. YAML 1.1 reads
`59:59:59` as a number in base 60, and PyYAML takes quadratic time over a long one; here it is text,
as in YAML 1.2, and an integer has at most 19 digits.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mtl_perception.text import quoted

MAX_BYTES = 1 << 18
"""PyYAML takes up to 5 s for a megabyte; what people write by hand has a few kilobytes."""
MAX_DEPTH = 16

_NUMBERS = {'tag:yaml.org,2002:int', 'tag:yaml.org,2002:float'}
_INT = re.compile(r'[-+]?(?:0|[1-9][0-9]{0,18}|0x[0-9a-fA-F]{1,15}|0o[0-7]{1,20})')
_FLOAT = re.compile(
    r'[-+]?(?:[0-9]{1,40}\.[0-9]{0,40}(?:[eE][-+]?[0-9]{1,3})?|[0-9]{1,40}[eE][-+]?[0-9]{1,3}'
    r'|\.[0-9]{1,40}(?:[eE][-+]?[0-9]{1,3})?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)'
)
_LONG_INT = re.compile(r'[-+]?[0-9_]{20,}')


class PlainYamlError(Exception):
    """What a file has that plain data has not, or why it is no YAML; the caller names the file."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2; a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As SafeLoader, which would keep the last value of a repeated key without a word."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise PlainYamlError(f'line {line}: the key {quoted(key.value)} is given twice')
                seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _firsts in (
    ('tag:yaml.org,2002:int', re.compile(f'(?:{_INT.pattern})$'), '-+0123456789'),
    ('tag:yaml.org,2002:float', re.compile(f'(?:{_FLOAT.pattern})$'), '-+0123456789.'),
):
    _Loader.add_implicit_resolver(_tag, _pattern, list(_firsts))


def load_plain_yaml(text: str) -> Any:
    """The data of a YAML text, whose length the caller has bounded; raises PlainYamlError."""
    try:
        _check(text)
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise PlainYamlError(f'not readable YAML: {error}') from error


def read_plain_yaml(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """As `load_plain_yaml`, of a file; raises OSError as well."""
    with path.open('rb') as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise PlainYamlError(f'larger than {max_bytes} bytes')
    try:
        return load_plain_yaml(data.decode('utf-8'))
    except UnicodeDecodeError as error:
        raise PlainYamlError(f'not readable YAML: {error}') from error


def _check(text: str) -> None:
    """Walk the events, which cost the same a byte whatever they hold, before values are made."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise PlainYamlError('YAML aliases are not allowed; write the values out')
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag:
            raise PlainYamlError(f'YAML tags are not allowed, found {quoted(event.tag)}')
        if (
            isinstance(event, yaml.ScalarEvent)
            and event.implicit[0]
            and _LONG_INT.fullmatch(event.value)
        ):
            raise PlainYamlError(f'an integer of {len(event.value)} digits, expected at most 19')
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise PlainYamlError(f'nested deeper than {MAX_DEPTH}')
