# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The process in which a bag is parsed: limits first, then frames as `guarded.py` asks for them.

    python -m mtl_evaluation.bags.parser_process SETTINGS

SETTINGS is JSON: the socket's descriptor, the bag, its topics and the limits. Only `guarded.py`
starts this. Whatever goes wrong with the bag becomes one message of kind `error`; a crash or a
limit of the operating system ends the process, which the other side sees.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.bags import wire
from mtl_evaluation.bags.bag import BagFrame, DriveBag
from mtl_evaluation.bags.read_options import ReadOptions
from mtl_evaluation.messages.cdr import BagError
from mtl_perception import process
from mtl_perception.image_codec import ImageError

AHEAD = 2
"""Frames that wait for the other side while the next one is being parsed."""

Message = tuple[dict[str, Any], list[NDArray[Any]]]


def main(settings: dict[str, Any]) -> None:
    """Open the bag, describe it, then obey one request after another until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, settings['memory_bytes'])
    _limit(resource.RLIMIT_FSIZE, settings['file_bytes'])
    process.tune_allocator()
    channel = socket.socket(fileno=settings['socket'])
    with suppress(OSError):  # the other side is gone
        try:
            options = settings['options']
            options['ignored'] = tuple(options['ignored'])
            read = ReadOptions(**options)
            with DriveBag(settings['path'], settings['topics'], read) as bag:
                wire.send(channel, _description(bag), [])
                while request := channel.recv(4096):
                    _obey(channel, bag, json.loads(request))
        except BagError as error:
            wire.send(channel, {'kind': 'error', 'text': str(error)}, [])


def _obey(channel: socket.socket, bag: DriveBag, request: dict[str, Any]) -> None:
    """Answer a request with messages, the last of kind `end` or `error`."""
    last: dict[str, Any] = {'kind': 'end'}
    waiting = 0
    try:
        for header, arrays in _answers(bag, request):
            if waiting == AHEAD:
                waiting -= _taken(channel)
            wire.send(channel, header, arrays)
            waiting += 1
    except BagError as error:
        last = {'kind': 'error', 'text': str(error)}
    last['repeated'], last['unmatched_truth'] = asdict(bag.repeated), asdict(bag.unmatched_truth)
    while waiting:
        waiting -= _taken(channel)
    wire.send(channel, last, [])


def _taken(channel: socket.socket) -> int:
    """Wait until the other side has taken a message: 1."""
    if not channel.recv(1):
        raise BrokenPipeError
    return 1


def _answers(bag: DriveBag, request: dict[str, Any]) -> Iterator[Message]:
    if request['what'] == 'stamps':
        yield {'kind': 'stamps'}, [np.array(bag.stamps(), np.int64)]
        return
    number = {camera.topic: index for index, camera in enumerate(bag.cameras)}
    for count, frame in enumerate(bag.frames(request['truth'])):
        header: dict[str, Any] = {
            'kind': 'frame', 'camera': number[frame.topic], 'index': frame.index,
            'stamp_ns': frame.stamp_ns, 'name': frame.name, 'model': None,
        }  # fmt: skip
        if request['what'] == 'raw':
            yield header, [np.frombuffer(frame.cdr, np.uint8)]
            continue
        if frame.camera != bag.cameras[header['camera']]:
            model = frame.camera.model
            header['model'] = [model and asdict(model), frame.camera.model_note]
        arrays: list[NDArray[Any]] = []
        if count < request['decode_from']:
            header['image'] = header['truth'] = {'error': 'left out'}
            yield header, arrays
            continue
        header['image'] = _pack_image(frame, arrays)
        header['truth'] = _pack_truth(frame, arrays)
        yield header, arrays


def _pack_image(frame: BagFrame, arrays: list[NDArray[Any]]) -> dict[str, Any]:
    try:
        image = frame.image()
    except ImageError as error:
        return {'error': str(error)}
    arrays.append(image.pixels)
    return {'order': image.order}


def _pack_truth(frame: BagFrame, arrays: list[NDArray[Any]]) -> dict[str, Any]:
    try:
        truth = frame.truth()
    except BagError as error:
        return {'error': str(error)}
    if truth.boxes is not None:
        arrays += [truth.boxes.boxes, truth.boxes.ignore.astype(np.uint8)]
    if truth.places is not None:
        arrays.append(truth.places.feet.astype(np.float32))
    arrays += [*truth.masks.values(), *truth.maps.values()]
    return {
        'mount': None if truth.places is None else asdict(truth.places.mount),
        'classes': None if truth.boxes is None else truth.boxes.classes,
        'ids': () if truth.boxes is None else truth.boxes.ids,
        'masks': list(truth.masks),
        'maps': list(truth.maps),
        'labels': dict(truth.labels),
        'others': {kind: dict(by_task) for kind, by_task in truth.others.items()},
    }


def _description(bag: DriveBag) -> dict[str, Any]:
    cameras = [asdict(camera) for camera in bag.cameras]
    return {'kind': 'bag', 'info': asdict(bag.info), 'cameras': cameras}


def _limit(what: int, value: int) -> None:
    """Set a limit, or keep a lower one that is there already."""
    _, hard = resource.getrlimit(what)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


if __name__ == '__main__':
    main(json.loads(sys.argv[1]))
