# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Check a data set before days of training: `python -m training.data.check PATH`.

PATH is a folder in BDD100K layout; `--config YAML` checks the data sets of a configuration instead,
in whatever layout, and whether a training with it would begin: labels for each task, and a split
that can be validated. Prints what is labelled, by split, task and class, then what was found. Exit
code 1 when something is broken (`audit.py` says what that is), 0 with nothing but notes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mtl_perception import kinds
from mtl_perception.tables import print_table
from mtl_perception.tasks import ALL_TASKS
from training.command import at_least, check_output, run
from training.config import ConfigError, RunConfig, load_config
from training.data import bdd_folders, comma10k
from training.data.audit import Finding, SplitAudit, audit, shared_pictures
from training.data.layout import LayoutConfig, open_layouts
from training.data.sample import DatasetError
from training.preflight import check_labels, check_validation

SHOWN = 10
"""Findings of a kind that are printed; the JSON holds all."""
SPLITS = ('train', 'val', 'test')
CHECKED = ('bdd100k', 'coco', 'comma10k')
"""Kinds of data sets whose files are looked at one by one."""


def check(
    configs: Sequence[LayoutConfig], workers: int, further: Sequence[str] = ()
) -> tuple[list[SplitAudit], list[Finding]]:
    """Audits of every split of every data set, and all findings, broken ones first.

    further: splits beside the usual ones. Raises DatasetError for a kind that cannot be checked.
    """
    audits, findings = [], []
    for config in configs:
        if config.kind not in CHECKED:
            raise DatasetError(
                f'data set {config.name!r} is of kind {config.kind!r}, and only {CHECKED} can be '
                f'checked; its files are checked as they are read'
            )
        names = splits(config, further)
        if not names and not config.optional:
            findings.append(Finding('no split', config.root, 'no images/*/{train,val,test}'))
        for split in names:
            try:
                one = audit(config, split, workers)
            except DatasetError as error:
                where = f'{config.root} {split}'
                findings.append(Finding('labels cannot be read', where, str(error)))
                continue
            audits.append(one)
            findings += one.findings
    findings += shared_pictures(audits)
    return audits, sorted(findings, key=lambda f: (not f.broken, f.kind, f.where))


def trainable(config: RunConfig) -> list[Finding]:
    """What a training with this configuration would end with before its first step."""
    found = []
    for what in (partial(_labels, config), partial(check_validation, config)):
        try:
            what()
        except (ConfigError, DatasetError) as error:
            found.append(Finding('training would not begin', config.name, str(error)))
    return found


def _labels(config: RunConfig) -> None:
    check_labels(config, open_layouts(config.data, 'train'))


def splits(config: LayoutConfig, further: Sequence[str] = ()) -> list[str]:
    """Splits of a data set that have a folder of images; further: beside the usual ones."""
    names = list(dict.fromkeys((*SPLITS, *further)))
    if config.kind == 'coco':
        folders = {split: config.coco.images.format(split=split) for split in names}
        return [split for split, name in folders.items() if (config.folder / name).is_dir()]
    if config.kind == 'comma10k':
        return [*comma10k.SPLITS] if (config.folder / 'imgs').is_dir() else []
    return [split for split in names if split in bdd_folders.splits(config.folder)]


def labelled_table(audits: Sequence[SplitAudit]) -> Table:
    """Images by task, a row per split."""
    found = dict.fromkeys(task for one in audits for task in one.labelled)
    tasks = [t for t in dict.fromkeys((*ALL_TASKS, 'coarse7', *found)) if t in found]
    tasks = [task for task in tasks if any(one.labelled[task] for one in audits)]
    table = Table(title='images labelled for')
    for heading in ('data set', 'split', 'images', *tasks):
        table.add_column(heading, justify='left' if heading in ('data set', 'split') else 'right')
    for one in audits:
        counts = [str(one.labelled[task]) for task in tasks]
        table.add_row(one.source, one.split, str(one.images), *counts)
    return table


def class_table(audits: Sequence[SplitAudit], task: str) -> Table:
    """Boxes, images or pixels by class, a column per split."""
    names = list(dict.fromkeys(name for one in audits for name in one.classes.get(task, ())))
    known = {name: found for one in audits for name, found in one.known.items()}
    order = {name: i for i, name in enumerate(known[task].classes if task in known else ())}
    names.sort(key=lambda name: (order.get(name, len(order)), name))
    masks = task not in known or kinds.of(known[task]).is_mask
    table = Table(title=f'{task}: {"share of pixels" if masks else "count"} by class')
    table.add_column('class')
    shown = [one for one in audits if one.classes.get(task)]
    for one in shown:
        table.add_column(f'{one.source} {one.split}', justify='right')
    for name in names:
        cells = []
        for one in shown:
            count, total = one.classes[task][name], sum(one.classes[task].values())
            cells.append('-' if not count else f'{count / total:.2%}' if masks else str(count))
        table.add_row(name, *cells)
    return table


def report(audits: Sequence[SplitAudit], findings: Sequence[Finding], console: Console) -> None:
    """Print counts, then findings by kind."""
    print_table(labelled_table(audits), console)
    for task in dict.fromkeys(task for one in audits for task in one.classes):
        print_table(class_table(audits, task), console)
    sorts: dict[tuple[bool, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        sorts[finding.broken, finding.kind].append(finding)
    for (broken, kind), found in sorts.items():
        style = 'bold red' if broken else 'yellow'
        console.print(f'{"BROKEN" if broken else "note"}: {kind}: {len(found)}', style=style)
        for finding in found[: SHOWN if broken else 3]:
            console.print(f'  {finding.where} {finding.text}', soft_wrap=True, markup=False)
    count = sum(finding.broken for finding in findings)
    console.print(f'{count} broken, {len(findings) - count} notes')


def as_json(audits: Sequence[SplitAudit], findings: Sequence[Finding]) -> dict[str, Any]:
    """Everything, for a machine."""
    return {
        'splits': [
            {
                'source': one.source,
                'split': one.split,
                'images': one.images,
                'labelled': dict(one.labelled),
                'classes': {task: dict(counts) for task, counts in one.classes.items()},
            }
            for one in audits
        ],
        'findings': [vars(finding) for finding in findings],
        'broken': sum(finding.broken for finding in findings),
    }


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 when something is broken or cannot be read at all, else 0."""
    parser = argparse.ArgumentParser(prog='python -m training.data.check', description=__doc__)
    parser.add_argument('path', nargs='?', help='folder in BDD100K layout')
    parser.add_argument('--config', help='YAML whose data sets are checked instead')
    parser.add_argument('--workers', type=at_least(1), default=os.cpu_count() or 1)
    parser.add_argument('--json', type=Path, help='write everything here')
    args = parser.parse_args(argv)
    if (args.path is None) == (args.config is None):
        parser.error('give a PATH or --config, one of them')
    try:
        check_output('--json', args.json)
        if args.config:
            config = load_config(args.config)
            audits, findings = check(config.data, args.workers, [config.validate_split])
            findings = [*trainable(config), *findings]
        else:
            configs = [LayoutConfig(Path(args.path).name, args.path)]
            audits, findings = check(configs, args.workers)
    except (ConfigError, DatasetError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    report(audits, findings, Console())
    if args.json:
        args.json.write_text(json.dumps(as_json(audits, findings), indent=1) + '\n', 'utf-8')
    return int(any(finding.broken for finding in findings))


if __name__ == '__main__':
    sys.exit(run(main))
