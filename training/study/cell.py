# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One cell, in a process of its own: `python -m training.study.cell FOLDER`.

The same as `python -m training.train FOLDER/cell.yaml`, then `python -m training.evaluate
FOLDER/run --json FOLDER/evaluation.json`. Whoever is first holds the folder; a second process, say
of a runner that was killed and begun anew, waits for it and finds the work done.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import sys
import time
from pathlib import Path

from training.checkpoint import BEST, LAST, find_checkpoint
from training.command import run
from training.evaluate import main as evaluate
from training.study.cells import CELL, EVALUATION, RUN, STATUS, read_json, replace_text
from training.train import main as train


def run_cell(folder: Path, split: str, keep: str) -> int:
    """Train, evaluate, say so in status.json; returns the exit code of what failed, or 0."""
    with (folder / '.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if read_json(folder / STATUS).get('state') == 'finished':
            return 0
        begun = time.monotonic()
        if code := train([str(folder / CELL)]):
            return code
        trained = time.monotonic()
        command = [str(folder / RUN), '--split', split, '--latency', '0']
        if code := evaluate([*command, '--json', str(folder / EVALUATION)]):
            return code
        status = {
            'state': 'finished',
            'training_s': round(trained - begun, 1),
            'evaluation_s': round(time.monotonic() - trained, 1),
        }
        replace_text(folder / STATUS, json.dumps(status, indent=1) + '\n')
        if keep == 'best' and find_checkpoint(folder / RUN / BEST):
            shutil.rmtree(folder / RUN / LAST, ignore_errors=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog='python -m training.study.cell', description=__doc__)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--split', default='val')
    parser.add_argument('--keep', choices=('best', 'all'), default='best')
    args = parser.parse_args(argv)
    return run_cell(args.folder, args.split, args.keep)


if __name__ == '__main__':
    sys.exit(run(main))
