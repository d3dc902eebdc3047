# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Building blocks of the HTML pages: one file each, opened offline, light or dark.

The templates escape whatever is text; only what is `Markup` goes into the page as it is. A page
carries its style, script, plots (inline SVG) and pictures (data URIs) with it; its content policy
forbids the browser every network address, and only files beside the page (a video) can be linked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_HERE = Path(__file__).parent
ASSETS = _HERE / 'assets'
"""Style sheets and scripts."""

_TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE / 'templates'),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PARTS: Any = _TEMPLATES.get_template('parts.html').module

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "media-src 'self' file:"
)
"""Content-Security-Policy of every page: nothing is fetched but a video in the same folder."""


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading that the page's index links to."""

    title: str
    html: Markup

    @property
    def anchor(self) -> str:
        """Name of the heading within the page."""
        return ''.join(c if c.isalnum() else '-' for c in self.title.lower())


def write_page(
    path: Path,
    title: str,
    head: Iterable[Markup],
    sections: Iterable[Section],
    assets: Iterable[Path] = (),
) -> None:
    """Write a page: `head` (above the index), an index, the sections.

    assets: style sheets and scripts that it needs beside those of every page. It appears under its
    name only when complete. Raises OSError when it cannot be written.
    """
    files = [ASSETS / 'page.css', *assets]
    style, script = (
        Markup('\n'.join(file.read_text('utf-8') for file in files if file.suffix == suffix))
        for suffix in ('.css', '.js')
    )
    text = _TEMPLATES.get_template('page.html').render(
        title=title, policy=POLICY, head=head, sections=list(sections), style=style, script=script
    )
    partial = path.with_name(f'.{path.name}.partial')
    partial.write_text(text, 'utf-8', 'backslashreplace')  # a path may be no UTF-8
    os.replace(partial, path)


def joined(parts: Iterable[Markup]) -> Markup:
    """Parts one after the other."""
    return Markup('').join(parts)


def heading(title: str, *lines: str) -> Markup:
    """The page's title and dim lines under it."""
    return Markup(_PARTS.heading(title, [line for line in lines if line]))


def subheading(text: str) -> Markup:
    """A small title between parts of a section."""
    return Markup(_PARTS.subheading(text))


def dim(text: str) -> Markup:
    """A paragraph that explains."""
    return Markup(_PARTS.dim(text))


def note(text: str, warning: str = '') -> Markup:
    """What the reader has to know first; `warning` in bold after it."""
    return Markup(_PARTS.note(text, warning))


def verdict(kind: str, word: str, lines: Sequence[str]) -> Markup:
    """A banner: one word, then the rest of the first line and more lines. kind: good, bad, open."""
    return Markup(_PARTS.verdict(kind, word, lines[0], lines[1:]))


def tiles(values: Iterable[tuple[str, str]]) -> Markup:
    """Large figures, each with what it is: (value, title)."""
    return Markup(_PARTS.tiles(values))


def card(title: str, html: Markup, kind: str = '') -> Markup:
    """A framed part with a small title; kind: '' or 'wide'."""
    return Markup(_PARTS.card(title, html, kind))


def grid(cards: Iterable[Markup], columns: int = 2) -> Markup:
    """Cards beside each other, two or three in a row; '' of no cards."""
    cards = list(cards)
    return Markup(_PARTS.grid(cards, columns)) if cards else Markup('')


Cell = str
"""Of a table: text, or `Markup`."""


def coloured(text: str, kind: str) -> Markup:
    """Text in the colour of good or bad news; kind: good, bad, or '' for neither."""
    return Markup(_PARTS.coloured(text, kind))


def bold(text: str, kind: str) -> Markup:
    """The same in bold."""
    return Markup(_PARTS.bold(text, kind))


def small(text: str, kind: str = '') -> Markup:
    """Something small beside a figure; kind: wide for a line of its own."""
    return Markup(_PARTS.small(text, kind))


def bar(share: float | None, beside: str = '') -> Cell:
    """A share as percent over a bar as long as it, with something small beside it."""
    return '–' if share is None else Markup(_PARTS.bar(f'{100 * share:.1f}', beside))


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], numbers: Iterable[int]) -> Markup:
    """A table; the columns in `numbers` (from 0) hold figures and are set to the right."""
    return Markup(_PARTS.table(header, rows, set(numbers)))


def facts(values: Mapping[str, Any]) -> Markup:
    """Names and values as they were given to a machine: how something was made."""
    return Markup(_PARTS.facts(values))


def details(title: str, html: Markup) -> Markup:
    """A part that is folded away until it is asked for."""
    return Markup(_PARTS.details(title, html))


def listed(lines: Iterable[str], more: int) -> Markup:
    """A list, and how many lines were left out of it."""
    return Markup(_PARTS.listed(lines, more))


def video(source: str) -> Markup:
    """A player for a file beside the page; source: a relative URL."""
    return Markup(_PARTS.video(source))


def link(target: str, beside: str) -> Markup:
    """A link to a file beside the page, and what it is for."""
    return Markup(_PARTS.link(target, beside))


def gallery(shots: Iterable[Any], columns: int) -> Markup:
    """As `gallery.gallery`, which knows what a shot is."""
    return Markup(_PARTS.gallery(shots, columns))


@dataclass(frozen=True)
class MatrixCell:
    """A cell of a matrix: its text, and how much of a colour (`--first`, `--alarm`, ...) it has.

    ink: the colour of its text; title: what the pointer over it says.
    """

    text: str
    colour: str = ''
    percent: str = ''
    ink: str = ''
    title: str = ''


def matrix(
    columns: Sequence[str],
    rows: Iterable[tuple[str, Sequence[MatrixCell]]],
    kind: str = '',
    counts: Sequence[str] = (),
) -> Markup:
    """Coloured cells by row and column; counts: a last column of figures, one per row."""
    return Markup(_PARTS.matrix(columns, rows, kind, counts))


def or_dash(value: float | None, unit: str = '', form: str = '') -> str:
    """A number with its unit, a dash for what is not known."""
    return '–' if value is None else f'{format(value, form)}{unit}'


def machine_facts(machine: Mapping[str, Any]) -> dict[str, str]:
    """What `machine.describe()` says, for `facts`."""
    versions = {'Python': machine['python'], **machine['packages']}
    return {
        'machine': f'{machine["cpu"]}, {machine["cores"]} cores, {machine["system"]}; load '
        f'{machine["load_average"]}; GPUs: {", ".join(machine["gpus"]) or "none"}',
        'versions': ', '.join(f'{name} {version}' for name, version in versions.items()),
    }
