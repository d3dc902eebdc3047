# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Tracking figures: by hand, in parts, in runs, in comparisons."""

from __future__ import annotations

import numpy as np
import pytest
from made_runs import TASK_LIST, write_made_run

from mtl_evaluation.compare.bootstrap import MIN_BLOCKS
from mtl_evaluation.compare.comparison import compare
from mtl_evaluation.compare.gate import GateError, read_gate
from mtl_evaluation.compare.paired import CompareError, Pair, Side
from mtl_evaluation.metrics.tracking import HEADLINES, TrackedFrame, TrackingMetric
from mtl_evaluation.runs.figures import figures
from mtl_evaluation.runs.run import Run
from mtl_perception.tasks import DETECTION

CAR, TRUCK = 2, 3


def frame(truth: dict[int, float], tracks: dict[int, float], ignore: tuple[int, ...] = ()):
    """Cars of 100 pixels by id and left edge."""

    def boxes(places: dict[int, float]) -> np.ndarray:
        return np.array([(x, 0, x + 100, 100) for x in places.values()]).reshape(-1, 4)

    return TrackedFrame.of(
        boxes(truth), list(truth), [CAR] * len(truth), [name in ignore for name in truth],
        boxes(tracks), list(tracks), [CAR] * len(tracks),
    )  # fmt: skip


def result_of(*frames: TrackedFrame) -> dict:
    metric = TrackingMetric(DETECTION)
    metric.update('drive', frames)
    return metric.result()


def test_perfect_tracks_score_one():
    found = result_of(*(frame({1: 0, 2: 300}, {8: 0, 9: 300}) for _ in range(10)))

    assert [found[name] for name in ('HOTA', 'IDF1', 'MOTA', 'mHOTA')] == pytest.approx([1] * 4)
    assert (found['id_switches'], found['mostly_tracked'], found['objects']) == (0, 2, 2)
    assert found['per_class']['truck']['HOTA'] is None


def test_an_id_that_changes_halfway_costs_association_only():
    """One switch in ten: HOTA = sqrt(DetA 1 * AssA 1/2), IDF1 5 of 10, MOTA 9 of 10."""
    frames = [frame({1: 0}, {7 if k < 5 else 8: 0}) for k in range(10)]

    found = result_of(*frames)

    assert found['id_switches'] == 1
    values = [found[name] for name in ('DetA', 'AssA', 'HOTA', 'IDF1', 'MOTA')]
    assert values == pytest.approx([1, 0.5, 0.5**0.5, 0.5, 0.9])


def test_a_missed_frame_is_a_fragment_and_no_switch():
    frames = [frame({1: 0}, {} if k == 4 else {7: 0}) for k in range(10)]
    # Where nothing is tracked at all the last partners stay, as in TrackEval.
    frames[4] = frame({1: 0}, {5: 900})

    found = result_of(*frames)

    assert (found['id_switches'], found['fragments']) == (0, 1)
    assert found['MOTA'] == pytest.approx(0.8)


def test_what_lies_in_an_ignored_region_is_neither_right_nor_wrong():
    with_region = result_of(*(frame({1: 0, 2: 500}, {7: 0, 8: 510}, ignore=(2,)) for _ in range(5)))

    assert with_region['MOTA'] == with_region['HOTA'] == pytest.approx(1)
    assert with_region['truth'] == 5


def test_nothing_tracked_and_nothing_to_track():
    assert result_of(frame({1: 0}, {}))['HOTA'] == 0
    assert result_of(frame({}, {7: 0}))['HOTA'] is None
    assert result_of()['sequences'] == 1


def test_an_id_twice_in_a_frame_is_refused():
    with pytest.raises(ValueError, match='a truth id occurs twice'):
        TrackedFrame.of([[0, 0, 1, 1]] * 2, [4, 4], [CAR, CAR], [False] * 2, [], [], [])


def made(random: np.random.Generator, frames: int) -> list[TrackedFrame]:
    return [
        frame(
            {k: 130 * k + float(random.normal(0, 9)) for k in range(6) if random.random() < 0.8},
            {
                int(random.integers(0, 3)) * 10 + k: 130 * k
                for k in range(6)
                if random.random() < 0.8
            },
        )
        for _ in range(frames)
    ]


def test_parts_merge_to_the_whole_in_any_order_and_come_back_from_storage():
    random = np.random.default_rng(4)
    drives = {name: made(random, 20) for name in 'abc'}
    whole = TrackingMetric(DETECTION)
    for name, frames in drives.items():
        whole.update(name, frames)

    merged = TrackingMetric(DETECTION)
    for name in 'cab':
        part = TrackingMetric(DETECTION)
        part.update(name, (TrackedFrame.from_arrays(f.to_arrays()) for f in drives[name]))
        merged.merge(part)

    assert merged.result() == whole.result()
    assert 0.2 < whole.result()['HOTA'] < 0.9
    with pytest.raises(ValueError, match='are in both metrics'):
        merged.merge(part)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Twelve bags, answered well and badly."""
    folder = tmp_path_factory.mktemp('tracks')
    common = {'frames': 30, 'bags': tuple(f'drive {k:02d}' for k in range(MIN_BLOCKS + 2))}
    write_made_run(folder / 'good', error=0.05, **common)
    write_made_run(folder / 'bad', error=0.5, model=1, **common)
    return folder


def test_a_run_says_how_well_its_tracks_keep_identities(runs):
    found = figures(Run.open(runs / 'good'))

    detection = found['tracking']['detection']
    assert 0.3 < detection['HOTA'] < 1 and detection['sequences'] == MIN_BLOCKS + 2
    assert detection['truth'] == sum(bag['tracking']['detection']['truth'] for bag in found['bags'])


def compared(runs, tmp_path, rules: str):
    path = tmp_path / 'gate.yaml'
    path.write_text(f'schema: 1\nrules:\n{rules}')
    sides = [Side(Run.open(runs / name)) for name in ('good', 'bad')]
    return compare(Pair(*sides), read_gate(path), samples=200)


def test_a_comparison_has_every_figure_of_both_runs_with_intervals_by_bag(runs, tmp_path):
    comparison = compared(runs, tmp_path, '  - {metric: detection/HOTA, max_drop: 0.01}\n')

    found = {item.metric: item for item in comparison.differences if not item.slice}
    for name in HEADLINES:
        for which, run in enumerate(('good', 'bad')):
            expected = figures(Run.open(runs / run))['tracking']['detection']
            item = found[f'detection/{name}']
            assert (item.first, item.second)[which] == pytest.approx(expected[name])
            of_car = found[f'detection/{name}/car']
            assert (of_car.first, of_car.second)[which] == pytest.approx(
                expected['per_class']['car'][name]
            )
    hota = found['detection/HOTA']
    low, high = hota.interval()
    assert low < hota.difference < high < 0
    assert (hota.blocks, hota.unit) == (MIN_BLOCKS + 2, 'bags')
    assert [ruling.word for ruling in comparison.rulings] == ['FAIL']
    assert found['detection/id_switch_rate'].lower_is_better


def test_few_bags_decide_nothing(tmp_path):
    for name, error in (('good', 0.05), ('bad', 0.6)):
        write_made_run(tmp_path / name, frames=60, error=error, model=len(name))

    comparison = compared(tmp_path, tmp_path, '  - {metric: detection/IDF1, max_drop: 0.01}\n')

    (ruling,) = comparison.rulings
    assert ruling.word == 'UNDECIDED' and 'in 1 bags; expected 1 frames and 10 bags' in ruling.why


def test_tracks_have_no_slices(runs, tmp_path):
    with pytest.raises(GateError, match='measured over whole drives, not in timeofday=night'):
        compared(
            runs, tmp_path,
            '  - {metric: detection/HOTA, slice: timeofday=night, max_drop: 0.01}\n',
        )  # fmt: skip


def test_other_identities_are_refused(runs):
    sides = [Side(Run.open(runs / name)) for name in ('good', 'bad')]
    metric = sides[1].tracking['detection']
    name = next(iter(metric.sequences))
    metric.sequences[name] = metric.sequences[name] + 1

    with pytest.raises(CompareError, match='different identities'):
        compare(Pair(*sides), samples=10)


def test_tasks_of_other_kinds_have_no_tracks():
    with pytest.raises(ValueError, match='expected detection'):
        TrackingMetric(TASK_LIST[1])
