"""Building blocks of the HTML pages: one file each, opened offline, light or dark.

Whatever is text is escaped here; whatever is called `html` goes into the page as it is. A page
carries its style, script, plots (inline SVG) and pictures (data URIs) with it; its content policy
forbids the browser every network address, and only files beside the page (a video) can be linked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #16191d; --ink-2: #59626d;
  --line: #dfe3e8; --first: #2f6fde; --second: #d9822b; --alarm: #cf3b3b; --good: #1d8a4e;
  --note: #fff6e0; --note-line: #e6b34d; --good-page: #e6f5ec; --alarm-page: #fdeaea; }
@media (prefers-color-scheme: dark) { :root { --page: #101317; --card: #181c22; --ink: #e8ebef;
  --ink-2: #9aa4b0; --line: #2c333c; --first: #6ea2ff; --second: #f0a55a; --alarm: #ff7a7a;
  --good: #57c98a; --note: #2a2415; --note-line: #8a6d2b; --good-page: #14281d;
  --alarm-page: #321a1c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 25px; margin: 0 0 2px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 40px 0 12px; scroll-margin-top: 52px; }
h2 + p { margin-top: -6px; margin-bottom: 12px; }
p { margin: 6px 0; } .dim { color: var(--ink-2); } a { color: var(--first); }
nav { position: sticky; top: 0; z-index: 2; background: var(--page); padding: 8px 0;
  margin: 14px 0 0; border-bottom: 1px solid var(--line); font-size: 13px; display: flex;
  flex-wrap: wrap; gap: 4px 16px; }
nav a { color: var(--ink-2); text-decoration: none; } nav a:hover { color: var(--first); }
.note { background: var(--note); border-left: 3px solid var(--note-line); padding: 10px 14px;
  border-radius: 4px; margin: 18px 0; }
.verdict { border: 1px solid var(--line); border-left-width: 6px; border-radius: 8px;
  background: var(--card); padding: 14px 18px; margin: 20px 0; }
.verdict b { font-size: 20px; letter-spacing: .01em; } .verdict p { margin: 4px 0; }
.verdict.plain b { font-size: 17px; }
.verdict.good { border-color: var(--good); background: var(--good-page); }
.verdict.good b { color: var(--good); }
.verdict.bad { border-color: var(--alarm); background: var(--alarm-page); }
.verdict.bad b { color: var(--alarm); }
.verdict.open { border-color: var(--note-line); background: var(--note); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px;
  margin: 20px 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.tile { padding: 12px 14px; } .tile b { display: block; font-size: 24px; font-weight: 620;
  font-variant-numeric: tabular-nums; line-height: 1.25; }
.tile span { color: var(--ink-2); font-size: 13px; }
.card { padding: 14px 16px; min-width: 0; } .card h3 { font-size: 14px; margin: 0 0 6px;
  font-weight: 600; } .card + .card, .card + .grid, .grid + .card { margin-top: 12px; }
.grid > .card + .card { margin-top: 0; }
.grid { display: grid; gap: 12px; grid-template-columns: repeat(2, 1fr); }
.grid .wide { grid-column: 1 / -1; } .thirds { grid-template-columns: repeat(3, 1fr); }
.thirds { align-items: start; } .scroll { overflow-x: auto; }
svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--ink-2); font-weight: 500; font-size: 13px; }
td.number { text-align: right; white-space: nowrap; } th.number { text-align: right; }
tr:last-child td, tr:last-child th[scope=row] { border-bottom: 0; }
th[scope=row] { padding-right: 18px; white-space: nowrap; }
td small { color: var(--ink-2); font-size: 11px; display: inline-block; width: 44px; }
td small.wide { display: block; width: auto; }
main > h3 { font-size: 15px; margin: 20px 0 10px; }
.bar { display: inline-block; width: 92px; padding: 0 6px; border-radius: 3px;
  background: linear-gradient(to right, color-mix(in srgb, var(--first) 26%, transparent)
  var(--share), transparent var(--share)); text-align: right; }
td .good, .good-text { color: var(--good); } td .bad, .bad-text { color: var(--alarm); }
figure { margin: 0; } figcaption { color: var(--ink-2); font-size: 13px; padding: 4px 0 0; }
.example { margin: 0 0 22px; } .example h3 { font-size: 14px; margin: 0 0 8px; }
.panels { display: grid; grid-template-columns: repeat(2, 1fr); gap: 10px; }
.panels.three { grid-template-columns: repeat(3, 1fr); }
.panels img, video { width: 100%; display: block; border-radius: 6px; background: #000; }
video { max-height: 620px; }
details { margin: 12px 0 0; } summary { cursor: pointer; color: var(--ink-2); font-size: 13px; }
code { font: 13px ui-monospace, 'DejaVu Sans Mono', monospace; overflow-wrap: anywhere; }
@media (max-width: 760px) { .grid, .thirds, .panels, .panels.three { grid-template-columns: 1fr; } }
@media print { nav { display: none; } .card, .tile, .example { break-inside: avoid; } }
"""

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "media-src 'self' file:"
)
"""Content-Security-Policy of every page: nothing is fetched but a video that lies beside it."""


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading that the page's index links to."""

    title: str
    html: str


def write_page(
    path: Path,
    title: str,
    head: Iterable[str],
    sections: Iterable[Section],
    style: str = '',
    script: str = '',
) -> None:
    """Write a page: `head` (HTML above the index), an index, the sections.

    It appears under its name only when complete. Raises OSError when it cannot be written.
    """
    parts = list(sections)
    links = ''.join(f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>' for s in parts)
    body = ''.join(
        f'<h2 id="{_anchor(part.title)}">{escape(part.title)}</h2>\n{part.html}\n' for part in parts
    )
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n'
        f'<body><main>\n{"".join(head)}\n<nav>{links}</nav>\n{body}</main>'
        f'{f"<script>{script}</script>" if script else ""}</body></html>\n'
    )
    partial = path.with_name(f'.{path.name}.partial')
    partial.write_text(text, 'utf-8', 'backslashreplace')  # a path may be no UTF-8
    os.replace(partial, path)


def text(words: str) -> str:
    """Text as HTML, also within quotes."""
    return escape(words)


def heading(title: str, *lines: str) -> str:
    """The page's title and dim lines under it."""
    return f'<h1>{escape(title)}</h1>' + ''.join(dim(line) for line in lines if line)


def dim(text: str) -> str:
    """A paragraph that explains."""
    return f'<p class="dim">{escape(text)}</p>'


def note(text: str, warning: str = '') -> str:
    """What the reader has to know first; `warning` in bold after it."""
    bold = f' <b>{escape(warning)}</b>' if warning else ''
    return f'<p class="note">{escape(text)}{bold}</p>'


def verdict(kind: str, word: str, lines: Sequence[str]) -> str:
    """A banner: one word, then the rest of the first line and more lines. kind: good, bad, open."""
    first, *rest = lines
    more = ''.join(f'<p>{escape(line)}</p>' for line in rest)
    return (
        f'<div class="verdict {kind}" role="status"><p><b>{escape(word)}</b> {escape(first)}</p>'
        f'{more}</div>'
    )


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """Large figures, each with what it is: (value, title)."""
    found = ''.join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(title)}</span></div>'
        for value, title in values
    )
    return f'<div class="tiles">{found}</div>'


def card(title: str, html: str, kind: str = '') -> str:
    """A framed part with a small title; kind: '' or 'wide'."""
    named = f'<h3>{escape(title)}</h3>' if title else ''
    return f'<div class="card {kind}">{named}{html}</div>'


def grid(cards: Iterable[str], columns: int = 2) -> str:
    """Cards beside each other, two or three in a row; '' of no cards."""
    found = ''.join(cards)
    return f'<div class="grid{" thirds" if columns == 3 else ""}">{found}</div>' if found else ''


@dataclass(frozen=True)
class Markup:
    """HTML for a cell of a table whose other cells are text."""

    html: str


Cell = str | Markup


def bar(share: float | None, small: str = '') -> Cell:
    """A share as percent over a bar as long as it, with something small beside it."""
    if share is None:
        return '–'
    beside = f'<small>{escape(small)}</small>' if small else ''
    return Markup(
        f'<span class="bar" style="--share:{100 * share:.1f}%">{100 * share:.1f}</span>{beside}'
    )


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], numbers: Iterable[int]) -> str:
    """A table; the columns in `numbers` (from 0) hold figures and are set to the right."""
    right = set(numbers)

    def cells(tag: str, row: Sequence[Cell]) -> str:
        return ''.join(
            f'<{tag}{" class=number" if column in right else ""}>'
            f'{cell.html if isinstance(cell, Markup) else escape(cell)}</{tag}>'
            for column, cell in enumerate(row)
        )

    body = ''.join(f'<tr>{cells("td", row)}</tr>' for row in rows)
    return f'<div class="scroll"><table><tr>{cells("th", header)}</tr>{body}</table></div>'


def facts(values: Mapping[str, Any]) -> str:
    """Names and values as they were given to a machine: how something was made."""
    rows = ''.join(
        f'<tr><th scope="row">{escape(name)}</th><td><code>{escape(str(value))}</code></td></tr>'
        for name, value in values.items()
    )
    return f'<table>{rows}</table>'


def details(title: str, html: str) -> str:
    """A part that is folded away until it is asked for."""
    return f'<details><summary>{escape(title)}</summary>{html}</details>'


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


def _anchor(title: str) -> str:
    return ''.join(c if c.isalnum() else '-' for c in title.lower())
