# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Does decoding keep up? `python -m training.data.rate CONFIG [key=value ...]`.

Images per second of the loader alone by number of workers, beside those of the training step alone
on the same machine; what loading, augmenting and packing cost a worker; and what decoding JPEGs no
larger than needed saves. `--json` keeps the figures.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtl_perception import machine
from mtl_perception.engines.base import cores
from training.board import WARM_STEPS
from training.command import at_least, check_output, run
from training.config import ConfigError, RunConfig, load_config
from training.data.layout import Layout, open_layouts
from training.data.loader import PREFETCH, Draws, StepSampler, train_loader
from training.data.sample import DatasetError, Sample, collate
from training.data.transforms import View
from training.train import train


def loader_rate(draws: Draws, config: RunConfig, workers: int, batches: int) -> float:
    """Images per second, once every worker has delivered what it may prepare."""
    size = config.optimizer.batch_size
    filled = max(1, PREFETCH * workers)
    sampler = StepSampler(0, filled + batches, size)
    begun = 0.0
    for step, _ in enumerate(train_loader(draws, sampler, config.tasks, workers)):
        if step + 1 == filled:
            begun = time.perf_counter()
    return batches * size / (time.perf_counter() - begun)


def step_rate(config: RunConfig, steps: int) -> dict[str, float]:
    """Images per second of the training step without its waiting for data, and that share."""
    short = copy.deepcopy(config)
    short.optimizer.steps = WARM_STEPS + steps
    short.validate_every = short.checkpoint_every = short.optimizer.steps + 1
    with tempfile.TemporaryDirectory() as folder:
        short.output = folder
        train(short)
        speed = json.loads((Path(folder) / 'speed.json').read_text())
    return {
        'images_per_s': round(speed['images_per_s'] / (1 - speed['data_wait_share']), 1),
        'data_wait_share': speed['data_wait_share'],
        'device': speed['device'],
        'workers': config.workers,
    }


def parts_cpu_ms(draws: Draws, config: RunConfig, count: int) -> dict[str, float]:
    """Mean CPU milliseconds of an image, by what they go to; other processes disturb them little.

    load: read and decode image and labels. augment: everything else of a draw. pack: its share of a
    batch's tensors. Draws that the caches of the file system have not seen yet cost more.
    """
    spent = dict.fromkeys(('load', 'augment', 'pack'), 0.0)

    def timed(load: Callable[..., Sample], *args: Any) -> Sample:
        begun = time.process_time()
        sample = load(*args)
        spent['load'] += time.process_time() - begun
        return sample

    watched = copy.copy(draws)
    watched.layouts = [copy.copy(layout) for layout in draws.layouts]
    for layout in watched.layouts:
        vars(layout)['load'] = partial(timed, layout.load)
    begun = time.process_time()
    samples = [watched[draw] for draw in range(count)]
    drawn = time.process_time()
    for first in range(0, count, config.optimizer.batch_size):
        collate(samples[first : first + config.optimizer.batch_size], config.tasks)
    spent['pack'] = time.process_time() - drawn
    spent['augment'] = drawn - begun - spent['load']
    return {part: round(1e3 * seconds / count, 3) for part, seconds in spent.items()}


def view_ms(layouts: Sequence[Layout], config: RunConfig, reduced: bool, count: int) -> float:
    """Median CPU milliseconds to load and crop per image, decoded as small as needed or in full."""
    times = []
    for number in range(count):
        rng = np.random.default_rng(number)
        layout = layouts[int(rng.integers(len(layouts)))]
        index = int(rng.integers(len(layout)))
        begun = time.process_time()
        view = View.draw(layout.size(index), config.augment, rng)
        sample = layout.load(index, view.scale if reduced else 1.0, config.tasks)
        view.apply(sample, config.augment.letterbox_colour)
        times.append(time.process_time() - begun)
    return round(1e3 * statistics.median(times), 2)


def measure(config: RunConfig, batches: int, steps: int) -> dict[str, Any]:
    """All figures of a configuration; raises DatasetError."""
    layouts = open_layouts(config.data, 'train')
    draws = Draws(layouts, config.augment, config.seed, config.tasks)
    counts = [0, *(2**i for i in range(cores().bit_length()) if 2**i <= cores())]
    rates = {workers: loader_rate(draws, config, workers, batches) for workers in counts}
    count = batches * config.optimizer.batch_size
    view_ms(layouts, config, True, 10)
    return {
        'data': [source.name for source in config.data],
        'crop': [config.augment.height, config.augment.width],
        'batch_size': config.optimizer.batch_size,
        'loader_images_per_s_by_workers': {w: round(rate, 1) for w, rate in rates.items()},
        'training_step_alone': step_rate(config, steps) if steps else None,
        'image_cpu_ms': parts_cpu_ms(draws, config, count),
        'load_and_crop_cpu_ms': {
            'decoded as small as needed': view_ms(layouts, config, True, count),
            'decoded in full': view_ms(layouts, config, False, count),
        },
    }


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence on a usage or data error."""
    parser = argparse.ArgumentParser(prog='python -m training.data.rate', description=__doc__)
    parser.add_argument('config', help='YAML file, see training/configs/')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    parser.add_argument('--batches', type=at_least(1), default=40)
    parser.add_argument(
        '--steps', type=at_least(0), default=8, help='training steps timed; 0: none'
    )
    parser.add_argument('--json', type=Path, help='write the figures here')
    args = parser.parse_intermixed_args(argv)
    cv2.setNumThreads(1)
    try:
        check_output('--json', args.json)
        result = measure(load_config(args.config, args.overrides), args.batches, args.steps)
    except (ConfigError, DatasetError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    for workers, rate in result['loader_images_per_s_by_workers'].items():
        print(f'loader alone, {workers} workers: {rate:8.1f} images/s')
    if step := result['training_step_alone']:
        print(f'training step alone, {step["device"]}: {step["images_per_s"]:6.1f} images/s')
    for part, value in [
        *result['image_cpu_ms'].items(),
        ('all', sum(result['image_cpu_ms'].values())),
    ]:
        print(f'{part}: {value:.2f} ms of CPU per image, {1e3 / value:.0f} images/s per worker')
    for how, value in result['load_and_crop_cpu_ms'].items():
        print(f'an image loaded and cropped, {how}: {value:.2f} ms of CPU')
    if args.json:
        command = ' '.join(['python -m training.data.rate', *(argv or sys.argv[1:])])
        record = {'command': command, **result, 'environment': machine.describe()}
        args.json.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
