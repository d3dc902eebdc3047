# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Turns of phrase that the project's prose avoids, and where they are: part of `make check`.

    python test/support/prose.py [FOLDER or FILE ...]

Prints file, line, what was found and what to write instead; exit code 1 when there is any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOOKED_AT = (
    'mtl_perception',
    'mtl_evaluation',
    'mtl_scenes',
    'training',
    'test',
    'launch',
    'tools',
    'docs',
    'models',
)
DOCUMENTS = ('README.md', 'CONTRIBUTING.md', 'SECURITY.md')
OURSELVES = 'test/support/prose.py'

SUFFIXES = ('.py', '.md', '.yaml', '.css', '.js', '.html')

_COUNTED = (
    'bars?|bits?|boxes|bytes|cards?|channels?|columns?|convolutions?|crops?|curves?|detections|'
    'devices?|epochs?|files?|folders?|frames|functions?|galler(?:y|ies)|gradients?|heads?|images|'
    'kilobytes?|lines?|lists?|losses|loss|masks|metrics?|modules?|ms|networks?|numbers?|'
    'objects|once|one|pairs?|parameters?|pass(?:es)?|pixels|plots?|points|policies|policy|'
    'positions?|processes|rows?|samples?|scales?|seconds?|slices|steps|targets?|'
    'threads?|towers?|trunks?|twice|values?|variances?|views?|weights?'
)
_UNITS = (
    'axis|bag|batch|box|camera|cell|channel|class|column|detection|device|epoch|file|frame|head|'
    'image|kind|layer|level|machine|method|model|network|object|pass|pixel|process|query|row|rule|'
    'run|runtime|sample|scene|second|slice|source|split|stage|step|stretch|study|task|tensor|'
    'topic|video|worker'
)

AVOIDED = {
    rf'\b(?:{_COUNTED}) an? (?:{_UNITS})\b': 'per: one head per task',
    r'\bgoes on (?:where|from)\b': 'resumes',
    r'\bgoing on with\b': 'resuming',
    r'\bsenseless\b': 'invalid',
    r'\bnobody listen|\blistened to\b|\bsomebody wants\b': 'subscribed, subscribers, requested',
    r'\bstrangers?\b': 'unknown',
    r'\buntold\b': 'name the thing',
    r'\bis one sentence\b': 'produces one clear error',
    r'\blies beside\b': 'is stored next to',
    r'\bcosts only itself\b': 'affects only its own frame',
}
"""Pattern (any case): what to write instead."""


def files(places: Iterable[Path]) -> Iterator[Path]:
    """All texts below some folders, and the files that were named themselves; not this one."""
    for place in places:
        for path in sorted(place.rglob('*')) if place.is_dir() else [place]:
            name = path.resolve().relative_to(ROOT).as_posix()
            if path.suffix in SUFFIXES and name != OURSELVES:
                yield path


def found(path: Path) -> Iterator[str]:
    """A line per turn of phrase; a phrase may run over the end of a line."""
    text = path.read_text('utf-8')
    flat = re.sub(r"\n[ #]*(?:f?')?", lambda m: ' ' * len(m[0]), text)
    for pattern, instead in AVOIDED.items():
        for match in re.finditer(pattern.replace(' ', ' +'), flat, re.IGNORECASE):
            line = text.count('\n', 0, match.start()) + 1
            words = ' '.join(match[0].split())
            yield f'{path}:{line}: {words!r}; write: {instead}'


def main(arguments: list[str]) -> int:
    """Print what is found; 1 when there is any."""
    places = [Path(name) for name in arguments] or [ROOT / name for name in LOOKED_AT + DOCUMENTS]
    lines = [line for path in files(places) for line in found(path)]
    print('\n'.join(lines) or 'prose: nothing found')
    return 1 if lines else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
