# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A comparison of two runs as a whole: differences, the gate's verdict, the frames that changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtl_evaluation import kinds
from mtl_evaluation.compare.bootstrap import (
    ALIKE,
    BLOCK_S,
    SAMPLES,
    Sampling,
    block_length,
    resemblance,
)
from mtl_evaluation.compare.differences import WHOLE, Difference, differences
from mtl_evaluation.compare.gate import (
    FAIL,
    PASS,
    UNDECIDED,
    Gate,
    Ruling,
    check_names,
    rule_on,
)
from mtl_evaluation.compare.paired import Pair
from mtl_evaluation.compare.tracking import (
    check_slices,
    tracking_differences,
    tracking_names,
)
from mtl_evaluation.kinds import Flaw

COMPARED = 'COMPARED'
"""The word where there is no gate."""
CHANGED_FRAMES = 6
"""Frames of either direction that a comparison shows of a task."""


@dataclass(frozen=True)
class Verdict:
    """One word and three lines: what a person reads first."""

    word: str
    lines: tuple[str, str, str]


@dataclass(frozen=True)
class Changed:
    """A frame that changed much at a task: how wrong it was in each run."""

    key: str
    first: Flaw
    second: Flaw


@dataclass(frozen=True)
class Comparison:
    """Everything that was found out, for the terminal, JSON and the page."""

    pair: Pair
    sampling: Sampling
    differences: Sequence[Difference]
    gate: Gate | None
    rulings: Sequence[Ruling]
    verdict: Verdict
    changed: dict[str, list[Changed]]
    alike: dict[str, float]
    """Tasks whose change is so alike in neighbouring blocks that blocks should be longer."""


def compare(
    pair: Pair,
    gate: Gate | None = None,
    block_s: float = BLOCK_S,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two runs that were laid beside each other; raises GateError on names in the gate."""
    block = block_length(pair.bags.tolist(), pair.stamps_ns, block_s)
    sampling = Sampling(len(pair.keys), block, samples, seed)
    if gate is not None:
        _check(gate, pair)
    found = differences(pair, sampling, gate.asked() if gate else None)
    found += tracking_differences(pair, sampling)
    by_name = {(item.slice, item.metric): item for item in found}
    rulings = [
        rule_on(rule, by_name.get((rule.slice, rule.metric)), pair.same_answers)
        for rule in (gate.rules if gate else ())
    ]
    return Comparison(
        pair, sampling, found, gate, rulings,
        _verdict(pair, sampling, found, gate, rulings), most_changed(pair), _alike(pair, block),
    )  # fmt: skip


def most_changed(pair: Pair, count: int = CHANGED_FRAMES) -> dict[str, list[Changed]]:
    """By task the frames whose flaw grew most, then those where it shrank most.

    Up to `count` of each; frames right beside a worse one of their kind are left out.
    """
    place = {key: number for number, key in enumerate(pair.keys)}
    found = {}
    for task in pair.tasks:
        all_ = [Changed(key, first, second) for key, first, second in pair.flaws(task.name)]
        chosen: list[Changed] = []
        for sign in (1, -1):
            ranked = sorted(
                all_, key=lambda c: (sign * (c.first.badness - c.second.badness), c.key)
            )
            taken: list[Changed] = []
            for item in ranked:
                grew = sign * (item.second.badness - item.first.badness)
                if grew <= 0 or len(taken) == count:
                    break
                if all(abs(place[item.key] - place[other.key]) > 5 for other in taken):
                    taken.append(item)
            chosen += taken
        if chosen:
            found[task.name] = chosen
    return found


def _alike(pair: Pair, block: int) -> dict[str, float]:
    driven = {pair.keys[place]: number for number, place in enumerate(pair.order)}
    found = {}
    for task in pair.tasks:
        grew = sorted(
            (driven[key], second.badness - first.badness)
            for key, first, second in pair.flaws(task.name)
        )
        correlation = resemblance(np.array([value for _, value in grew]), block)
        if correlation is not None and correlation > ALIKE:
            found[task.name] = correlation
    return found


def headlines(comparison: Comparison) -> list[Difference]:
    """The figures that stand for each task, over all frames, where they were measured."""
    whole = {item.metric: item for item in comparison.differences if item.slice == WHOLE}
    return [
        whole[f'{task.name}/{figure}']
        for task in comparison.pair.tasks
        for figure in kinds.of(task).headlines
        if f'{task.name}/{figure}' in whole
        and whole[f'{task.name}/{figure}'].difference is not None
    ]


def _check(gate: Gate, pair: Pair) -> None:
    metrics = [
        f'{task.name}/{name}'
        for task in pair.tasks
        for kind in [kinds.of(task)]
        for name in (*kind.figure_names(task), *kind.ratio_names(task), *tracking_names(task))
    ]
    slices: dict[str, Sequence[str]] = {'bag': (), 'camera': ()}
    slices |= {task.name: task.classes for task in pair.tasks if kinds.of(task).is_label}
    slices |= {
        name: () for side in pair.sides for row in side.slices for name in row if name not in slices
    }
    check_names(gate, metrics, slices)
    check_slices(gate)


def _verdict(
    pair: Pair,
    sampling: Sampling,
    found: Sequence[Difference],
    gate: Gate | None,
    rulings: Sequence[Ruling],
) -> Verdict:
    first, second = (side.name for side in pair.sides)
    whole = {
        task.name: next(
            (
                item
                for item in found
                if (item.slice, item.task) == (WHOLE, task.name)
                and item.figure == kinds.of(task).headlines[0]
                and item.difference is not None
            ),
            None,
        )
        for task in pair.tasks
    }
    said = '; '.join(_in_words(item) for item in whole.values() if item is not None)
    unpaired = sum(len(keys) for keys in pair.unpaired)
    evidence = (
        f'{len(pair.keys)} frames of {len(set(pair.bags.tolist()))} bags in both runs, '
        f'{unpaired} in one only; intervals from {sampling.samples} samples of blocks of '
        f'{sampling.block} consecutive frames.'
    )
    partial = [
        f'{side.name} is partial: {side.run.summary.get("partial_reason")}.'
        for side in pair.sides
        if not side.run.summary.get('complete', True)
    ]
    word, head = _decision(gate, rulings, unpaired, partial)
    return Verdict(
        word,
        (
            head.format(a=first, b=second),
            f'{said}.' if said else 'No task was measured in both runs.',
            ' '.join([evidence, *partial]),
        ),
    )


def _decision(
    gate: Gate | None, rulings: Sequence[Ruling], unpaired: int, partial: Sequence[str]
) -> tuple[str, str]:
    """The word, and the first line with {a} and {b} for the runs."""
    if gate is None:
        return COMPARED, '{b} against {a}, without a gate.'
    broken = [ruling for ruling in rulings if ruling.word == FAIL]
    open_ = [ruling for ruling in rulings if ruling.word == UNDECIDED]
    if broken:
        return FAIL, (
            f'{{b}} may not replace {{a}}: {len(broken)} of {len(rulings)} rules broken '
            f'({"; ".join(ruling.rule.metric for ruling in broken)}).'
        )
    if any(ruling.stops for ruling in open_):
        return UNDECIDED, (
            f'nothing shows that {{b}} may replace {{a}}: too little evidence for '
            f'{len(open_)} of {len(rulings)} rules '
            f'({"; ".join(ruling.rule.metric for ruling in open_)}).'
        )
    if partial or unpaired > gate.max_unpaired:
        why = 'a run is partial' if partial else f'{unpaired} frames are in one run only'
        return UNDECIDED, f'the rules hold, but {why}: {{b}} may not replace {{a}} on that.'
    allowed = f' ({len(open_)} undecided, which they allow)' if open_ else ''
    return PASS, f'{{b}} may replace {{a}}: all {len(rulings)} rules hold{allowed}.'


def _in_words(item: Difference) -> str:
    assert item.difference is not None and item.second is not None
    found = item.interval()
    between = (
        f'95 % between {_points(found[0])} and {_points(found[1])}'
        if found is not None
        else 'too few frames for an interval'
    )
    change = _points(item.difference)
    return f'{item.task} {item.title} {100 * item.second:.1f}, {change} ({between})'


def _points(value: float) -> str:
    """Signed points with one decimal, two where one would be zero."""
    text = f'{100 * value:+.1f}'
    return f'{100 * value:+.2f}' if text in ('+0.0', '-0.0') and value else text
