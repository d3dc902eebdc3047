# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a node published, read back from the bag it was recorded into, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mtl_evaluation import kinds
from mtl_evaluation.bags.bag import DriveBag, DriveFrame
from mtl_evaluation.bags.bag_file import by_stamp, open_bag, read_messages
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.messages.cdr import BagError, deserialise
from mtl_perception import kinds as vehicle
from mtl_perception.frame import Result
from mtl_perception.tasks import Task

PREFIX = '/perception'


def recorded_results(
    path: Path, tasks: Sequence[Task], prefix: str = PREFIX
) -> Iterator[tuple[int, Result]]:
    """Stamp and Result of every frame that a node answered, in stamp order.

    Only what was received is in a Result: a lost mask is a missing key. Raises BagError on a
    damaged bag or on classes that the tasks do not have.
    """
    topics = {answer_topic(task, prefix): task for task in tasks}
    reader = open_bag(path)
    try:
        wanted = [item for item in reader.connections if item.topic in topics]
        for stamp, messages, _ in by_stamp(read_messages(path, reader, wanted)):
            result = Result()
            for topic, cdr in messages.items():
                task = topics[topic]
                try:
                    message = deserialise(cdr, vehicle.of(task).message)
                    result.answers[task.name] = kinds.of(task).from_message(message, task)
                except (ValueError, BagError) as error:
                    raise BagError(f'{path}: {topic}: {error}') from error
            yield stamp, result
    finally:
        reader.close()


def joined(
    bag: DriveBag | GuardedBag, played: Mapping[int, int], results: Iterator[tuple[int, Result]]
) -> Iterator[tuple[DriveFrame, Result | None]]:
    """Every played frame of the drive with the node's answer, None where there is none.

    `played` gives the stamp under which a frame (by its stamp in the drive) was published. Both
    bags are read in step, so that neither is held in memory.
    """
    answer = next(results, None)
    for frame in bag.frames():
        stamp = played.get(frame.stamp_ns)
        if stamp is None:
            continue
        while answer is not None and answer[0] < stamp:
            answer = next(results, None)
        matches = answer is not None and answer[0] == stamp
        yield frame, answer[1] if matches and answer is not None else None


def answer_topic(task: Task, prefix: str) -> str:
    """As `topics.output_topic` names it, which cannot be imported without ROS; a test compares."""
    name = 'detections' if task.name == 'detection' else task.name
    return f'{prefix}/{vehicle.of(task).topic_folder}{name}'


def tracks_topic(task: Task, prefix: str = PREFIX) -> str:
    """Where the node publishes the tracks of a detection task."""
    return f'{prefix}/tracks' if task.name == 'detection' else f'{prefix}/{task.name}/tracks'
