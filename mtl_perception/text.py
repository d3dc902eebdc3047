# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Text that others wrote, on its way into a message of ours: one line, printable, bounded.

An `encoding`, a topic, a class name or a manifest value comes from whoever made the image, the bag
or the bundle. It may hold terminal escapes or two megabytes; logs and /diagnostics repeat it.
"""

from __future__ import annotations

MOST_CHARACTERS = 200
"""Of one quoted value: more than a sensible name has, and the sentence around it stays whole."""


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text on one line, with escapes for what a terminal would obey, at most `most` long.

    What is left out is counted, so that two long values that begin alike are not taken for one.
    """
    line = ' '.join(text[: 4 * most].split())
    line = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(text) <= 4 * most and len(line) <= most:
        return line
    return f'{line[:most]}... ({len(text)} characters)'


def quoted(value: object, most: int = MOST_CHARACTERS) -> str:
    """`repr` of a value as `one_line`: a string in quotes, a number as it is."""
    if isinstance(value, str) and len(value) > most:
        return f'{one_line(value[:most], most)!r}... ({len(value)} characters)'
    try:
        return one_line(repr(value), most)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, a deep list
        return f'{type(value).__name__} ({error})'
