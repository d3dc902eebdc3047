# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The lines with which every source file begins; run it to add them where they are missing.

python test/support/copyright_lines.py
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    'mtl_perception',
    'mtl_evaluation',
    'mtl_scenes',
    'training',
    'test',
    'launch',
    'requirements',
)
LINES = '# Copyright 2026 The mtl_perception authors\n# SPDX-License-Identifier: Apache-2.0\n'


def sources() -> list[Path]:
    """Every Python and shell file of ours."""
    found = [ROOT / 'setup.py']
    for room in ROOMS:
        found += [path for end in ('py', 'sh') for path in (ROOT / room).rglob(f'*.{end}')]
    return sorted(found)


def is_missing(text: str) -> bool:
    """Whether a file with content lacks the lines at its top, after a shebang."""
    return bool(text.strip()) and LINES not in text[:300]


def with_lines(text: str) -> str:
    """The same text with the lines at its top."""
    shebang, end, rest = text.partition('\n') if text.startswith('#!') else ('', '', text)
    gap = '' if rest.startswith('#') else '\n'
    return f'{shebang}{end}{LINES}{gap}{rest}'


def main() -> None:
    """Add what is missing."""
    for path in sources():
        text = path.read_text('utf-8')
        if is_missing(text):
            path.write_text(with_lines(text), 'utf-8')
            print(path.relative_to(ROOT))


if __name__ == '__main__':
    main()
