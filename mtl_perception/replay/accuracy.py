"""How accuracy is put into words: the same lines in the terminal, in JSON and in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_MEASURED = 'not measured'

HEADLINES: dict[str, tuple[tuple[str, str], ...]] = {
    'detection': (('AP50', 'AP50'), ('AP', 'AP (0.50:0.95)')),
    'classification': (('accuracy', 'accuracy'), ('macro_f1', 'macro F1')),
}
SEGMENTATION = (('miou', 'mIoU'), ('pixel_accuracy', 'pixel accuracy'))
DRIVABLE = (
    ('miou', 'mIoU strict'),
    ('official_miou', 'mIoU as BDD100K counts it'),
    ('two_class_miou', 'mIoU drivable / not'),
)

GENERATED_NOTE = (
    'Generated scenes are no evidence of real-world accuracy: these figures only show that the '
    'whole way from pixels to metrics works.'
)
REAL_NOTE = (
    'Accuracy against the labels that came with these frames, over the frames that were processed.'
)
NO_TRUTH_NOTE = 'These frames came without labels, so no accuracy was measured.'


def accuracy_rows(scores: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, int]]:
    """Task, metric, value and frames it was measured on, one row a headline figure."""
    rows = []
    for name, result in scores.items():
        kind = result['kind']
        if kind == 'segmentation':
            lines: Sequence[tuple[str, str]] = (
                DRIVABLE if 'official_miou' in result else SEGMENTATION
            )
        else:
            lines = HEADLINES[kind]
        rows += [(name, title, percent(result[key]), result['frames']) for key, title in lines]
    return rows


def percent(value: float | None) -> str:
    """A fraction as percent; what was not measured says so."""
    return NOT_MEASURED if value is None else f'{100 * value:.1f} %'


def note(kind: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """What the reader has to know about the figures; `kind` is where the drive came from."""
    if not any(result['frames'] for result in scores.values()):
        return NO_TRUTH_NOTE
    return GENERATED_NOTE if kind == 'generated' else REAL_NOTE
