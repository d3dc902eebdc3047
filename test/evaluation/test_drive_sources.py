# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Where drives come from: images with labels beside them, video, generated scenes; bad input."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.generated import GeneratedDrive, Segment
from mtl_evaluation.bags.sources import (
    DatasetSplit,
    ImageFolder,
    SourceError,
    Video,
    generated_config,
    write_drive,
)
from mtl_evaluation.truth.labels import LabelError, read_mask, truth_boxes


def quiet(done: int) -> None:
    """Take progress."""


def bdd_folder(root):
    """Three images of two sizes: boxes and attributes, a mask, nothing."""
    images = root / 'images' / '100k' / 'val'
    images.mkdir(parents=True)
    for name, size in (('a.jpg', (24, 32)), ('b.jpg', (16, 16)), ('c.png', (24, 32))):
        cv2.imwrite(str(images / name), np.full((*size, 3), 100, np.uint8))
    (images / 'notes.txt').write_text('not an image')
    box = {'x1': 1, 'y1': 2, 'x2': 11, 'y2': 12}
    labels = [
        {'category': 'car', 'box2d': box, 'attributes': {'crowd': False}},
        {'category': 'person', 'box2d': box, 'attributes': {'crowd': True}},
        {'category': 'trailer', 'box2d': box},
        {'category': 'lane', 'poly2d': []},
    ]
    frames = [
        {
            'name': 'a.jpg',
            'attributes': {'weather': 'rainy', 'scene': 'undefined', 'timeofday': 'night'},
            'labels': labels,
        },
        {'name': 'c.png', 'labels': None},
    ]
    boxes = root / 'labels' / 'det_20'
    boxes.mkdir(parents=True)
    (boxes / 'det_val.json').write_text(json.dumps(frames))
    (boxes / 'det_train.json').write_text('this file is of another split and must not be read')
    masks = root / 'labels' / 'sem_seg' / 'masks' / 'val'
    masks.mkdir(parents=True)
    palette = Image.fromarray(np.array([[0, 13], [255, 10]], np.uint8), mode='P')
    palette.putpalette([255, 0, 0] * 256)
    palette.save(masks / 'b.png')
    return images


def test_images_come_in_name_order_with_their_labels(tmp_path):
    source = ImageFolder(bdd_folder(tmp_path))

    first, second, third = source.frames_from(0)

    assert [round(frame.time_s, 3) for frame in (first, second, third)] == [0, 0.1, 0.2]
    assert first.image.data == (tmp_path / 'images/100k/val/a.jpg').read_bytes()
    assert third.image.format == 'png'
    assert first.truth.labels == {'weather': 'rainy', 'timeofday': 'night'}
    assert first.truth.boxes.classes == ('car', 'pedestrian', 'truck')
    assert first.truth.boxes.ignore.tolist() == [False, True, True]
    assert first.truth.boxes.boxes[0].tolist() == [1, 2, 11, 12]
    assert not first.truth.masks
    assert second.truth.boxes is None
    assert second.truth.masks['semantic'].tolist() == [[0, 13], [255, 10]]
    assert third.truth.boxes is not None  # listed without labels: labelled and empty
    assert len(third.truth.boxes.boxes) == 0


def test_a_folder_becomes_a_bag_that_keeps_all_of_it(tmp_path):
    source = ImageFolder(bdd_folder(tmp_path), rate_hz=5)
    seen = []

    write_drive(source, tmp_path / 'drive', seen.append)

    with DriveBag(tmp_path / 'drive') as bag:
        frames = list(bag.frames())
    assert seen == [1, 2, 3]
    assert [frame.image().pixels.shape[:2] for frame in frames] == [(24, 32), (16, 16), (24, 32)]
    assert np.diff([frame.stamp_ns for frame in frames]).tolist() == [200_000_000] * 2
    assert [bool(frame.truth()) for frame in frames] == [True, True, True]


def test_pattern_and_limit(tmp_path):
    folder = bdd_folder(tmp_path)

    assert ImageFolder(folder, '*.jpg').frames == 2
    assert ImageFolder(folder, limit=1).frames == 1


def test_images_without_labels_are_unlabelled(tmp_path):
    cv2.imwrite(str(tmp_path / 'x.jpg'), np.zeros((8, 8, 3), np.uint8))
    source = ImageFolder(tmp_path)

    if source.labels.root is None:
        assert 'no labels' in source.description
    assert not next(source.frames_from(0)).truth


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda p: None, 'found nothing'),
        (lambda p: p.write_text('x'), 'found a file'),
        (lambda p: p.mkdir(), 'found none'),
        (lambda p: (p.mkdir(), (p / 'a.jpg').write_bytes(b'x')), r"1 images, none matching 'z\*'"),
    ],
)
def test_bad_folders(tmp_path, make, message):
    make(tmp_path / 'folder')

    with pytest.raises(SourceError, match=message):
        ImageFolder(tmp_path / 'folder', 'z*')


def test_broken_labels_are_named(tmp_path):
    folder = bdd_folder(tmp_path)
    (tmp_path / 'labels/det_20/det_val.json').write_text('{')
    with pytest.raises(LabelError, match=r'det_val\.json is not readable JSON'):
        ImageFolder(folder)

    mask = tmp_path / 'mask.png'
    mask.write_text('x')
    with pytest.raises(LabelError, match='not a readable PNG'):
        read_mask(mask)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(mask)
    with pytest.raises(LabelError, match='mode RGB'):
        read_mask(mask)


def test_likely_merged_boxes_are_not_scored():
    box = {'x1': 0, 'y1': 0, 'x2': 9, 'y2': 9}
    boxes = truth_boxes([{'category': 'car', 'box2d': box, 'attributes': {'suspectMerged': True}}])

    assert boxes.ignore.tolist() == [True]


def test_video_frames_keep_its_rate(tmp_path):
    path = tmp_path / 'drive.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 20, (32, 24))
    for value in range(5):
        writer.write(np.full((24, 32, 3), value * 40, np.uint8))
    writer.release()

    write_drive(Video(path, limit=3), tmp_path / 'drive', quiet)

    with DriveBag(tmp_path / 'drive') as bag:
        frames = list(bag.frames())
    assert np.diff([frame.stamp_ns for frame in frames]).tolist() == [50_000_000] * 2
    assert abs(int(frames[2].image().pixels.mean()) - 80) < 6
    assert not frames[0].truth()


def test_bad_videos(tmp_path):
    with pytest.raises(SourceError, match='no such file'):
        Video(tmp_path / 'none.mp4')
    (tmp_path / 'text.mp4').write_text('not a video')
    with pytest.raises(SourceError, match='OpenCV reads no frame'):
        Video(tmp_path / 'text.mp4')


def small_drive(seed: int = 3) -> GeneratedDrive:
    segments = (
        Segment('clear', 'city street', 'daytime'),
        Segment('foggy', 'residential', 'daytime'),
    )
    return GeneratedDrive(seed, 96, 64, seconds=0.4, segments=segments)


def test_a_generated_drive_knows_everything_about_itself(tmp_path):
    write_drive(small_drive(), tmp_path / 'drive', quiet)

    with DriveBag(tmp_path / 'drive') as bag:
        frames = list(bag.frames())
        assert '/camera/camera_info' in [item.topic for item in bag.connections]
    truths = [frame.truth() for frame in frames]
    assert [truth.labels['weather'] for truth in truths] == ['clear'] * 2 + ['foggy'] * 2
    assert all(truth.boxes is not None for truth in truths)
    assert all(truth.masks['semantic'].shape == (64, 96) for truth in truths)
    assert all(truth.masks.keys() == {'drivable', 'semantic'} for truth in truths)
    assert generated_config(tmp_path / 'drive')['seed'] == 3


def test_the_same_drive_is_not_rendered_twice(tmp_path):
    def broken(done: int) -> None:
        raise AssertionError('rendered again')

    assert not write_drive(small_drive(), tmp_path / 'drive', quiet)
    before = (tmp_path / 'drive' / 'drive.mcap').read_bytes()

    assert write_drive(small_drive(), tmp_path / 'drive', broken)
    assert not write_drive(small_drive(seed=4), tmp_path / 'drive', quiet)
    assert (tmp_path / 'drive' / 'drive.mcap').read_bytes() != before
    assert not write_drive(small_drive(), tmp_path / 'drive', quiet)
    assert (tmp_path / 'drive' / 'drive.mcap').read_bytes() == before


def test_bags_of_others_are_not_generated_drives(tmp_path):
    write_drive(ImageFolder(bdd_folder(tmp_path)), tmp_path / 'drive', quiet)

    assert generated_config(tmp_path / 'drive') is None
    assert generated_config(tmp_path) is None


def test_sources_can_begin_in_the_middle(tmp_path):
    path = tmp_path / 'drive.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 20, (32, 24))
    for value in range(5):
        writer.write(np.full((24, 32, 3), value * 40, np.uint8))
    writer.release()

    for source in (Video(path, limit=4), ImageFolder(bdd_folder(tmp_path)), small_drive()):
        whole, rest = list(source.frames_from(0)), list(source.frames_from(2))
        assert len(whole) == source.frames
        assert [frame.time_s for frame in rest] == [frame.time_s for frame in whole[2:]]
        assert [frame.name for frame in rest] == [frame.name for frame in whole[2:]]
        for found, expected in zip(rest, whole[2:], strict=True):
            assert found.image.data == expected.image.data
            np.testing.assert_array_equal(found.image.pixels, expected.image.pixels)


def test_what_differs_has_another_identity(tmp_path):
    folder = bdd_folder(tmp_path)
    first = ImageFolder(folder).identity

    assert ImageFolder(folder).identity == first
    assert ImageFolder(folder, rate_hz=5).identity != first
    assert ImageFolder(folder, '*.jpg').identity != first
    (folder / 'a.jpg').write_bytes(b'other')
    assert ImageFolder(folder).identity != first


def test_a_split_of_a_data_set_takes_every_folder_of_images(tmp_path):
    bdd_folder(tmp_path)
    more = tmp_path / 'images' / '10k' / 'val'
    more.mkdir(parents=True)
    cv2.imwrite(str(more / 'bb.jpg'), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(more / 'a.jpg'), np.zeros((8, 8, 3), np.uint8))

    source = DatasetSplit(tmp_path, 'val')

    assert [path.name for path in source.paths] == ['a.jpg', 'b.jpg', 'bb.jpg', 'c.png']
    assert [bool(frame.truth) for frame in source.frames_from(0)] == [True, True, False, True]
    assert DatasetSplit(tmp_path, 'val', '*.png').frames == 1
    with pytest.raises(SourceError, match='--split may be val'):
        DatasetSplit(tmp_path, 'train')
    with pytest.raises(SourceError, match='Give the folder that holds images/'):
        DatasetSplit(tmp_path / 'nothing', 'val')


def test_two_images_of_one_name_in_a_split_are_refused(tmp_path):
    folder = tmp_path / 'images/100k/val'
    for number, drive in enumerate(('drive1', 'drive2')):
        (folder / drive).mkdir(parents=True)
        cv2.imwrite(str(folder / drive / '000.png'), np.full((8, 8, 3), number, np.uint8))
    with pytest.raises(SourceError, match=r'drive2/000\.png and .*drive1/000\.png have the same'):
        DatasetSplit(tmp_path, 'val')
    (folder / 'drive2/000.png').write_bytes((folder / 'drive1/000.png').read_bytes())
    assert DatasetSplit(tmp_path, 'val').frames == 1, 'copies of one file are one image'


def write_image(path, suffix=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(suffix or path.suffix, np.zeros((8, 12, 3), np.uint8))
    assert ok
    path.write_bytes(data.tobytes())


def test_images_come_in_natural_order_also_from_folders_below(tmp_path):
    for name in ('2.jpg', '10.jpg', 'b/1.png', 'a/frame_2.bmp', 'a/frame_10.webp', '.hidden/0.jpg'):
        write_image(tmp_path / name)

    source = ImageFolder(tmp_path)

    names = [frame.name for frame in source.frames_from(0)]
    assert names == ['2.jpg', '10.jpg', 'frame_2.bmp', 'frame_10.webp', '1.png']


def test_equal_names_in_several_folders_stay_apart(tmp_path):
    for name in ('front/1.jpg', 'rear/1.jpg', 'rear/2.jpg'):
        write_image(tmp_path / name)

    names = [frame.name for frame in ImageFolder(tmp_path).frames_from(0)]

    assert names == ['front/1.jpg', 'rear/1.jpg', '2.jpg']


def test_what_is_no_image_is_left_out_and_said(tmp_path):
    write_image(tmp_path / '0.jpg')
    write_image(tmp_path / '1.jpg', '.png')  # a PNG by another name
    (tmp_path / 'thumbs.jpg').mkdir()
    (tmp_path / 'page.jpg').write_text('<html>404</html>')
    (tmp_path / 'notes.txt').write_text('x')

    source = ImageFolder(tmp_path)

    assert [frame.image.format for frame in source.frames_from(0)] == ['jpeg', 'png']
    assert "no images and left out: ['page.jpg']" in source.description
    assert '1 other files are left out' in source.description


class VariableVideo:
    """A capture of six frames at 30 Hz, then one each second."""

    def __init__(self, name):
        self.times = [index / 30 for index in range(6)] + [1.2, 2.2, 3.2]
        self.at = -1

    def grab(self):
        self.at += 1
        return self.at < len(self.times)

    def retrieve(self):
        return True, np.zeros((8, 12, 3), np.uint8)

    def read(self):
        return self.grab(), np.zeros((8, 12, 3), np.uint8)

    def get(self, what):
        return {
            cv2.CAP_PROP_FPS: 2.5, cv2.CAP_PROP_FRAME_COUNT: len(self.times),
            cv2.CAP_PROP_POS_MSEC: 1e3 * self.times[min(self.at, len(self.times) - 1)],
        }[what]  # fmt: skip

    def release(self):
        pass


def test_a_video_of_variable_rate_keeps_its_own_times(tmp_path, monkeypatch, caplog):
    (tmp_path / 'x.mp4').write_bytes(b'x')
    monkeypatch.setattr(cv2, 'VideoCapture', VariableVideo)
    video = Video(tmp_path / 'x.mp4')

    times = [frame.time_s for frame in video.frames_from(0)]

    assert times == pytest.approx(VariableVideo('').times)
    assert [frame.time_s for frame in video.frames_from(7)] == pytest.approx([2.2, 3.2])
    assert 'variable frame rate' in caplog.text
