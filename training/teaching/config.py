# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The configuration of `training.teach`, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mtl_perception.tasks import ALL_TASKS
from training.teaching.knowledge import TeachError
from training.teaching.rules import Rule


@dataclass
class TeacherConfig:
    """path: a bundle, the folder of a training run, or a folder of labels of one task.

    `{root}` in a folder of labels is the root of the image's source. tasks: all there are, by
    default. terms: what its labels may be used for; a bundle says that itself.
    """

    name: str
    path: str
    tasks: list[str] = field(default_factory=list)
    terms: str = ''


@dataclass
class TeachConfig:
    """Everything `training.teach` needs.

    config: a training configuration, whose data sources are taught; sources: only these of them.
    output: the folder to write. scales, flip: views of each image (`views.py`). rules: by task;
    others have the defaults of `rules.Rule`. measure: images of each source, labelled by people,
    that the teachers are compared with.
    """

    config: str
    output: str
    teachers: list[TeacherConfig]
    sources: list[str] = field(default_factory=list)
    split: str = 'train'
    scales: list[float] = field(default_factory=lambda: [1.0])
    flip: bool = True
    rules: dict[str, Rule] = field(default_factory=dict)
    measure: int = 50

    def check(self) -> None:
        """Raise TeachError for what cannot be used together."""
        names = [teacher.name for teacher in self.teachers]
        if not names or len(set(names)) < len(names):
            raise TeachError(f'teachers: expected one or more, each name once, found {names}')
        if not self.scales or min(self.scales) <= 0 or max(self.scales) > 4:
            raise TeachError(f'scales: expected values above 0 up to 4, found {self.scales}')
        for task, rule in self.rules.items():
            if task not in ALL_TASKS:
                raise TeachError(
                    f'rules: unknown task {task!r}, expected some of {list(ALL_TASKS)}'
                )
            classes = ALL_TASKS[task].classes
            if unknown := [name for name in rule.classes if name not in classes]:
                raise TeachError(
                    f'rules.{task}.classes: unknown {unknown}, expected {list(classes)}'
                )


def load_teach_config(path: str | Path, overrides: Sequence[str] = ()) -> TeachConfig:
    """Read a YAML file and apply `key=value` overrides; raises TeachError."""
    if not Path(path).is_file():
        raise TeachError(f'no configuration file {path}; an example is in docs/data.md')
    try:
        layers = [OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides))]
        merged = OmegaConf.merge(OmegaConf.structured(TeachConfig), *layers)
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError, TypeError, YAMLError) as error:
        raise TeachError(f'{path}: {error}') from error
    assert isinstance(config, TeachConfig)
    config.check()
    return config
