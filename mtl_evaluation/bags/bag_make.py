# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception bag make`: a bag of images, a video, a data set or a generated drive.

Stopped by Ctrl-C, SIGTERM or a full disk it leaves `OUT.partial`, a bag of the frames so far; the
same command resumes from there. Killed, it loses at most `PART_FRAMES` frames.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from mtl_evaluation import progress
from mtl_evaluation.bags.bag_parts import PartialBag
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.bags.generated import GeneratedDrive
from mtl_evaluation.bags.sources import (
    CONFIG_KEY,
    START_NS,
    DatasetSplit,
    ImageFolder,
    Source,
    SourceError,
    SourceFrame,
    Video,
    as_jpeg,
)
from mtl_evaluation.messages.cdr import CAMERA, BagError
from mtl_evaluation.truth.label_files import LabelError
from mtl_perception.image_codec import ImageError, decode_compressed

PART_FRAMES = 300
"""Frames of one file of the bag, after which a kill loses none of them."""

NAMED_FOLDER = re.compile(r'([A-Za-z]\w*(?:/[A-Za-z]\w*)*)=(.+)')
CAMERA_NAME = re.compile(r'[A-Za-z]\w*(/[A-Za-z]\w*)*')


class Stopped(Exception):
    """The making was stopped: what there is of the bag, and how to go on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('out', type=Path, help='folder of the bag; must not be there yet')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--images', action='append', metavar='[CAMERA=]DIR',
        help='a folder of images in name order; again, with names, for several cameras',
    )  # fmt: skip
    source.add_argument('--video', type=Path, help='a video file')
    source.add_argument('--dataset', type=Path, metavar='ROOT', help='a BDD100K layout')
    source.add_argument('--generated', type=float, metavar='SECONDS', help='a generated drive')
    parser.add_argument('--split', default='val', help='of the data set')
    parser.add_argument('--pattern', default='*', help='which images, as in camvid_*')
    parser.add_argument('--limit', type=int, help='take only so many images or video frames')
    parser.add_argument(
        '--rate', type=float, default=10.0, help='frames per second (not of a video)'
    )
    parser.add_argument('--camera', default=CAMERA, help='name of the camera: its namespace')
    parser.add_argument('--seed', type=int, default=0, help='of the generated drive')
    parser.add_argument('--size', default='1280x720', help='of the generated pictures')
    parser.add_argument(
        '--encoding', choices=('raw', 'jpeg'), default=argparse.SUPPRESS,
        help='images as rgb8 or as JPEG; by default files as they are, video as jpeg, '
        'generated as raw',
    )  # fmt: skip
    parser.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap', help='file type')
    parser.add_argument(
        '--compression', choices=('zstd', 'none'), default='zstd',
        help='of mcap chunks, or of sqlite3 messages; none is read faster',
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Make the bag; returns the exit code."""
    encoding = getattr(args, 'encoding', None)
    sources = _sources(args)
    console = Console(stderr=True)
    custom = {}
    for source in sources.values():
        console.print(source.description, highlight=False)
        if source.config is not None:
            custom[CONFIG_KEY] = json.dumps(source.config, sort_keys=True)
    identity = {name: source.identity for name, source in sources.items()}
    bag = PartialBag(
        args.out.expanduser(), {'encoding': encoding, **identity}, args.storage,
        args.compression == 'zstd', list(sources), custom,
    )  # fmt: skip
    if bag.done:
        console.print(f'resuming {bag.folder}, which has {bag.done} frames', highlight=False)
    with progress.shown('writing', _total(sources), console, bag.done) as show:
        make_bag(bag, sources, encoding, show)
    console.print(f'{bag.path}: {bag.done} frames', highlight=False)
    return 0


def make_bag(
    bag: PartialBag,
    sources: Mapping[str, Source],
    encoding: str | None,
    progress: Callable[[int], None],
) -> None:
    """Write the frames of every camera that are still missing, and finish the bag.

    Cameras with fewer images end earlier. `progress` is called with the frames done. Raises Stopped
    by SIGINT or SIGTERM, SourceError, LabelError or BagError; what is partial stays.
    """
    with _stop_requested() as requested:
        frames = _together(sources, bag.done)
        group = next(frames, None)
        while group is not None and not requested():
            try:
                with bag.part() as writer:
                    for _ in range(PART_FRAMES):
                        for camera, frame in group.items():
                            _write(writer, frame, encoding, camera)
                        bag.done += 1
                        progress(bag.done)
                        group = next(frames, None)
                        if group is None or requested():
                            break
            except (BagError, LabelError, SourceError) as error:
                raise type(error)(f'{error}. {_partial(bag)}') from error
        if group is not None:
            raise Stopped(f'stopped. {_partial(bag)}')
        bag.finish()


def _write(writer: DriveWriter, frame: SourceFrame, encoding: str | None, camera: str) -> None:
    stamp_ns = START_NS + round(frame.time_s * 1e9)
    image = _encoded(frame, encoding)
    writer.write_frame(stamp_ns, image, frame.truth, frame.camera_matrix, frame.name, camera)


def _partial(bag: PartialBag) -> str:
    if not bag.kept:
        return 'Nothing of the bag was kept'
    return f'{bag.folder} is a partial bag of {bag.kept} frames; the same command goes on with it'


def _together(sources: Mapping[str, Source], start: int) -> Iterator[dict[str, SourceFrame]]:
    """Frames of all cameras by number; a camera that has ended is left out."""
    streams = {name: source.frames_from(start) for name, source in sources.items()}
    while True:
        group = {name: frame for name in streams if (frame := next(streams[name], None))}
        if not group:
            return
        yield group


def _total(sources: Mapping[str, Source]) -> int:
    return max(source.frames for source in sources.values())


def _encoded(frame: SourceFrame, encoding: str | None) -> EncodedImage:
    """The image as it was asked for; raises SourceError when it cannot be decoded for that."""
    image = frame.image
    if encoding == 'jpeg' and image.pixels is not None:
        return as_jpeg(np.asarray(cv2.cvtColor(image.pixels, cv2.COLOR_RGB2BGR), np.uint8))
    if encoding is None or image.pixels is not None or image.format == encoding:
        return image
    try:
        decoded = decode_compressed(image.format, image.data)
    except ImageError as error:
        raise SourceError(f'{frame.name}: {error}. Leave --encoding out to keep files') from error
    if encoding == 'jpeg':
        return as_jpeg(decoded.pixels)
    return EncodedImage(np.asarray(cv2.cvtColor(decoded.pixels, cv2.COLOR_BGR2RGB), np.uint8))


def _sources(args: argparse.Namespace) -> dict[str, Source]:
    """Source by name of its camera; raises SourceError."""
    if not 0 < args.rate <= 1000 or (args.limit is not None and args.limit < 1):
        raise SourceError('--rate must be above 0 and at most 1000, --limit at least 1')
    if CAMERA_NAME.fullmatch(args.camera) is None:
        raise SourceError(f'--camera {args.camera}: letters, digits, _ and / between names')
    if args.video is not None:
        return {args.camera: Video(args.video, args.limit, args.rate)}
    if args.dataset is not None:
        return {
            args.camera: DatasetSplit(args.dataset, args.split, args.pattern, args.rate, args.limit)
        }
    if args.generated is not None:
        width, _, height = args.size.partition('x')
        if not (width.isdigit() and height.isdigit()) or not 0 < args.generated < 1e6:
            raise SourceError(
                f'--generated {args.generated} --size {args.size}: expected seconds above 0 and '
                f'WIDTHxHEIGHT, such as 1280x720'
            )
        return {
            args.camera: GeneratedDrive(
                args.seed, int(width), int(height), args.generated, args.rate
            )
        }
    folders: dict[str, str] = {}
    for text in args.images:
        match = NAMED_FOLDER.fullmatch(text)
        name, folder = match.groups() if match else (args.camera, text)
        if name in folders:
            raise SourceError(f'--images {text}: camera {name!r} twice; name them, as front=DIR')
        folders[name] = folder
    return {
        name: ImageFolder(folder, args.pattern, args.rate, args.limit)
        for name, folder in folders.items()
    }


@contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM came: the frame that is being written is finished first."""
    came: list[int] = []
    before = {}
    with suppress(ValueError):  # not the main thread: whoever runs us there handles signals
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
