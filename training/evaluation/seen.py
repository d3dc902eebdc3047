# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Images of an evaluation looked at again, for the galleries of its report."""

from __future__ import annotations

from collections.abc import Sequence

from mtl_evaluation.pictures.frames import Seen
from mtl_evaluation.runs.revisit import Pictures
from mtl_evaluation.runs.run import FrameRecord
from mtl_evaluation.truth.truth import Truth, TruthBoxes
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline
from training.data.box_classes import scored
from training.data.layout import Layout
from training.evaluation.scoring import COARSE, told_apart


def looker(layouts: Sequence[Layout], pipeline: Pipeline) -> Pictures:
    """Shows any record of these data sets: the image, what is answered now, what is labelled."""
    by_name = {layout.config.name: layout for layout in layouts}

    def look(record: FrameRecord) -> Seen | None:
        layout = by_name.get(record.bag)
        if layout is None or record.name not in layout.names[record.index : record.index + 1]:
            return None
        sample = layout.load(record.index)
        result = pipeline(Frame(sample.image, 'rgb'))
        masks = {}
        for name, mask in sample.masks.items():
            if name in COARSE:
                rough = COARSE[name]
                masks[rough.task.name] = rough.table[mask]
                if name in result.masks:
                    result.answers[rough.task.name] = rough.table[result.masks[name]]
            if name not in COARSE or told_apart(layout, name):
                masks[name] = mask
        found = None
        for name in sample.boxes:
            boxes = scored(sample.boxes[name], layout.detection)
            names = tuple(layout.detection.classes[label] for label in boxes.labels)
            found = TruthBoxes(boxes.xyxy, names, boxes.ignored)
        known = layout.config.known
        labels = {name: known[name].classes[label] for name, label in sample.classes.items()}
        truth = Truth(found, masks, labels, maps=sample.maps, others=sample.others)
        return Seen(sample.image, result, truth)

    return look
