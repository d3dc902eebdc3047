"""One HTML file that opens offline: figures, plots and pictures of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mtl_perception.replay import plots
from mtl_perception.replay.accuracy import accuracy_rows, percent
from mtl_perception.replay.pictures import SHOWN_SCORE, Example, as_data_uri
from mtl_perception.replay.timing import LiveRun

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #16191d; --ink-2: #59626d;
  --line: #dfe3e8; --first: #2f6fde; --second: #d9822b; --alarm: #cf3b3b; --note: #fff6e0;
  --note-line: #e6b34d; }
@media (prefers-color-scheme: dark) { :root { --page: #101317; --card: #181c22; --ink: #e8ebef;
  --ink-2: #9aa4b0; --line: #2c333c; --first: #6ea2ff; --second: #f0a55a; --alarm: #ff7a7a;
  --note: #2a2415; --note-line: #8a6d2b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 25px; margin: 0 0 2px; letter-spacing: -.01em; }
h2 { font-size: 17px; margin: 40px 0 12px; }
p { margin: 6px 0; } .dim { color: var(--ink-2); }
.note { background: var(--note); border-left: 3px solid var(--note-line); padding: 10px 14px;
  border-radius: 4px; margin: 18px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px;
  margin: 20px 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.tile { padding: 12px 14px; } .tile b { display: block; font-size: 24px; font-weight: 620;
  font-variant-numeric: tabular-nums; line-height: 1.25; }
.tile span { color: var(--ink-2); font-size: 13px; }
.card { padding: 14px 16px; } .card h3 { font-size: 14px; margin: 0 0 6px; font-weight: 600; }
.grid { display: grid; gap: 12px; grid-template-columns: repeat(2, 1fr); }
.grid .wide { grid-column: 1 / -1; } .thirds { grid-template-columns: repeat(3, 1fr); }
.thirds { align-items: start; }
svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--ink-2); font-weight: 500; font-size: 13px; }
td.number { text-align: right; white-space: nowrap; } th.number { text-align: right; }
tr:last-child td { border-bottom: 0; }
figure { margin: 0; } figcaption { color: var(--ink-2); font-size: 13px; padding: 4px 0 0; }
.example { margin: 0 0 22px; } .example h3 { font-size: 14px; margin: 0 0 8px; }
.panels { display: grid; grid-template-columns: repeat(2, 1fr); gap: 10px; }
.panels img, video { width: 100%; display: block; border-radius: 6px; background: #000; }
video { max-height: 620px; }
code { font: 13px ui-monospace, 'DejaVu Sans Mono', monospace; overflow-wrap: anywhere; }
@media (max-width: 760px) { .grid, .thirds, .panels { grid-template-columns: 1fr; } }
"""


def write_report(
    path: Path, results: Mapping[str, Any], live: LiveRun, examples: Sequence[Example]
) -> None:
    """Write the page. results: what `results.json` holds. Nothing in it is fetched from a network.

    Only the video is a file of its own, beside the page.
    """
    has_video = (path.parent / 'overlay.mp4').is_file()
    body = '\n'.join(
        [
            *_head(results),
            *_tiles(results),
            *_timing(results, live),
            *_accuracy(results),
            *_video(results, has_video),
            *_examples(examples),
            *_making_of(results),
        ]
    )
    title = escape(f'{results["model"]["name"]}: live run')
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><style>{STYLE}</style></head>\n'
        f'<body><main>\n{body}\n</main></body></html>\n',
        'utf-8',
    )


def _head(results: Mapping[str, Any]) -> Iterator[str]:
    model, drive = results['model'], results['drive']
    yield f'<h1>{escape(model["name"])} in a live run</h1>'
    yield f'<p class="dim">{escape(drive["description"])}</p>'
    runs_on = [model.get(key, '') for key in ('engine', 'precision', 'device')]
    cores = results['machine'].get('cores')
    yield (
        f'<p class="dim">{escape(", ".join(part for part in runs_on if part))}, {cores} cores; '
        f'{escape(results["created"])}</p>'
    )
    stopped = (
        '' if drive['complete'] else ' <b>The run was stopped before the end of the drive.</b>'
    )
    yield f'<p class="note">{escape(results["accuracy_note"])}{stopped}</p>'


def _tiles(results: Mapping[str, Any]) -> Iterator[str]:
    frames, latency = results['frames'], results['latency_ms'] or {}
    yield '<div class="tiles">'
    yield _tile(f'{frames["answered"]} / {frames["played"]}', 'frames answered of those played')
    yield _tile(_or_dash(frames['replaced']), 'dropped for a newer frame')
    yield _tile(_or_dash(frames['lost_in_transport']), 'lost on the way to the node')
    yield _tile(_or_dash(latency.get('p50'), ' ms', '.1f'), 'latency p50, stamp to detections')
    yield _tile(_or_dash(latency.get('p99'), ' ms', '.1f'), 'latency p99')
    yield _tile(_or_dash(results['fps'], '', '.1f'), 'answers a second')
    for name, result in results['accuracy'].items():
        key, title = {
            'detection': ('AP50', f'{name} AP50'),
            'segmentation': ('miou', f'{name} mIoU'),
        }.get(result['kind'], ('', ''))
        if key and result['frames']:
            yield _tile(percent(result[key]), title)
    yield '</div>'


def _timing(results: Mapping[str, Any], live: LiveRun) -> Iterator[str]:
    latencies = live.latencies_ms()
    if not latencies:
        return
    answered = live.answered_ns
    first_ns = live.frames[0].stamp_ns
    dropped = [
        (frame.stamp_ns - first_ns) / 1e9 for frame in live.frames if frame.stamp_ns not in answered
    ]
    period_ms = 1e3 / results['rate_in_hz'] if results['rate_in_hz'] else None
    yield '<h2>Time</h2><div class="grid">'
    yield _card(
        'Latency of every frame', plots.latency_over_time(latencies, dropped, period_ms), 'wide'
    )
    yield _card('How latency spreads', plots.latency_histogram([value for _, value in latencies]))
    if results['stages_ms']:
        yield _card('Where the node spends it', plots.stage_times(results['stages_ms']))
    yield '</div>'
    late = results['publish_late_ms'] or {}
    yield (
        f'<p class="dim">Latency runs from the image stamp, the moment the frame was due, until '
        f'its detections arrive at a subscriber in another process. The player published '
        f'{late.get("p50", 0):.2f} ms after that stamp (p50; p99 {late.get("p99", 0):.2f} ms), '
        f'which is included. Stage times are the node’s own, over its last 300 frames. A frame '
        f'that is not processed before a newer one arrives is dropped on purpose.</p>'
    )


def _accuracy(results: Mapping[str, Any]) -> Iterator[str]:
    scores = results['accuracy']
    yield '<h2>Accuracy of the processed frames</h2>'
    rows = accuracy_rows(scores)
    yield '<div class="card"><table><tr><th>task</th><th>metric</th><th class="number">value</th>'
    yield '<th class="number">frames</th></tr>'
    for task, metric, value, frames in rows:
        count = str(frames) if frames else '–'
        yield (
            f'<tr><td>{escape(task)}</td><td>{escape(metric)}</td>'
            f'<td class="number">{escape(value)}</td><td class="number">{count}</td></tr>'
        )
    yield '</table></div>'
    cards = list(_class_cards(scores))
    if cards:
        yield '<div class="grid thirds" style="margin-top:12px">'
        yield from cards
        yield '</div>'
    yield (
        '<p class="dim">AP as in BDD100K (COCO’s, at most 100 detections a class and frame). mIoU '
        'is the mean over classes that the labels contain; unlabelled pixels do not count. '
        'BDD100K’s drivable figure leaves out all pixels labelled background and so forgives '
        'painting the pavement; the strict one does not.</p>'
    )


def _class_cards(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, result in scores.items():
        if not result['frames']:
            continue
        if result['kind'] == 'detection':
            by_class = {label: value['AP50'] for label, value in result['per_class'].items()}
            title = 'AP50, %'
        elif result['kind'] == 'segmentation':
            by_class, title = result['iou'], 'IoU, %'
        else:
            continue
        if any(value is not None for value in by_class.values()):
            yield _card(f'{name} by class', plots.class_bars(f'{name}: {title}', by_class))


def _video(results: Mapping[str, Any], has_video: bool) -> Iterator[str]:
    if not has_video:
        return
    yield '<h2>Video</h2>'
    if results['video_codec'] == 'vp09':
        yield '<video src="overlay.mp4" controls muted preload="metadata"></video>'
    else:
        yield '<p><a href="overlay.mp4">overlay.mp4</a> (for a desktop player)</p>'
    yield '<p class="dim">A dropped frame shows the newest answer there was.</p>'


def _examples(examples: Sequence[Example]) -> Iterator[str]:
    if not examples:
        return
    yield '<h2>Frames</h2>'
    yield (
        f'<p class="dim">Evenly spaced over the run, not chosen. Boxes with a score of at least '
        f'{SHOWN_SCORE:g}.</p>'
    )
    for example in examples:
        caption = f'Frame {example.index}, {example.time_s:.1f} s'
        caption += f' · {example.caption}' if example.caption else ''
        yield f'<section class="example"><h3>{escape(caption)}</h3><div class="panels">'
        for panel in example.panels:
            picture = as_data_uri(panel.image)
            yield (
                f'<figure><img src="{picture}" alt="{escape(panel.title)}" loading="lazy">'
                f'<figcaption>{escape(panel.title)}</figcaption></figure>'
            )
        yield '</div></section>'


def _making_of(results: Mapping[str, Any]) -> Iterator[str]:
    model, device = results['model'], results['machine']
    facts = {
        'command': results['command'],
        'model': f'{model["name"]}, bundle {model["bundle_hash"][:16]}, trained on '
        f'{"; ".join(model["training_data"])}',
        'engine': ' '.join(
            model.get(key, '') for key in ('engine', 'engine_version', 'precision', 'device')
        ),
        'machine': f'{device["cpu"]}, {device["cores"]} cores, {device["system"]}; load '
        f'{device["load_average"]}; GPUs: {", ".join(device["gpus"]) or "none"}',
        'versions': ', '.join(
            f'{k} {v}' for k, v in {'Python': device['python'], **device['packages']}.items()
        ),
        'drive': results['drive']['path'],
        'undecodable frames': '; '.join(results['undecodable']) or 'none',
    }
    yield '<h2>How this was made</h2><div class="card"><table>'
    for name, value in facts.items():
        yield f'<tr><th>{escape(name)}</th><td><code>{escape(str(value))}</code></td></tr>'
    yield '</table></div>'


def _tile(value: str, title: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(title)}</span></div>'


def _card(title: str, content: str, kind: str = '') -> str:
    return f'<div class="card {kind}"><h3>{escape(title)}</h3>{content}</div>'


def _or_dash(value: float | None, unit: str = '', form: str = '') -> str:
    return '–' if value is None else f'{format(value, form)}{unit}'
