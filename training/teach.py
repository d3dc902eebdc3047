# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Let teachers label what people did not: `python -m training.teach TEACH.yaml [key=value ...]`.

Teachers are bundles, training runs, or labels of other models. For every image of the sources and
every task that people did not label there, or only by class sets, what the teachers are sure of is
written below `output/SOURCE/TASK`, in the form that a source's `teachers` reads:

    detection/det_train.json            Scalabel frames: score, crowd, classUnsure, soft
    semantic/masks/train/NAME.png       class ids, class sets, 255 = not sure
    semantic/confidence/train/NAME.png  of soft labels: 0-255
    weather/det_train.json              attributes, with their probabilities
    teach.json                          teachers, rules, counts, agreement with people's labels

After MuST (Ghiasi et al., ICCV 2021), and Li et al., CVPR 2022, for tasks that are labelled on some
of the images only. docs/data.md has an example.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from mtl_perception.bundle import BundleError
from mtl_perception.engines.base import EngineError
from mtl_perception.tasks import ALL_TASKS, Task
from training.checkpoint import CheckpointError
from training.command import run
from training.config import ConfigError, load_config
from training.data.layout import Layout, LayoutConfig
from training.data.sample import DatasetError
from training.evaluation.scoring import chosen, told_apart
from training.teaching.agreement import Agreement
from training.teaching.config import TeachConfig, load_teach_config
from training.teaching.knowledge import Knowledge, Place, Teacher, TeachError
from training.teaching.label_teacher import LabelTeacher
from training.teaching.model_teacher import ModelTeacher, is_model
from training.teaching.rules import Rule, attribute_label, box_labels, mask_label
from training.teaching.written import Label, Written

REPORT = 'teach.json'


def teach(config: TeachConfig) -> dict[str, Any]:
    """Write all labels and the report, which is returned.

    Raises TeachError, DatasetError, ConfigError, BundleError, EngineError, CheckpointError.
    """
    sources = _sources(config)
    teachers = [open_teacher(config, number) for number in range(len(config.teachers))]
    tasks = {task: [t for t in teachers if task in t.tasks] for t in teachers for task in t.tasks}
    for task, rule in config.rules.items():
        if rule.agree > (knowing := len(tasks.get(task, ()))):
            raise TeachError(
                f'rules.{task}: agree {rule.agree}, but {knowing} of the teachers '
                f'{[t.name for t in teachers]} know {task!r}'
            )
    results = {}
    for source in sources:
        layout = Layout(source, config.split)
        results[source.name] = _teach_source(config, layout, tasks)
    report = {
        'config': asdict(config),
        'teachers': [
            {'name': t.name, 'tasks': list(t.tasks), 'terms': given.terms, **t.identity}
            for t, given in zip(teachers, config.teachers, strict=True)
        ],
        'sources': results,
    }
    path = Path(config.output) / REPORT
    path.write_text(json.dumps(report, indent=1) + '\n', 'utf-8')
    return report


def open_teacher(config: TeachConfig, number: int) -> Teacher:
    """A model, or labels where there is none; raises TeachError, and what `open_model` does."""
    given = config.teachers[number]
    folder = Path(given.path).expanduser()
    if '{root}' in given.path or (folder.is_dir() and not is_model(folder)):
        return LabelTeacher(given.name, given.path, given.tasks)
    return ModelTeacher(given.name, given.path, given.tasks, config.scales, config.flip)


def lacking(layout: Layout, index: int, task: Task) -> bool:
    """Whether people left anything of a task open in an image: all of it, classes, class sets."""
    if task.name not in layout.tasks(index):
        return True
    if task.name == layout.detection.name:
        covered = layout.boxes(index).covered
        return covered is not None and not covered.all()
    return task.name in layout.masks and not told_apart(layout, task.name)


def _teach_source(
    config: TeachConfig, layout: Layout, teachers: dict[str, list[Teacher]]
) -> dict[str, Any]:
    """Label the images of one source; returns what teach.json says about it."""
    folder = Path(config.output) / layout.config.name
    results = {task: Written(ALL_TASKS[task], folder / task, config.split) for task in teachers}
    agreement = Agreement()
    compared = {*chosen(layout, config.measure)} if config.measure else set()
    for index in track(range(len(layout)), description=layout.config.name):
        open_tasks = [task for task in teachers if lacking(layout, index, ALL_TASKS[task])]
        asked = [*teachers] if index in compared else open_tasks
        if not asked:
            continue
        sample = layout.load(index)
        place = Place(layout.config.folder, config.split, sample.name)
        said = {t.name: t(place, sample.image) for task in asked for t in teachers[task]}
        for name in asked:
            task, rule = ALL_TASKS[name], config.rules.get(name, Rule())
            known = [said[teacher.name] for teacher in teachers[name]]
            if name in layout.tasks(index):
                agreement.add(task, _label(task, known, rule), sample)
            if name in open_tasks:
                label = _label(task, known, rule, sample.masks.get(name))
                results[name].write(sample.name, label)
    for result in results.values():
        result.finish()
        if result.images and not result.sure:
            raise TeachError(
                f'source {layout.config.name!r}: of {result.images} images the teachers '
                f'{[t.name for t in teachers[result.task.name]]} are sure of nothing for the task '
                f'{result.task.name!r}; lower its rule, or leave the task out of their `tasks`'
            )
    return {
        'images': len(layout),
        'written': {task: result.counts() for task, result in results.items()},
        'agreement_with_people': agreement.results(),
    }


def _label(
    task: Task, known: Sequence[Knowledge], rule: Rule, human: NDArray[np.uint8] | None = None
) -> Label:
    """What the teachers of a task are sure of in one image; human: a mask by people."""
    if found := [one.boxes[task.name] for one in known if task.name in one.boxes]:
        return box_labels(found, task, rule)
    if masks := [one.masks[task.name] for one in known if task.name in one.masks]:
        return mask_label(masks, task, rule, human)
    classes = [one.classes[task.name] for one in known if task.name in one.classes]
    return attribute_label(classes, task, rule) if classes else None


def _sources(config: TeachConfig) -> list[LayoutConfig]:
    """The data sources to teach; raises TeachError for names that there are not."""
    known = {source.name: source for source in load_config(config.config).data}
    if unknown := [name for name in config.sources if name not in known]:
        raise TeachError(f'sources: unknown {unknown}, {config.config} has {list(known)}')
    chosen_names = config.sources or list(known)
    return [replace(known[name], teachers={}) for name in chosen_names]


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence on an error."""
    parser = argparse.ArgumentParser(
        prog='python -m training.teach', description=__doc__.split('\n')[0]
    )
    parser.add_argument('config', help='YAML file, see docs/data.md')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    args = parser.parse_args(argv)
    try:
        config = load_teach_config(args.config, args.overrides)
        report = teach(config)
    except (
        BundleError, CheckpointError, ConfigError, DatasetError, EngineError, TeachError,
    ) as error:  # fmt: skip
        print(f'error: {error}', file=sys.stderr)
        return 1
    output = Path(config.output).resolve()
    print(f'{output / REPORT}; a source reads its labels by')
    for name, result in report['sources'].items():
        folders = {
            task: str(output / name / task) for task, w in result['written'].items() if w['images']
        }
        teachers = ', '.join(f'{task}: {folder}' for task, folder in folders.items())
        print(f'  {name}: teachers: {{{teachers}}}')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
