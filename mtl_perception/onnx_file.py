# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Whether an ONNX file holds all that it computes with: read off the protobuf wire, without onnx.

A tensor may live in another file that the graph only names (`external_data`), and an `EPContext`
node may name a compiled program. No manifest lists what a graph names, so the same bundle hash
would stand for other weights. Every runtime follows such names in its own way; this file looks for
them before any runtime sees the graph. Field numbers are those of onnx.proto (ONNX 1.20).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

MAX_FIELDS = 4_000_000
MAX_DEPTH = 64

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_MESSAGES: Mapping[str, Mapping[int, str]] = {
    'Model': {7: 'Graph', 20: 'TrainingInfo', 25: 'Function'},
    'TrainingInfo': {1: 'Graph', 2: 'Graph'},
    'Function': {7: 'Node', 11: 'Attribute'},
    'Graph': {1: 'Node', 5: 'Tensor', 15: 'SparseTensor'},
    'Node': {5: 'Attribute'},
    'Attribute': {
        5: 'Tensor', 6: 'Graph', 10: 'Tensor', 11: 'Graph', 22: 'SparseTensor', 23: 'SparseTensor',
    },
    'SparseTensor': {1: 'Tensor', 2: 'Tensor'},
    'Tensor': {},
}  # fmt: skip
"""Which fields of a message are messages that can hold a tensor."""
_OP_TYPE = 4
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


class OnnxFileError(Exception):
    """Bytes that are no ONNX model; `names` is set where a model names other files."""

    def __init__(self, text: str, names: bool = False) -> None:
        """Say what was found."""
        super().__init__(text)
        self.names = names


def check_self_contained(data: bytes) -> None:
    """Raise OnnxFileError where the model names other files, or is no protobuf message."""
    pending = [('Model', memoryview(data), 0)]
    left = MAX_FIELDS
    while pending:
        kind, message, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise OnnxFileError(f'subgraphs nested deeper than {MAX_DEPTH}')
        for number, wire, value, content in _fields(message):
            left -= 1
            if left < 0:
                raise OnnxFileError(f'more than {MAX_FIELDS} fields')
            if kind == 'Tensor' and (
                number == _EXTERNAL_DATA or (number == _DATA_LOCATION and (wire, value) != (0, 0))
            ):
                raise OnnxFileError('a tensor keeps its values in another file', names=True)
            if kind == 'Node' and number == _OP_TYPE and bytes(content) == b'EPContext':
                raise OnnxFileError('an EPContext node names a compiled program', names=True)
            if number in _MESSAGES[kind]:
                if wire != _BYTES:
                    raise OnnxFileError(f'field {number} of a {kind} is no message')
                pending.append((_MESSAGES[kind][number], content, depth + 1))


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """Number, wire type, value of a varint, and content, of each field of a message."""
    at, end, nothing = 0, len(message), message[:0]
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        value, content = 0, nothing
        if wire == _VARINT:
            value, at = _varint(message, at)
        elif wire == _BYTES:
            length, at = _varint(message, at)
            content, at = message[at : at + length], at + length
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:
            raise OnnxFileError(f'wire type {wire}')
        if at > end:
            raise OnnxFileError('it ends inside a field')
        yield number, wire, value, content


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The value of a varint and where the next byte is."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise OnnxFileError('a number without an end')
