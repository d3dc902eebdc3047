# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What an engine costs beside its latency: memory, load time, throughput, peak rate."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl_perception.bundle import Bundle
from mtl_perception.children import IsolatedSpawn
from mtl_perception.engines import EngineError, Options, compile_engine, is_built, open_engine
from mtl_perception.frame import Frame
from mtl_perception.letterbox import Letterbox
from mtl_perception.newest import NewestSlots

RUNS = 5
"""Runs that confirm a peak, as in ros2_benchmark."""
TRIAL_S, TRIAL_FRAMES = 2.0, 40
"""A trial takes this long, and longer for this many frames."""
THROUGHPUT_S = 2.0


def load_cost(bundle: Bundle, name: str, options: Options) -> dict[str, float]:
    """Seconds to open a built engine, and MB that it adds to a process that then runs it.

    In a process of its own, which has imported nothing of the runtime. Raises EngineError.
    """
    if not is_built(bundle, name, options):
        compile_engine(bundle, name, options)
    context = IsolatedSpawn()
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_load, args=(bundle, name, options, sender))
    child.start()
    sender.close()
    try:
        found: dict[str, float] | str = receiver.recv()
    except EOFError:
        child.join()
        found = f'the process that loaded it ended with {child.exitcode}'
    child.join()
    if isinstance(found, str):
        raise EngineError(found)
    return found


def _load(bundle: Bundle, name: str, options: Options, sender: Any) -> None:
    before = _resident_mb()
    started = time.perf_counter()
    try:
        engine = open_engine(bundle, name, options)
        load_s = time.perf_counter() - started
        spec = bundle.manifest.input
        batch = np.zeros((options.batch, spec.height, spec.width, 3), np.uint8)
        for _ in range(3):
            engine.run(batch)
    except EngineError as error:
        sender.send(str(error))
        return
    memory_mb = _resident_mb() - before
    sender.send({'load_s': round(load_s, 3), 'memory_mb': round(memory_mb, 1)})


def _resident_mb() -> float:
    """Resident memory of this process; 0 where there is no /proc."""
    try:
        pages = int(Path('/proc/self/statm').read_text().split()[1])
    except OSError:
        return 0.0
    return pages * 4096 / 1e6


def throughput(bundle: Bundle, name: str, options: Options, frames: Sequence[Frame]) -> float:
    """Frames per second through an engine at the batch asked for; raises EngineError."""
    engine = open_engine(bundle, name, options, build=True)
    spec = bundle.manifest.input
    boxes = []
    for index in range(options.batch):
        pixels = frames[index % len(frames)].pixels
        box = Letterbox.fit(pixels.shape[1], pixels.shape[0], spec.width, spec.height)
        boxes.append(box.apply(pixels, box.new_buffer(spec.letterbox_colour)))
    pictures = np.stack(boxes)
    engine.run(pictures)
    started, runs = time.perf_counter(), 0
    while time.perf_counter() - started < THROUGHPUT_S:
        engine.run(pictures)
        runs += 1
    elapsed_s = time.perf_counter() - started
    engine.close()
    return round(options.batch * runs / elapsed_s, 2)


def peak(
    contestant: Callable[[Frame], Any], frames: Sequence[Frame], about_hz: float
) -> dict[str, Any]:
    """The highest rate with fewer than 5 % of the frames dropped; see `live/peak.py`.

    A thread puts frames into the node's newest-frame slot at a fixed rate, another takes and
    answers them: the frame path without DDS, which `replay --live --peak` has as well. about_hz:
    what it answers back to back.
    """
    from mtl_evaluation.live.peak import peak_rate

    def play(rate_hz: float) -> float:
        return _dropped(contestant, frames, rate_hz)

    return peak_rate(play, about_hz / 4, about_hz * 2, RUNS)


def _dropped(contestant: Callable[[Frame], Any], frames: Sequence[Frame], rate_hz: float) -> float:
    """Share of the frames that were replaced by newer ones before they were taken."""
    slots: NewestSlots[Frame] = NewestSlots(['camera'])
    count = max(TRIAL_FRAMES, math.ceil(TRIAL_S * rate_hz))

    def camera() -> None:
        begin = time.perf_counter()
        for index in range(count):
            time.sleep(max(0.0, begin + index / rate_hz - time.perf_counter()))
            slots.put('camera', frames[index % len(frames)])

    thread = threading.Thread(target=camera, name='camera', daemon=True)
    thread.start()
    while thread.is_alive() or slots.counts('camera').pending:
        taken = slots.take(timeout_s=0.05)
        if taken is not None:
            contestant(taken[1])
    return slots.counts('camera').dropped / count
