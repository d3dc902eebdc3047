# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What augmentation does to images and, above all, to labels."""

import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_data import HEIGHT, WIDTH, picture, put, write_layout

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_perception.tasks import TIME_OF_DAY, UNLABELLED, WEATHER
from training.data.bonnet import with_bonnet
from training.data.layout import Layout, LayoutConfig
from training.data.loader import Draws
from training.data.mosaic import Tile, draw_tiles, join
from training.data.pictures import largest_shrink, picture_size, read_picture
from training.data.sample import Boxes, DatasetError, Sample
from training.data.transforms import AugmentConfig, View, augment, finish, outdoors

OFF = {'photometric': 0.0, 'flip': 0.0}


def scene() -> Sample:
    """A red square on black with mask and box exactly on it."""
    image = np.zeros((90, 160, 3), np.uint8)
    image[30:60, 50:90, 0] = 255
    mask = np.zeros((90, 160), np.uint8)
    mask[30:60, 50:90] = 1
    box = Boxes(np.array([[50, 30, 90, 60]], np.float32), np.array([2]), np.array([False]))
    return Sample('s', 't', image, {'detection': box}, {'drivable': mask}, {'weather': 1})


@pytest.mark.parametrize('seed', range(12))
def test_image_mask_and_box_move_together(seed):
    config = AugmentConfig(192, 320, 192, 320, photometric=0.0, scale_min=0.5, scale_max=1.5)
    out = augment(scene(), config, np.random.default_rng(seed))
    assert out.image.shape == (192, 320, 3)
    seen = out.masks['drivable'] == 1
    red = (out.image[..., 0] > 127) & (out.image[..., 1] < 50)
    assert (seen ^ red).sum() <= 0.05 * max(seen.sum(), 40)
    ys, xs = seen.nonzero()
    if not len(xs):
        assert not (~out.boxes['detection'].ignored).any()
        return
    tight = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert np.abs(out.boxes['detection'].xyxy[0] - tight).max() <= 1.5
    assert (out.masks['drivable'][out.image.sum(2) == 3 * 114] == UNLABELLED).all()


def looked(sample: Sample, seed: int = 0, **probabilities: float) -> Sample:
    config = AugmentConfig(96, 160, 96, 160, **OFF, **probabilities)
    rng = np.random.default_rng(seed)
    height, width = sample.image.shape[:2]
    view = View.draw((width, height), config, rng)
    return finish(outdoors(view, sample, config, rng), config, rng)


@pytest.mark.parametrize(
    ('look', 'task', 'value'),
    [('fog', WEATHER, 'foggy'), ('rain', WEATHER, 'rainy'), ('night', TIME_OF_DAY, 'night')],
)
def test_a_look_takes_away_the_label_that_it_makes_wrong(look, task, value):
    day = {'weather': WEATHER.classes.index('clear'), 'timeofday': 0, 'scene': 3}
    sample = Sample('s', 't', picture(1, 160, 96), classes=day)
    plain, seen, again = looked(sample), looked(sample, **{look: 1.0}), looked(sample, **{look: 1})
    assert (seen.image != plain.image).any() and (seen.image == again.image).all()
    assert set(plain.classes) - set(seen.classes) == {task.name}
    already = Sample('s', 't', sample.image, classes=day | {task.name: task.classes.index(value)})
    kept = looked(already, **{look: 1.0})
    assert kept.classes == already.classes and (kept.image == plain.image).all()


def test_a_look_that_an_image_has_is_not_repeated_where_its_label_is_not_trained(tmp_path):
    layout = Layout(LayoutConfig('tiny', str(write_layout(tmp_path))), 'train')
    layout.names, layout.paths = layout.names[:1], layout.paths[:1]  # it is rainy
    for tasks in (['drivable'], ['drivable', 'weather']):
        plain = Draws([layout], AugmentConfig(64, 96, 64, 96, **OFF), 1, tasks)[0]
        rain = Draws([layout], AugmentConfig(64, 96, 64, 96, **OFF, rain=1.0), 1, tasks)[0]
        fog = Draws([layout], AugmentConfig(64, 96, 64, 96, **OFF, fog=1.0), 1, tasks)[0]
        assert (rain.image == plain.image).all() and (fog.image != plain.image).any()


def test_looks_stay_off_the_letterbox_and_off_other_labels():
    sample = scene()
    for seed in range(6):
        plain = looked(sample, seed)
        seen = looked(sample, seed, fog=1.0, rain=1.0, night=1.0)
        outside = plain.masks['drivable'] == UNLABELLED
        inner = cv2.erode(outside.astype(np.uint8), np.ones((3, 3))) > 0  # not the blended edge
        assert (seen.image[inner] == plain.image[inner]).all()
        assert (seen.masks['drivable'] == plain.masks['drivable']).all()
        assert (seen.boxes['detection'].xyxy == plain.boxes['detection'].xyxy).all()


def test_fog_is_thicker_towards_the_horizon_and_night_is_dark():
    stripes = np.zeros((96, 160, 3), np.uint8)
    stripes[:, ::8] = 255
    sample = Sample('s', 't', stripes)
    config = {'scale_min': 1.0, 'scale_max': 1.0}
    for seed in range(5):
        fog = looked(sample, seed, fog=1.0, **config)
        contrast = np.ptp(fog.image[..., 0].astype(int), axis=1) / 255
        middle, bottom = contrast[40:48].mean(), contrast[84:88].mean()
        assert middle < bottom <= 1.0
        day = Sample('s', 't', np.full((96, 160, 3), 150, np.uint8))
        night = looked(day, seed, night=1.0, **config)
        assert night.image.mean() < 0.75 * looked(day, seed, **config).image.mean()


def test_sensor_noise_keeps_brightness_and_labels():
    sample = Sample('s', 't', picture(2, 160, 96), classes={'weather': 1})
    for seed in range(6):
        plain, seen = looked(sample, seed), looked(sample, seed, sensor=1.0)
        assert (seen.image != plain.image).any() and seen.classes == plain.classes
        assert abs(seen.image.mean() - plain.image.mean()) < 4


def labelled(name: str, tile: Tile, *, box: bool, mask: bool) -> Sample:
    size = (tile.height, tile.width)
    boxes = Boxes(np.array([[1, 2, 9, 8]], np.float32), np.array([2]), np.array([False]))
    return Sample(
        name, name, np.full((*size, 3), 9, np.uint8),
        {'detection': boxes} if box else {}, {'semantic': np.zeros(size, np.uint8)} if mask else {},
        {'weather': 1},
    )  # fmt: skip


@pytest.mark.parametrize('seed', range(4))
def test_a_bonnet_hides_the_road_and_the_boxes_behind_it(seed):
    sample = scene()
    xyxy = np.array([[50, 30, 90, 60], [60, 85, 90, 90], [60, 40, 100, 90]], np.float32)
    boxes = Boxes(xyxy, np.array([2, 2, 2]), np.zeros(3, bool))
    sample = replace(
        sample,
        boxes={'detection': boxes},
        masks={'drivable': np.zeros((90, 160), np.uint8), 'semantic': np.ones((90, 160), np.uint8)},
        maps={'depth': np.ones((90, 160), np.float32)},
    )

    out = with_bonnet(sample, np.random.default_rng(seed))

    hidden = out.masks['drivable'] == 2
    assert hidden[-1, 80] and not hidden[:60].any() and 0.02 < hidden.mean() < 0.25
    assert (out.masks['semantic'][hidden] == UNLABELLED).all()
    assert (out.maps['depth'] == ~hidden).all()
    np.testing.assert_array_equal(out.image[~hidden], sample.image[~hidden])
    assert out.boxes['detection'].ignored.tolist() == [False, True, False]
    top = hidden.argmax(axis=0)[80]
    assert abs(out.boxes['detection'].xyxy[2, 3] - top) <= 1
    assert (sample.masks['drivable'] == 0).all()


def test_a_mosaic_is_labelled_only_where_its_tiles_are():
    tiles = draw_tiles(96, 160, np.random.default_rng(0))
    covered = np.zeros((96, 160), int)
    for tile in tiles:
        covered[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    assert (covered == 1).all()
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    parts = [
        labelled(str(i), tile, box=box, mask=mask)
        for i, (tile, (box, mask)) in enumerate(zip(tiles, kinds, strict=True))
    ]
    whole = join(parts, tiles)
    boxes = whole.boxes['detection']
    for row, (tile, (box, mask)) in enumerate(zip(tiles, kinds, strict=True)):
        corner = np.array([tile.left, tile.top, tile.left, tile.top])
        expected = [1, 2, 9, 8] if box else [0, 0, tile.width, tile.height]
        assert boxes.xyxy[row].tolist() == (corner + expected).tolist()
        assert boxes.ignored[row] == (not box)
        area = whole.masks['semantic'][tile.top :, tile.left :][: tile.height, : tile.width]
        assert (area == (0 if mask else UNLABELLED)).all()
    assert whole.classes == {} and whole.image.shape == (96, 160, 3)
    nobody = [labelled(str(i), tile, box=False, mask=False) for i, tile in enumerate(tiles)]
    assert join(nobody, tiles).boxes == {} and join(nobody, tiles).masks == {}


def test_mosaics_are_drawn_by_seed_and_number(tmp_path):
    layout = Layout(LayoutConfig('tiny', str(write_layout(tmp_path))), 'train')
    draws = Draws([layout], AugmentConfig(64, 96, 64, 96, mosaic=1.0), seed=2)
    sample = draws[4]
    assert sample.image.shape == (64, 96, 3) and sample.name.count('+') == 3
    assert (draws[4].image == sample.image).all() and (draws[5].image != sample.image).any()
    inside = sample.boxes['detection'].xyxy
    assert (inside >= 0).all() and (inside[:, [0, 2]] <= 96).all() and (inside[:, 3] <= 64).all()


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('size', [(320, 180), (321, 181)])
def test_a_jpeg_decoded_small_lies_on_its_labels(tmp_path, size, flip):
    width, height = size
    disc = np.zeros((height, width), np.uint8)
    cv2.circle(disc, (200, 90), 60, 1, -1)
    put(tmp_path / 'images/100k/train/a.jpg', np.repeat(disc[..., None] * 255, 3, axis=2))
    put(tmp_path / 'labels/drivable/masks/train/a.png', disc)
    layout = Layout(LayoutConfig('a', str(tmp_path)), 'train')
    for scale in (1.0, 0.66, 0.5, 0.4, 0.26, 0.25, 0.2):
        view = View(scale, 3.3, 2.6, flip, round(height * scale), round(width * scale))
        sample = layout.load(0, scale)
        assert sample.shrink == largest_shrink(scale)
        seen = view.apply(sample, (0, 0, 0))
        light = seen.image[..., 0] / 255
        ys, xs = np.indices(light.shape) + 0.5
        centre = np.array([(light * xs).sum(), (light * ys).sum()]) / light.sum()
        edges = view.edges
        expected = edges[:, :2] @ np.array([200.5, 90.5]) + edges[:, 2]
        assert np.abs(centre - expected).max() < 0.12, scale
        assert ((light > 0.5) ^ (seen.masks['drivable'] == 1)).sum() < 0.08 * light.sum()


def test_sizes_without_decoding_are_those_of_decoding(tmp_path):
    path = put(tmp_path / 'a.jpg', picture(1, 33, 21))
    assert picture_size(path) == (33, 21) and read_picture(path, 2).shape == (11, 17, 3)
    assert read_picture(put(tmp_path / 'a.png', picture(1)), 2).shape == (HEIGHT, WIDTH, 3)
    for content in (b'', b'no image'):
        (tmp_path / 'b.jpg').write_bytes(content)
        for read in (picture_size, read_picture):
            with pytest.raises(DatasetError, match=r'b\.jpg'):
                read(tmp_path / 'b.jpg')


@pytest.mark.parametrize(('kind', 'size'), [(3, (21, 33)), (2, (33, 21)), (7, (33, 21))])
def test_an_orientation_of_type_ascii_or_undefined_turns_nothing(tmp_path, kind, size):
    exif = b'Exif\0\0II*\0' + struct.pack('<IHHHIII', 8, 1, 0x0112, kind, 1, 6, 0)
    Image.fromarray(picture(1, 33, 21)).save(tmp_path / 'a.jpg', exif=exif)
    assert picture_size(tmp_path / 'a.jpg') == size


def test_lane_markings_survive_shrinking_whole():
    lane = np.ones((360, 640), np.uint8)
    cv2.line(lane, (100, 359), (320, 100), 0, 2)
    masks = {'lane': lane, 'drivable': lane.copy()}
    sample = Sample('s', 't', np.zeros((360, 640, 3), np.uint8), {}, masks)
    seen = View(0.25, 0, 0, False, 90, 160).apply(sample, (0, 0, 0))
    marked = seen.masks['lane'] == 0
    assert marked[26:89].any(axis=1).all()  # in each row
    assert np.median(marked[30:85].sum(axis=1)) == pytest.approx(6, abs=2)  # across a slant
    thin = seen.masks['drivable'] == 0
    assert np.median(thin[30:85].sum(axis=1)) <= 2  # what any other mask would have left
