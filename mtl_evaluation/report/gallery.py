"""Pictures of frames in a page: panels side by side, enlarged on a click, walked through by keys.

Plain JavaScript without dependencies. Every picture is in the page once: the viewer shows the same
data at full size. The left and right keys go from frame to frame, up and down from panel to panel
at the same place of the screen, so that what differs between prediction and truth blinks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from mtl_evaluation.report.pictures import Panel, as_data_uri

WIDTH = 800
"""Pixels of an embedded picture: sharp at three a row, readable when enlarged."""

STYLE = """
.panels img { cursor: zoom-in; } .panels img:focus-visible { outline: 3px solid var(--first); }
dialog.viewer { width: 100vw; height: 100vh; max-width: none; max-height: none; margin: 0;
  padding: 0; border: 0; background: #0b0d10; color: #e8ebef; }
dialog.viewer[open] { display: grid; grid-template-rows: auto 1fr auto; }
.viewer header, .viewer footer { display: flex; gap: 8px; align-items: center; flex-wrap: wrap;
  padding: 10px 14px; font-size: 14px; }
.viewer .picture { min-height: 0; display: flex; align-items: center; justify-content: center; }
.viewer img { width: 100%; height: 100%; object-fit: contain; cursor: pointer; }
.viewer button { font: inherit; color: inherit; background: #22272e; border: 1px solid #3a424c;
  border-radius: 6px; padding: 3px 11px; cursor: pointer; }
.viewer button[aria-pressed=true] { background: #2f6fde; border-color: #2f6fde; color: #fff; }
.viewer .push { margin-left: auto; } .viewer .hint { color: #9aa4b0; font-size: 13px; }
"""

SCRIPT = """
(() => {
  const viewer = document.createElement('dialog');
  viewer.className = 'viewer';
  viewer.innerHTML = `<header><span class="tabs"></span><span class="push"></span>
    <button data-go="-1" aria-label="previous frame">←</button><span class="place"></span>
    <button data-go="1" aria-label="next frame">→</button>
    <button data-close aria-label="close">✕</button></header>
    <div class="picture"><img alt=""></div><footer><span class="caption"></span>
    <span class="push"></span><span class="hint">← → frames · ↑ ↓ pictures of a frame · Esc</span>
    </footer>`;
  document.body.append(viewer);
  const part = name => viewer.querySelector(name);
  let shots = [], shot = 0, panel = 0;
  const pictures = () => [...shots[shot].querySelectorAll('img')];
  const show = () => {
    const all = pictures();
    const chosen = all[Math.min(panel, all.length - 1)];
    part('.picture img').src = chosen.src;
    part('.picture img').alt = chosen.alt;
    part('.caption').textContent = shots[shot].querySelector('h3').textContent;
    part('.place').textContent = `${shot + 1} / ${shots.length}`;
    part('.tabs').replaceChildren(...all.map((picture, i) => {
      const tab = document.createElement('button');
      tab.textContent = picture.alt;
      tab.setAttribute('aria-pressed', picture === chosen);
      tab.onclick = () => { panel = i; show(); };
      return tab;
    }).flatMap(tab => [tab, ' ']));
  };
  const go = by => { shot = (shot + by + shots.length) % shots.length; show(); };
  const turn = by => { const n = pictures().length; panel = (panel + by + n) % n; show(); };
  const open = picture => {
    const found = picture.closest('.example');
    shots = [...found.closest('.gallery').querySelectorAll('.example')];
    shot = shots.indexOf(found);
    panel = pictures().indexOf(picture);
    show();
    viewer.showModal();
  };
  document.addEventListener('click', event => {
    if (event.target.matches('.gallery img')) open(event.target);
  });
  document.addEventListener('keydown', event => {
    if (!viewer.open) {
      const opens = event.key === 'Enter' || event.key === ' ';
      if (opens && event.target.matches('.gallery img')) {
        event.preventDefault();
        open(event.target);
      }
      return;
    }
    const moves = { ArrowLeft: () => go(-1), ArrowRight: () => go(1),
                    ArrowUp: () => turn(-1), ArrowDown: () => turn(1) };
    if (moves[event.key]) { event.preventDefault(); moves[event.key](); }
  });
  viewer.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (event.target.matches('.picture img')) turn(1);
    else if (event.target.matches('.picture') || button?.hasAttribute('data-close')) viewer.close();
    else if (button?.dataset.go) go(Number(button.dataset.go));
  });
})();
"""


@dataclass(frozen=True)
class Shot:
    """One frame of a gallery: what is said about it, and its pictures as (title, data URI)."""

    caption: str
    pictures: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, caption: str, panels: Iterable[Panel]) -> Shot:
        """Encode the panels, which are not needed any longer then."""
        return cls(
            caption, tuple((panel.title, as_data_uri(panel.image, WIDTH)) for panel in panels)
        )


def gallery(shots: Sequence[Shot], columns: int = 2) -> str:
    """The frames under each other, their pictures two or three in a row; '' of none."""
    if not shots:
        return ''
    return f'<div class="gallery">{"".join(_example(shot, columns) for shot in shots)}</div>'


def _example(shot: Shot, columns: int) -> str:
    figures = ''.join(
        f'<figure><img src="{uri}" alt="{escape(title)}" tabindex="0" role="button">'
        f'<figcaption>{escape(title)}</figcaption></figure>'
        for title, uri in shot.pictures
    )
    kind = 'panels three' if columns == 3 else 'panels'
    return (
        f'<section class="example"><h3>{escape(shot.caption)}</h3>'
        f'<div class="{kind}">{figures}</div></section>'
    )
