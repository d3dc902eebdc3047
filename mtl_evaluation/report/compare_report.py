# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The page of a comparison: verdict, rules, what changed, how sure that is, where to look."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mtl_evaluation import kinds
from mtl_evaluation.compare.comparison import COMPARED, Changed, Comparison, headlines
from mtl_evaluation.compare.differences import WHOLE, Difference
from mtl_evaluation.compare.gate import FAIL, PASS, UNDECIDED
from mtl_evaluation.kinds.base import Panel
from mtl_evaluation.pictures.frames import Seen
from mtl_evaluation.report import page, plots, run_plots
from mtl_evaluation.report.gallery import ASSETS, Shot, gallery
from mtl_evaluation.report.page import Section, card, dim, grid
from mtl_evaluation.report.pictures import task_panels
from mtl_evaluation.report.run_plots import Change
from mtl_perception.tasks import Task

Look = Callable[[Collection[str]], Iterable[tuple[str, Seen, Seen]]]
"""Shows frames, by key, with the answers of both runs, in any order; those that it can."""

KINDS = {PASS: 'good', FAIL: 'bad', UNDECIDED: 'open', COMPARED: 'plain'}
WORDS = {PASS: 'good', FAIL: 'bad', UNDECIDED: 'open'}

STEADINESS = ('flicker', 'blink', 'vanished', 'score_jitter')

METHOD = (
    'Frames are paired: both runs saw the same ones. An interval is the range in which the '
    'difference lies with 95 % confidence over more driving like these drives. Neighbouring frames '
    'show the same street, so not single frames but blocks of consecutive frames are drawn (moving '
    'block bootstrap, Künsch 1989; circular, Politis and Romano 1992), and few blocks widen the '
    'interval (Student). Green and red: the interval leaves out zero. Hollow: too few blocks of '
    'driving say anything about it.'
)


def write_page(
    path: Path, comparison: Comparison, results: Mapping[str, Any], look: Look | None = None
) -> None:
    """Write the page. results: what `compare.json` holds. Raises OSError."""
    sections = [
        *_gate(comparison),
        _headlines(comparison),
        *_classes(comparison),
        *_slices(comparison),
        *_other(comparison),
        *_changed(comparison, look),
        *_left_out(comparison),
        *_times(comparison),
        _making_of(results),
    ]
    verdict = comparison.verdict
    first, second = (side.name for side in comparison.pair.sides)
    head = [
        page.heading(f'{Path(second).name} against {Path(first).name}', f'B {second}, A {first}'),
        page.verdict(KINDS[verdict.word], verdict.word, verdict.lines),
        *([page.note(blocks_too_short(comparison.alike))] if comparison.alike else []),
        page.tiles(_tiles(comparison)),
    ]
    page.write_page(path, f'{verdict.word}: {second} against {first}', head, sections, ASSETS)


def blocks_too_short(alike: Mapping[str, float]) -> str:
    """What to say where neighbouring blocks resemble each other."""
    named = ', '.join(f'{task} {value:.2f}' for task, value in alike.items())
    return (
        f'Neighbouring blocks still resemble each other (correlation of their change: {named}), so '
        f'the intervals are too narrow. Compare again with a longer --block-s.'
    )


def _tiles(comparison: Comparison) -> Iterator[tuple[str, str]]:
    first = {task.name: kinds.of(task).headlines[0] for task in comparison.pair.tasks}
    for item in headlines(comparison):
        if item.figure == first[item.task]:
            assert item.difference is not None and item.second is not None
            yield (
                f'{100 * item.difference:+.1f}',
                f'{item.task} {item.title}, now {100 * item.second:.1f} %',
            )
    yield str(len(comparison.pair.keys)), 'paired frames'


def _gate(comparison: Comparison) -> Iterator[Section]:
    if comparison.gate is None:
        return
    rows = [
        (page.bold(ruling.word, WORDS[ruling.word]), str(ruling.rule), ruling.why)
        for ruling in comparison.rulings
    ]
    explained = (
        'PASS: with the confidence asked for, the limit is kept. FAIL: with that confidence it is '
        'broken. UNDECIDED: the frames are too few to tell, which stops the gate unless the rule '
        f'allows it. Rules: {comparison.gate.path}.'
    )
    table = page.table(('verdict', 'rule', 'why'), rows, ())
    yield Section('Gate', card('', table) + dim(explained))


def _headlines(comparison: Comparison) -> Section:
    found = headlines(comparison)
    if not found:
        return Section('Headlines', dim('No task was measured in both runs.'))
    rows = [_row(f'{item.task} {item.title}', item) for item in found]
    plot = run_plots.changes(
        'B - A, points',
        [_change(item, with_task=True) for item in found if item.is_share],
        run_plots.WIDE_INCHES,
    )
    table = _table('figure', rows)
    return Section(
        'Headlines', grid([card('', table, 'wide'), card('', plot, 'wide')]) + dim(METHOD)
    )


def _classes(comparison: Comparison) -> Iterator[Section]:
    cards = []
    for task in comparison.pair.tasks:
        prefix = f'{kinds.of(task).class_figure}/'
        found = [
            item
            for item in _of(comparison, task.name, WHOLE)
            if item.figure.startswith(prefix) and item.difference is not None
        ]
        if found:
            changes = [
                Change(item.figure.removeprefix(prefix), item.difference or 0, item.interval())
                for item in found
            ]
            title = f'{task.name} {kinds.figure(prefix).title}'
            cards.append(card(title, run_plots.changes(f'{title}, points', changes)))
    if cards:
        yield Section('By class', grid(cards, 3))


def _slices(comparison: Comparison) -> Iterator[Section]:
    """A row per slice, a column per task: the change of its first headline."""
    wanted = {task.name: kinds.of(task).headlines[0] for task in comparison.pair.tasks}
    found: dict[str, dict[str, Difference]] = {}
    for item in comparison.differences:
        if item.figure == wanted[item.task] and item.difference is not None:
            found.setdefault(item.slice, {})[item.task] = item
    tasks = [name for name in wanted if any(name in items for items in found.values())]
    if len(found) < 2:
        return
    rows = [
        (name or 'all frames', *(_in_cell(items.get(task)) for task in tasks))
        for name, items in found.items()
    ]
    header = ('slice', *(f'{task} {next(iter(found.values()))[task].title}' for task in tasks))
    yield Section(
        'Slices',
        card('', page.table(header, rows, range(1, len(header))))
        + dim('B - A in points, its 95 % interval, and how many frames say something about it.'),
    )


def _in_cell(item: Difference | None) -> page.Cell:
    if item is None:
        return '–'
    beside = f'{_between(item)}, {item.frames}'
    return _coloured(item) + ' ' + page.small(beside, 'wide')


def _other(comparison: Comparison) -> Iterator[Section]:
    """Recall by height, and stability."""
    for title, wanted in (
        ('Found by size', lambda figure: figure.startswith('recall/')),
        ('Stability', lambda figure: figure in STEADINESS),
    ):
        rows = [
            _row(f'{item.task} {item.title}', item)
            for item in comparison.differences
            if item.slice == WHOLE and wanted(item.figure) and item.difference is not None
        ]
        if rows:
            less = [dim('Less is better.')] if title == 'Stability' else []
            yield Section(title, page.joined([card('', _table('figure', rows)), *less]))


def _changed(comparison: Comparison, look: Look | None) -> Iterator[Section]:
    shots = _shots(comparison, look) if look is not None else {}
    parts = []
    for name, items in comparison.changed.items():
        parts.append(page.subheading(name))
        parts.append(gallery([shots[name, i.key] for i in items if (name, i.key) in shots], 3))
        listed = [
            (item.key, item.first.text, item.second.text, _better(item))
            for item in items
            if (name, item.key) not in shots
        ]
        if listed:
            parts.append(card('', page.table(('frame', 'A', 'B', ''), listed, ())))
    if parts:
        explained = (
            'Per task the frames that went most wrong since A, then those that got most right; '
            'neighbours of a shown frame are left out.'
        )
        yield Section('Frames that changed most', dim(explained) + page.joined(parts))


def _shots(comparison: Comparison, look: Look) -> dict[tuple[str, str], Shot]:
    """Pictures of the frames that changed, by task and key."""
    tasks = {task.name: task for task in comparison.pair.tasks}
    wanted: dict[str, list[tuple[str, Changed]]] = {}
    for name, items in comparison.changed.items():
        for item in items:
            wanted.setdefault(item.key, []).append((name, item))
    return {
        (name, key): _shot(item, first, second, tasks[name])
        for key, first, second in look(wanted)
        for name, item in wanted[key]
    }


def _shot(item: Changed, first: Seen, second: Seen, task: Task) -> Shot:
    of_a, of_b = (task_panels(seen, task) for seen in (first, second))
    panels = [
        Panel(f'A, {of_a[0].title}', of_a[0].image),
        Panel(f'B, {of_b[0].title}', of_b[0].image),
        *(panel for panel in of_a if panel.title == 'truth'),
        *(Panel(f'A, {panel.title}', panel.image) for panel in of_a[2:]),
        *(Panel(f'B, {panel.title}', panel.image) for panel in of_b[2:]),
    ]
    return Shot.of(f'{item.key} · A: {item.first.text} · B: {item.second.text}', panels)


def _better(item: Changed) -> Markup:
    worse = item.second.badness > item.first.badness
    return page.coloured('worse', 'bad') if worse else page.coloured('better', 'good')


def _left_out(comparison: Comparison) -> Iterator[Section]:
    pair = comparison.pair
    rows = [
        (f'only in {side.name}', str(len(keys)))
        for side, keys in zip(pair.sides, pair.unpaired, strict=True)
        if keys
    ]
    rows += [
        (f'{task.name} measured in one run only', str(count))
        for task in pair.tasks
        if (count := pair.measured_by_one(task.name))
    ]
    lists = [
        page.details(
            f'frames only in {side.name}',
            dim(', '.join(keys[:500]) + (' ...' if len(keys) > 500 else '')),
        )
        for side, keys in zip(pair.sides, pair.unpaired, strict=True)
        if keys
    ]
    if rows:
        yield Section(
            'Left out', card('', page.table(('what', 'frames'), rows, (1,))) + page.joined(lists)
        )


def _times(comparison: Comparison) -> Iterator[Section]:
    stages = [side.run.summary.get('stages_ms', {}) for side in comparison.pair.sides]
    shared = [name for name in stages[0] if name in stages[1]]
    if shared:
        rows = [
            (name, *(f'{of[name][rank]:.2f}' for rank in ('p50', 'p99') for of in stages))
            for name in shared
        ]
        header = ('stage', 'A p50, ms', 'B p50, ms', 'A p99, ms', 'B p99, ms')
        explained = (
            'Offline, as each run noted it. No gate looks at these: the runs may be from different '
            'machines or hours. Compare speed with mtl-perception bench, latency in live replays.'
        )
        table = card('', page.table(header, rows, range(1, 5)))
        yield Section('Time', table + dim(explained))


def _making_of(results: Mapping[str, Any]) -> Section:
    bootstrap, runs = results['bootstrap'], results['runs']
    facts = {'command': results['command']}
    for letter, run in runs.items():
        model = run['model'] or {}
        facts[f'run {letter.upper()}'] = (
            f'{run["path"]}, made {run["created"]}, {model.get("name")}, bundle '
            f'{str(model.get("bundle_hash"))[:16]}, {model.get("engine")} '
            f'{model.get("engine_version", "")} {model.get("precision", "")}'
        )
    facts['bootstrap'] = (
        f'{bootstrap["samples"]} samples, seed {bootstrap["seed"]}, blocks of '
        f'{bootstrap["block_frames"]} frames; {bootstrap["method"]}; {results["seconds"]} s'
    )
    facts |= page.machine_facts(results['machine'])
    return Section('How this was made', card('', page.facts(facts)))


def _of(comparison: Comparison, task: str, name: str) -> list[Difference]:
    return [item for item in comparison.differences if (item.task, item.slice) == (task, name)]


def _row(label: str, item: Difference) -> tuple[page.Cell, ...]:
    return (
        label,
        item.shown(item.first or 0),
        item.shown(item.second or 0),
        _coloured(item),
        _between(item),
        str(item.frames),
    )


def _between(item: Difference) -> str:
    found = item.interval()
    if found is None:
        return 'too few blocks'
    return f'{item.shown(found[0], "+.2f")} to {item.shown(found[1], "+.2f")}'


def _coloured(item: Difference) -> Markup:
    change = _change(item)
    kind = {plots.GOOD: 'good', plots.ALARM: 'bad'}.get(change.colour, '')
    return page.coloured(item.shown(change.value, '+.2f'), kind)


def _change(item: Difference, with_task: bool = False) -> Change:
    name = f'{item.task} {item.title}' if with_task else item.title
    return Change(name, item.difference or 0.0, item.interval(), item.lower_is_better)


def _table(what: str, rows: Sequence[Sequence[page.Cell]]) -> Markup:
    header = (what, 'A, %', 'B, %', 'B - A, points', '95 % interval', 'frames')
    return page.table(header, rows, range(1, 6))
