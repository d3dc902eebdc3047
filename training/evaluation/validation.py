# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Validation while a network trains: in batches, in the run's precision, by all processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any

from mtl_evaluation.metrics.metrics import THRESHOLDS
from mtl_evaluation.runs.run import FrameRecord
from mtl_perception.engines.base import EngineError
from training.config import RunConfig
from training.data.layout import Layout, open_layouts
from training.data.sample import DatasetError
from training.evaluation.model import torch_pipeline
from training.evaluation.results import source_results
from training.evaluation.scoring import chosen, score_layout
from training.networks.base import MultiTaskNetwork
from training.processes import Processes


def validation_results(
    network: MultiTaskNetwork, config: RunConfig, processes: Processes
) -> dict[str, Any]:
    """Figures by source and task of a network in eval mode, the same in every process.

    Each process answers its share of `validate_images` of each source, with the statistics of the
    first. Raises EngineError and DatasetError, in every process what happened in any.
    """
    processes.take_statistics(network)
    results = {}
    for layout in open_layouts(config.data, config.validate_split):
        indices = chosen(layout, config.validate_images)[processes.rank :: processes.count]
        answer: Sequence[FrameRecord] | Exception
        try:
            answer = list(_records(layout, indices, network, config, processes.count))
        except (DatasetError, EngineError) as error:
            answer = error
        records: list[FrameRecord] = []
        for part in processes.gather(answer):
            if isinstance(part, Exception):
                raise part
            records.extend(part)
        records.sort(key=lambda record: record.index)
        results[layout.config.name] = source_results(records, network.tasks)
    return results


def _records(
    layout: Layout, indices: Sequence[int], network: MultiTaskNetwork, config: RunConfig,
    processes: int,
) -> Iterator[FrameRecord]:  # fmt: skip
    """Of some images, as many at a time as a training step has, in batches of about one size."""
    if not indices:
        return
    most = config.optimizer.batch_size // config.optimizer.accumulate // processes
    batches = ceil(len(indices) / most)
    batch = ceil(len(indices) / batches)
    pipeline = torch_pipeline(network, config, config.precision, batch)
    pipeline.thresholds = THRESHOLDS
    yield from score_layout(layout, pipeline, indices)
