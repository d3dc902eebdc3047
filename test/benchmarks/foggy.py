# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How often a bundle takes real frames for foggy, by the probability that is asked for.

    PYTHONPATH=. python test/benchmarks/foggy.py models/hydranet_pvtv2_b0 --json foggy.json

On the validation images of ../shared/data: DAWN's are all foggy, none of the other sources' are.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import checkout  # noqa: F401
import cv2
import numpy as np
from rich.progress import track

from mtl_perception import machine
from mtl_perception.bundle import Bundle
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline

DATA = Path(__file__).parents[3] / 'shared' / 'data'
SOURCES = {
    'dawn_fog': 'driving_mini/images/100k/val/dawn_*',
    'camvid': 'driving_mini/images/100k/val/camvid_*',
    'idd_lite': 'driving_mini/images/100k/val/idd_*',
    'rural_road': 'rural_road/images/100k/val/*',
    'traffic_light_seoul': 'traffic_light_seoul/images/100k/val/*',
}
THRESHOLDS = (0.6, 0.7, 0.8, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', type=Path)
    parser.add_argument('--json', type=Path, required=True)
    args = parser.parse_args()
    if not DATA.is_dir():
        parser.error(f'no folder {DATA}: the frames of ../shared/data are needed')
    bundle = Bundle.open(args.model)
    weather = next(task for task in bundle.manifest.tasks if task.name == 'weather')
    foggy = weather.classes.index('foggy')
    pipeline = Pipeline.open(args.model, build=True)
    shares = {}
    for source, pattern in SOURCES.items():
        paths = sorted(DATA.glob(pattern))
        sure = np.array([
            pipeline(Frame(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)), {'weather'})
            .answers['weather'][foggy]
            for path in track(paths, source)
        ])  # fmt: skip
        above = {str(least): round(float((sure >= least).mean()), 4) for least in THRESHOLDS}
        shares[source] = {'frames': len(paths), 'foggy_from': above}
    record = {
        'command': shlex.join(['python', *sys.argv]),
        'bundle': bundle.manifest.name,
        'temperature': weather.temperature,
        'machine': machine.describe(),
        'results': shares,
    }
    args.json.write_text(json.dumps(record, indent=1) + '\n')
    print(json.dumps(shares, indent=1))


if __name__ == '__main__':
    main()
