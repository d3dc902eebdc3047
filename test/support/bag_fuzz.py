# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Mutated bags: `python test/support/bag_fuzz.py COUNT SEED` prints what was not caught.

Each is a small bag of one of four storages with some bytes changed, cut out or doubled, or its end
cut off. Reading one may give frames, BagError or ImageError; anything else is a defect, and so is
one that takes seconds. Memory is limited, so that a bomb fails.
"""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from drive_bags import stereo_bag

from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.messages.cdr import BagError
from mtl_perception.image_codec import ImageError

STORAGES = (('mcap', True), ('mcap', False), ('sqlite3', True), ('sqlite3', False))
SLOW_S = 5.0


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The same bytes with one to four faults."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed))
        length = min(rng.choice((1, 1, 2, 4, 8, 64)), len(changed) - at)
        kind = rng.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            changed[at : at + length] = rng.choice((b'\xff', b'\0', b'\x7f')) * length
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = changed[at : at + length]
        elif rng.random() < 0.2:
            del changed[max(1, at) :]
    return bytes(changed)


def read(path: Path) -> str:
    """Read all of a bag; returns how it ended, raises what should have been caught."""
    try:
        with DriveBag(path) as bag:
            for frame in bag.frames():
                with contextlib.suppress(ImageError):
                    frame.image()
                frame.truth()
    except BagError as error:
        if not str(error).isprintable() or len(str(error)) > 2000:
            raise AssertionError(f'no sentence: {str(error)!r}') from error
        return 'error'
    return 'read'


def main(count: int, seed: int) -> int:
    """Fuzz; returns the number of defects."""
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bags = [stereo_bag(root / f'bag{i}', *storage) for i, storage in enumerate(STORAGES)]
        for number in range(count):
            rng = random.Random(f'{seed} {number}')
            bag = Path(shutil.copytree(rng.choice(bags), root / 'mutant'))
            names = [path for path in bag.iterdir() if path.suffix != '.yaml']
            file = rng.choice([*names, *names, bag / 'metadata.yaml'])
            file.write_bytes(mutate(file.read_bytes(), rng))
            path = bag if rng.random() < 0.7 else names[0]
            started = time.process_time()
            try:
                end = read(path)
            except Exception:
                end = 'DEFECT'
                print(f'number {number}, {file.name}:\n{traceback.format_exc()}')
            seconds = time.process_time() - started
            if seconds > SLOW_S:
                end = 'DEFECT'
                print(f'number {number}, {file.name}: took {seconds:.1f} s')
            ends[end] += 1
            shutil.rmtree(bag)
    print(dict(ends))
    return ends['DEFECT']


if __name__ == '__main__':
    sys.exit(1 if main(int(sys.argv[1]), int(sys.argv[2])) else 0)
