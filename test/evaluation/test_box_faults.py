# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Each published box is right or has one fault, by the stated rules."""

import numpy as np
import pytest

from mtl_evaluation.metrics.average_precision import ScoredImage
from mtl_evaluation.metrics.box_faults import KINDS, PublishedBoxes, box_faults, published
from mtl_perception.frame import Detections
from mtl_perception.tasks import DETECTION

CAR, TRUCK, SIGN = 2, 3, 9
THING = (10, 10, 30, 30)


def faults(found: list[tuple], truth: list[tuple], ignored: list[tuple] = (), covered=None) -> dict:
    """(box, class) of each found, best first, and true box -> counts above zero."""
    rows = [*truth, *ignored]
    counts = box_faults(
        Detections(
            np.array([box for box, _ in found], np.float32).reshape(-1, 4),
            np.linspace(0.9, 0.5, len(found), dtype=np.float32),
            np.array([label for _, label in found], np.int64),
        ),
        np.array([box for box, _ in rows], np.float32).reshape(-1, 4),
        np.array([label for _, label in rows], np.int64),
        np.arange(len(rows)) >= len(truth),
        covered,
    )
    assert set(counts) == set(KINDS)
    return {kind: count for kind, count in counts.items() if count}


@pytest.mark.parametrize(
    ('box', 'label', 'kind'),
    [
        (THING, CAR, 'right'),
        (THING, TRUCK, 'wrong_class'),
        ((20, 10, 40, 30), CAR, 'loose'),
        ((20, 10, 40, 30), TRUCK, 'loose'),
        ((60, 60, 80, 80), CAR, 'false'),
    ],
)
def test_one_box(box, label, kind):
    missed = {} if kind == 'right' else {'missed': 1}
    assert faults([(box, label)], [(THING, CAR)]) == {kind: 1, **missed}


@pytest.mark.parametrize('label', [CAR, TRUCK])
def test_a_second_box_on_one_thing_is_second_whatever_its_class(label):
    assert faults([(THING, CAR), ((11, 10, 30, 30), label)], [(THING, CAR)]) == {
        'right': 1, 'second': 1,
    }  # fmt: skip
    # Also where the better score is of the wrong class.
    assert faults([(THING, TRUCK), (THING, CAR)], [(THING, CAR)]) == {'right': 1, 'second': 1}


def test_two_things_of_one_class_have_a_box_each():
    other = (20, 10, 40, 30)
    assert faults([(THING, CAR), (other, CAR)], [(THING, CAR), (other, CAR)]) == {'right': 2}


def test_boxes_in_ignored_regions_and_of_classes_that_nobody_labelled_are_not_judged():
    crowd = [((50, 50, 90, 90), CAR)]
    assert faults([((60, 60, 80, 80), CAR)], [], crowd) == {'not_judged': 1}
    covered = np.ones(10, bool)
    covered[SIGN] = False
    assert faults([(THING, SIGN)], [(THING, CAR)], (), covered) == {'not_judged': 1, 'missed': 1}


def test_nothing_found_and_nothing_there():
    assert faults([], []) == {}
    assert faults([], [(THING, CAR)]) == {'missed': 1}


def full_list() -> ScoredImage:
    """A car found thrice: as car, as truck, and below the score that is published."""
    return ScoredImage(
        100, 100,
        np.array([THING, (11, 10, 30, 30), (60, 60, 80, 80), THING], float),
        np.array([0.6, 0.8, 0.5, 0.3]),
        np.array([TRUCK, CAR, SIGN, SIGN]),
        np.array([THING], float), np.array([CAR]), np.array([False]),
    )  # fmt: skip


def test_what_is_published_of_a_full_list():
    boxes = published(full_list(), DETECTION)
    assert boxes.scores.tolist() == pytest.approx([0.8, 0.5])
    assert boxes.labels.tolist() == [CAR, SIGN]


def test_faults_of_published_boxes_are_summed_over_frames():
    boxes = PublishedBoxes(DETECTION)
    for _ in range(2):
        boxes.add(full_list())
    assert boxes.result() == {
        'score': 0.4, 'frames': 2, **dict.fromkeys(KINDS, 0), 'right': 2, 'false': 2,
    }  # fmt: skip
