# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Targets of a batch in few tensors: what the loader's workers pack and the heads' losses take.

Packed, a batch crosses to the device in a handful of copies, and a loss runs over all of its images
at once. `Targets` is also the sequence of what it was packed from, one target per image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class BoxTarget(NamedTuple):
    """Boxes of one labelled image: float32 [N, 4], labels int64 [N], ignored regions [M, 4].

    xyxy input pixels. A label below the class count C is a class; C + g is one of the classes of
    `detection.CLASS_SETS[g]`, the label does not say which. Points inside an ignored region
    (crowds, merged, uncertain or too small objects) that match no box add no classification loss.

    covered: bool [C], the classes whose objects are labelled in this image; the others add no loss.
    None: all of them. complete: False where a teacher drew the boxes, which misses some objects: a
    point that matches no box adds no loss for a class that the student is sure of.
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    covered: Tensor | None = None
    complete: bool = True


class BoxTargets(NamedTuple):
    """`BoxTarget` of B images, padded to as many boxes and regions as the fullest has, at least 1.

    boxes [B, N, 4], labels [B, N], real: bool [B, N], False for padding. ignored [B, M, 4], padded
    with empty regions, in which no point lies. covered: bool [B, C], or None for all classes.
    complete: bool [B].
    """

    boxes: Tensor
    labels: Tensor
    real: Tensor
    ignored: Tensor
    covered: Tensor | None
    complete: Tensor

    @classmethod
    def pack(cls, targets: Sequence[BoxTarget]) -> BoxTargets:
        """Pad the targets of one or more images."""
        first = targets[0].boxes
        count = max(1, *(len(target.boxes) for target in targets))
        regions = max(1, *(len(target.ignored) for target in targets))
        boxes = first.new_zeros(len(targets), count, 4)
        labels = first.new_zeros(len(targets), count, dtype=torch.long)
        real = first.new_zeros(len(targets), count, dtype=torch.bool)
        ignored = first.new_zeros(len(targets), regions, 4)
        for i, target in enumerate(targets):
            boxes[i, : len(target.boxes)] = target.boxes
            labels[i, : len(target.boxes)] = target.labels
            real[i, : len(target.boxes)] = True
            ignored[i, : len(target.ignored)] = target.ignored
        covered = None
        known = [target.covered for target in targets if target.covered is not None]
        if known:
            covered = known[0].new_ones(len(targets), len(known[0]))
            for i, target in enumerate(targets):
                if target.covered is not None:
                    covered[i] = target.covered
        complete = torch.tensor([target.complete for target in targets], device=first.device)
        return cls(boxes, labels, real, ignored, covered, complete)

    def image(self, i: int) -> BoxTarget:
        """The target of one image."""
        real = self.real[i]
        region = self.ignored[i]
        return BoxTarget(
            self.boxes[i][real],
            self.labels[i][real],
            region[(region[:, 2:] > region[:, :2]).all(1)],
            None if self.covered is None else self.covered[i],
            bool(self.complete[i]),
        )


Counting = Callable[[Any], Tensor]
"""Packed values -> what each image counts for in a loss's divisor: float32 [N]. Can be pickled."""


class Targets:
    """Targets of one task for a batch of `images` images; no `Sequence` for Fabric to take apart.

    Fabric converts the numbers of the sequences that a module is given to its own precision, and a
    bfloat16 has no room for the coordinate of a box.

    rows: the labelled images, ascending. values: their targets, a tensor [N, ...] (masks, maps,
    class ids) or `BoxTargets`; None without any. row_index: `rows` as a tensor int64 [N]. amount:
    the divisor of the loss, where it was counted beforehand.
    """

    def __init__(
        self, images: int, rows: Sequence[int], values: Any, row_index: Tensor | None = None,
        counted: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        """counted: the part of each labelled image in `amount`."""
        self.images = images
        self.rows = tuple(rows)
        self.values = values
        if row_index is None:
            row_index = torch.tensor(self.rows, dtype=torch.long)
        self.row_index = row_index
        self.counted = None if counted is None else tuple(counted)

    @classmethod
    def pack(cls, targets: TaskTargets, counting: Counting | None = None) -> Targets:
        """One target per image, None where it is unlabelled; what is packed stays as it is."""
        if isinstance(targets, Targets):
            return targets
        rows = [i for i, target in enumerate(targets) if target is not None]
        values = _pack([targets[i] for i in rows]) if rows else None
        counted = None
        if counting is not None:
            counted = counting(values).tolist() if rows else []
        return cls(len(targets), rows, values, counted=counted)

    @property
    def amount(self) -> float | None:
        """What the summed loss is divided by, or None where nobody counted."""
        return None if self.counted is None else float(sum(self.counted))

    def labelled(self) -> Targets:
        """The same targets for a batch of the labelled images alone."""
        if len(self.rows) == self.images:
            return self
        return Targets(len(self.rows), range(len(self.rows)), self.values, counted=self.counted)

    def __len__(self) -> int:
        """Images, labelled or not."""
        return self.images

    def __iter__(self) -> Iterator[Any]:
        """One target per image, None where it is unlabelled."""
        return (self[row] for row in range(self.images))

    def __getitem__(self, key: Any) -> Any:
        """The target of an image; of a slice, its `Targets`."""
        if not isinstance(key, slice):
            row = range(self.images)[key]
            return _image(self.values, self.rows.index(row)) if row in self.rows else None
        part = range(self.images)[key]
        if part == range(self.images):
            return self
        places = {row: place for place, row in enumerate(self.rows)}
        rows = [i for i, row in enumerate(part) if row in places]
        chosen = [places[row] for row in part if row in places]
        index = torch.tensor(chosen)
        values = _each(self.values, lambda tensor: _rows(tensor, index)) if chosen else None
        counted = None if self.counted is None else [self.counted[place] for place in chosen]
        device = self.row_index.device
        row_index = torch.tensor(rows, dtype=torch.long).to(device, non_blocking=True)
        return Targets(len(part), rows, values, row_index, counted)

    def to(self, device: Any, non_blocking: bool = False) -> Targets:
        """On another device; Fabric calls it. Copies to a GPU do not wait for one another."""
        ahead = non_blocking or torch.device(device).type != 'cpu'
        return self._with(lambda tensor: tensor.to(device, non_blocking=ahead))

    def pin_memory(self) -> Targets:
        """In page-locked memory; torch's DataLoader calls it."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Targets:
        values = _each(self.values, change)
        return Targets(self.images, self.rows, values, change(self.row_index), self.counted)


TaskTargets = Sequence[Any] | Targets
"""Of one task: packed, or one target per image, None where it is not labelled for the task."""


def ones(values: Tensor) -> Tensor:
    """Every labelled image counts for one."""
    return torch.ones(len(values))


def box_count(values: BoxTargets) -> Tensor:
    """An image counts for its truth boxes."""
    return values.real.sum(1).float()


def _pack(targets: Sequence[Any]) -> Any:
    """Targets of labelled images -> `values` of `Targets`."""
    if isinstance(targets[0], BoxTarget):
        return BoxTargets.pack(targets)
    if isinstance(targets[0], Tensor):
        return torch.stack(list(targets))
    return torch.tensor(list(targets))


def _image(values: Any, place: int) -> Any:
    """The inverse for one image."""
    if isinstance(values, BoxTargets):
        return values.image(place)
    return values[place] if values.ndim > 1 else values[place].item()


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """Some rows, by an index on the CPU, which a GPU need not be waited for."""
    return tensor.index_select(0, index.to(tensor.device, non_blocking=True))


def _each(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change every tensor of the values."""
    if isinstance(values, BoxTargets):
        changed: list[Any] = [None if tensor is None else change(tensor) for tensor in values]
        return BoxTargets(*changed)
    return None if values is None else change(values)
