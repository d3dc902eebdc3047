# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Encodings beyond our table: handed to cv_bridge only when they are what their header says."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip('sensor_msgs.msg', reason='needs ROS 2 (make test installs the Jazzy wheels)')

from sensor_msgs.msg import Image

from mtl_perception.image_codec import ENCODINGS, ImageError
from mtl_perception.node import bridge

pytestmark = pytest.mark.ros

HEIGHT, WIDTH = 4, 6


class StandIn:
    """Takes the place of CvBridge, which no package registry has: it records what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Image, str]] = []
        self.answer: object = np.full((HEIGHT, WIDTH, 3), 7, np.uint8)

    def imgmsg_to_cv2(self, message: Image, encoding: str) -> object:
        self.asked.append((message, encoding))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def forget_cv_bridge() -> Iterator[None]:
    bridge._cv_bridge.cache_clear()
    yield
    bridge._cv_bridge.cache_clear()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    module = ModuleType('cv_bridge')
    module.CvBridge = lambda: made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'cv_bridge', module)
    return made


def message(encoding: str, padding: int = 0, surplus: int = 0) -> Image:
    step = WIDTH * bridge.BRIDGED.get(encoding, 3) + padding
    data = array('B', bytes(step * HEIGHT + surplus))
    return Image(height=HEIGHT, width=WIDTH, encoding=encoding, step=step, data=data)


def test_the_two_tables_do_not_overlap() -> None:
    assert not set(bridge.BRIDGED) & set(ENCODINGS)


@pytest.mark.parametrize('encoding', bridge.BRIDGED)
def test_what_is_well_formed_is_converted_to_rgb8(encoding: str, stand_in: StandIn) -> None:
    sent = message(encoding, padding=5)
    frame = bridge.decode_image(sent)
    assert stand_in.asked == [(sent, 'rgb8')]
    assert (frame.order, frame.pixels.shape) == ('rgb', (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize('fault', [{'padding': -1}, {'surplus': -1}, {'surplus': 1}])
@pytest.mark.parametrize('encoding', bridge.BRIDGED)
def test_what_is_not_never_reaches_it(encoding: str, fault: dict, stand_in: StandIn) -> None:
    """It would take a short step and too much data for good."""
    with pytest.raises(ImageError, match='expected'):
        bridge.decode_image(message(encoding, **fault))
    assert stand_in.asked == []


@pytest.mark.parametrize(
    'answer',
    [
        TypeError('buffer is too small'),
        np.zeros((HEIGHT, WIDTH), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.uint16),
    ],
    ids=['error', 'grey', '16 bits'],
)
def test_what_it_does_wrong_is_an_image_error(answer: object, stand_in: StandIn) -> None:
    stand_in.answer = answer
    with pytest.raises(ImageError, match='cv_bridge'):
        bridge.decode_image(message('rgb16'))


def test_without_it_the_sentence_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    with pytest.raises(ImageError, match=r'cv-bridge.*image_proc'):
        bridge.decode_image(message('mono16'))


def test_what_is_in_our_table_never_goes_there(stand_in: StandIn) -> None:
    assert bridge.decode_image(message('bgr8')).order == 'bgr'
    with pytest.raises(ImageError, match='image_proc'):
        bridge.decode_image(message('32FC1'))
    assert stand_in.asked == []
