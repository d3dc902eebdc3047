# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of frames in a page: panels side by side, enlarged on a click, walked through by keys.

Plain JavaScript without dependencies. Every picture is in the page once: the viewer shows the same
data at full size. The left and right keys go from frame to frame, up and down from panel to panel
at the same place of the screen, so that what differs between prediction and truth blinks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mtl_evaluation.kinds.base import Panel
from mtl_evaluation.report import page
from mtl_evaluation.report.pictures import as_data_uri

WIDTH = 800
"""Pixels of an embedded picture: sharp at three a row, readable when enlarged."""

ASSETS = (page.ASSETS / 'gallery.css', page.ASSETS / 'gallery.js')
"""What a page with a gallery needs."""


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


def gallery(shots: Sequence[Shot], columns: int = 2) -> Markup:
    """The frames under each other, their pictures two or three in a row; '' of none."""
    return page.gallery(shots, columns) if shots else Markup('')
