# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Frames of a finished run shown again: the same picture and answer, or a reason why not."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from red_drive import red_truth, write_red_drive

from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.runs import bag_replay
from mtl_evaluation.runs.revisit import revisiting
from mtl_evaluation.runs.run import Run
from mtl_perception.cli import main


@pytest.fixture
def run(tmp_path, tiny_bundle, monkeypatch):
    """A run of the tiny bundle over the red drive."""
    monkeypatch.setattr(bag_replay, 'GuardedBag', DriveBag)
    bag = write_red_drive(tmp_path / 'drive', frames=5, unlabelled=1)
    code = main(
        ['replay', str(bag), '--model', str(tiny_bundle), '--engine', 'onnxruntime', '--build',
         '--output', str(tmp_path / 'run'), '--no-report']
    )  # fmt: skip
    assert code == 0
    return Run.open(tmp_path / 'run')


def test_frames_come_back_with_picture_answer_and_truth(run, caplog):
    caplog.set_level(logging.INFO)
    records = [record for record in run.records() if record.index in (1, 4)]

    with revisiting(run) as look:
        first, last = (look(record) for record in records)

    assert (first.image[..., 0] == 255).all()
    assert np.array_equal(first.truth.masks['semantic'], red_truth().masks['semantic'])
    assert len(first.result.detections['detection'].boxes) == 8
    assert not last.truth
    assert 'bit for bit' not in caplog.text


def test_a_bag_that_is_gone_is_a_reason_and_no_error(run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / 'drive').rename(tmp_path / 'elsewhere')

    with revisiting(run) as look:
        seen = [look(record) for record in run.records()]

    assert seen == [None] * 5
    assert 'nothing is there' in caplog.text


def test_another_model_under_the_same_name_shows_nothing(run, caplog):
    caplog.set_level(logging.INFO)
    run.summary['model']['bundle_hash'] = 'f' * 64

    with revisiting(run) as look:
        seen = look(next(run.records()))

    assert seen is None
    assert 'another model' in caplog.text
