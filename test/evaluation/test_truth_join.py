# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Ground truth from files: which labels a frame gets, what is left over, what cannot be joined."""

from __future__ import annotations

import json

import numpy as np
import pytest
from drive_bags import SECOND, START, TRUTH, picture
from PIL import Image

from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.bags.truth_join import JoinedBag, truth_content
from mtl_evaluation.messages.cdr import BagError
from mtl_evaluation.truth.label_files import LabelError
from mtl_evaluation.truth.truth import Truth
from mtl_evaluation.truth.truth_files import TruthFiles, stamp_in

MS = 1_000_000
BOX = {'x1': 1, 'y1': 2, 'x2': 5, 'y2': 4}


def named_bag(path, names=('a.jpg', 'b.jpg', 'c.jpg'), step_ms=100, **options):
    """Frames with names, which say something else than the files will."""
    with DriveWriter(path, **options) as writer:
        for index, name in enumerate(names):
            stamp = START + index * step_ms * MS
            writer.write_frame(stamp, EncodedImage(picture(index)), TRUTH, name=name)
    return path


def scalabel(path, frames):
    path.write_text(json.dumps(frames))
    return path


def frame(name, category='car', **more):
    return {'name': name, 'labels': [{'category': category, 'box2d': BOX}], **more}


def mask(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8), value, np.uint8)).save(path)


def joined(bag, paths, *args, **options):
    """Classes of the boxes of every frame (None: unlabelled) and the joined bag."""
    drive = JoinedBag(bag, TruthFiles(paths), *args, **options)
    truths = [item.truth() for item in drive.frames()]
    return [truth.boxes and truth.boxes.classes for truth in truths], drive


def test_by_name_and_what_is_left_over_is_listed(tmp_path):
    named_bag(tmp_path / 'bag')
    labels = [frame('c.jpg', 'bus'), frame('a.jpg', 'person'), frame('other.jpg')]
    labels[0]['attributes'] = {'weather': 'rainy', 'scene': 'undefined'}
    scalabel(tmp_path / 'labels.json', labels)

    with GuardedBag(tmp_path / 'bag') as bag:
        found, drive = joined(bag, [tmp_path / 'labels.json'])
        frames = list(drive.frames())

    assert drive.join == 'name'
    assert found == [('pedestrian',), None, ('bus',)]
    assert drive.unmatched_frames.first == ['frame 1 of /camera/image_raw (b.jpg)']
    assert drive.unmatched_truth.first == ['other']
    assert frames[2].truth().labels == {'weather': 'rainy'}
    assert int(frames[2].image().pixels[0, 0, 0]) == 2
    assert (drive.frames_total, drive.cameras, drive.image.topic) == (
        3, bag.cameras, '/camera/image_raw',
    )  # fmt: skip


def test_several_cameras_by_name(tmp_path):
    with DriveWriter(tmp_path / 'bag', cameras=('front', 'rear')) as writer:
        for camera in ('front', 'rear'):
            image = EncodedImage(picture())
            writer.write_frame(START, image, Truth(), None, f'{camera}.png', camera)
    scalabel(tmp_path / 'labels.json', [frame('rear.jpg', 'bus'), frame('front.jpg')])

    with DriveBag(tmp_path / 'bag') as bag:
        assert joined(bag, [tmp_path / 'labels.json'])[0] == [('car',), ('bus',)]
        for join in ('stamp', 'index'):
            with pytest.raises(BagError, match=r'not clear which of the cameras .* --topic'):
                joined(bag, [tmp_path / 'labels.json'], join)


def test_by_stamp_within_the_tolerance(tmp_path):
    named_bag(tmp_path / 'bag', names=('', '', ''))
    names = [START + 100 * MS + 900_000, START - 1_100_000, START + 200 * MS]
    labels = [frame(f'{names[0]}.jpg', 'bus'), frame(f'{names[1]}.jpg', 'truck')]
    labels.append(frame('x.jpg', timestamp=names[2] / MS))
    scalabel(tmp_path / 'labels.json', labels)

    with DriveBag(tmp_path / 'bag') as bag:
        found, drive = joined(bag, [tmp_path / 'labels.json'])
        assert drive.join == 'stamp'
        assert found == [None, ('bus',), ('car',)]
        assert drive.unmatched_frames.first == [
            f'frame 0 of /camera/image_raw ({START // SECOND}.000000000 s)'
        ]
        assert drive.unmatched_truth.first == [str(names[1])]
        found, _ = joined(bag, [tmp_path / 'labels.json'], 'stamp', 1.2)
        assert found == [('truck',), ('bus',), ('car',)]


def test_labels_are_used_once_by_the_nearest_frame(tmp_path):
    named_bag(tmp_path / 'bag', step_ms=10)
    for near, expected in ((9, [None, ('car',), None]), (4, [('car',), None, None])):
        scalabel(tmp_path / 'labels.json', [frame(f'{START + near * MS}.png')])
        with DriveBag(tmp_path / 'bag') as bag:
            found, drive = joined(bag, [tmp_path / 'labels.json'], 'stamp', 30)
        assert found == expected
        assert (drive.unmatched_frames.count, drive.unmatched_truth.count) == (2, 0)


def test_by_order_only_where_it_is_asked_for(tmp_path):
    named_bag(tmp_path / 'bag', names=('', '', ''))
    scalabel(tmp_path / 'labels.json', [frame('x.jpg', 'bus'), frame('y.jpg')])

    with DriveBag(tmp_path / 'bag') as bag:
        with pytest.raises(BagError, match='--truth-join index if the order is the same'):
            joined(bag, [tmp_path / 'labels.json'])
        with pytest.raises(BagError, match=r'does not say the names .* \(no /camera/image_name\)'):
            joined(bag, [tmp_path / 'labels.json'], 'name')
        found, drive = joined(bag, [tmp_path / 'labels.json'], 'index')

    assert found == [('bus',), ('car',), None]
    assert drive.unmatched_frames.count == 1


def test_no_overlap_names_both_ranges(tmp_path):
    named_bag(tmp_path / 'bag')
    late = [START + 60 * SECOND, START + 61 * SECOND]
    scalabel(tmp_path / 'late.json', [frame(f'{stamp}.jpg') for stamp in late])
    scalabel(tmp_path / 'near.json', [frame(f'{START + 50 * MS}.jpg')])
    scalabel(tmp_path / 'names.json', [frame('x.jpg'), frame('y.jpg')])

    with DriveBag(tmp_path / 'bag') as bag:
        with pytest.raises(
            BagError,
            match=r'no frame in common \(by stamp within 1 ms\): the frames are 1700000000\.0+ s '
            r'to 1700000000\.2\d+ s, the labels 1700000060\.0+ s to 1700000061\.0+ s',
        ):  # before any frame is read
            JoinedBag(bag, TruthFiles([tmp_path / 'late.json']), 'stamp')
        with pytest.raises(BagError, match='no frame in common'):
            joined(bag, [tmp_path / 'near.json'], 'stamp')
        with pytest.raises(BagError, match=r'the frames are a\.jpg to c\.jpg, the labels x to y'):
            joined(bag, [tmp_path / 'names.json'])


def test_a_recorder_with_another_clock_is_no_reason_to_refuse(tmp_path):
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth())
    scalabel(tmp_path / 'labels.json', [frame(f'{START + 7 * 86400 * SECOND}.jpg')])

    with DriveBag(tmp_path / 'bag') as bag:
        bag.stamps = lambda: [START + 7 * 86400 * SECOND]  # header stamps a week off the log times
        JoinedBag(bag, TruthFiles([tmp_path / 'labels.json']), 'stamp')


def test_the_older_form_coco_and_masks_say_the_same(tmp_path):
    named_bag(tmp_path / 'bag', names=('a.jpg', 'b.jpg'))
    older = tmp_path / 'older'
    older.mkdir()
    labels = [{'category': 'bus', 'box2d': BOX}]
    (older / 'a.json').write_text(
        json.dumps(
            {
                'name': 'a',
                'attributes': {'weather': 'clear'},
                'frames': [{'timestamp': 10000, 'objects': labels}],
            }
        )
    )
    coco = {
        'images': [{'id': 3, 'file_name': 'a.jpg', 'width': 8, 'height': 6}],
        'categories': [{'id': 1, 'name': 'bus'}, {'id': 2, 'name': 'person'}],
        'annotations': [
            {'image_id': 3, 'category_id': 1, 'bbox': [1, 2, 4, 2]},
            {'image_id': 3, 'category_id': 2, 'bbox': [1, 2, 4, 2], 'iscrowd': 1},
        ],
    }
    scalabel(tmp_path / 'coco.json', coco)
    mask(tmp_path / 'masks' / 'semantic' / 'b.png', 13)
    mask(tmp_path / 'bdd' / 'labels' / 'drivable' / 'masks' / 'val' / 'b.png', 1)
    val = tmp_path / 'bdd' / 'labels' / 'bdd100k_labels_images_val.json'
    scalabel(val, [frame('a.jpg', 'bus')])

    with DriveBag(tmp_path / 'bag') as bag:
        found, drive = joined(bag, [older, tmp_path / 'masks'])
        assert found == [('bus',), None]
        truths = [item.truth() for item in drive.frames()]
        assert truths[0].labels == {'weather': 'clear'}
        assert np.unique(truths[1].masks['semantic']).tolist() == [13]

        drive = JoinedBag(bag, TruthFiles([tmp_path / 'coco.json']))
        truth, _ = [item.truth() for item in drive.frames()]
        assert truth.boxes.classes == ('bus', 'pedestrian')
        assert truth.boxes.ignore.tolist() == [False, True]

        for root in (tmp_path / 'bdd', tmp_path / 'bdd' / 'labels'):
            found, drive = joined(bag, [root])
            assert found == [('bus',), None]
            assert np.unique(list(drive.frames())[1].truth().masks['drivable']).tolist() == [1]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{', 'not readable JSON'),
        ('[]', 'no labels found'),
        ('{"a": 1}', 'expected Scalabel frames'),
        (json.dumps([frame('a.jpg', 'Auto'), frame('b.jpg', 'LKW')]), 'names classes Auto, LKW; '
         'detection has pedestrian, rider'),
        (json.dumps([frame('a.jpg'), frame('sub/a.png')]), 'has labels already'),
        ('[{"name": "a", "timestamp": NaN, "labels": []}]', 'malformed labels'),
        ('[{"name": "a", "labels": 5}]', '`labels` of a is of type int'),
    ],
)  # fmt: skip
def test_bad_label_files(tmp_path, content, message):
    (tmp_path / 'labels.json').write_text(content)

    with pytest.raises(LabelError, match=message) as raised:
        TruthFiles([tmp_path / 'labels.json'])
    assert str(tmp_path / 'labels.json') in str(raised.value)


def test_the_hash_of_labels_depends_on_all_that_they_say(tmp_path):
    def content():
        return truth_content(TruthFiles([tmp_path / 'labels.json', tmp_path / 'masks']))

    scalabel(tmp_path / 'labels.json', [frame('a.jpg')])
    mask(tmp_path / 'masks' / 'semantic' / 'b.png', 1)
    first = content()
    assert first.names == ('a', 'b') and content() == first

    mask(tmp_path / 'masks' / 'semantic' / 'b.png', 2)
    second = content()
    scalabel(tmp_path / 'labels.json', [frame('a.jpg', 'bus')])

    assert len({first.sha256, second.sha256, content().sha256}) == 3


def test_bad_label_folders_and_labels(tmp_path):
    with pytest.raises(LabelError, match='nothing is there'):
        TruthFiles([tmp_path / 'none'])
    mask(tmp_path / 'somewhere.png', 1)
    with pytest.raises(LabelError, match=r'no labels found; expected a JSON file, a gt.txt'):
        TruthFiles([tmp_path])

    for place in ('a', 'b'):
        mask(tmp_path / 'twice' / 'drivable' / place / '0001.png', 1)
    with pytest.raises(LabelError, match="are both masks of a frame '0001'"):
        TruthFiles([tmp_path / 'twice'])

    box = {'x1': 'left', 'y1': 2, 'x2': 3, 'y2': 4}
    scalabel(
        tmp_path / 'x.json', [{'name': 'a.jpg', 'labels': [{'category': 'car', 'box2d': box}]}]
    )
    with pytest.raises(LabelError, match=r'malformed label of a\.jpg'):
        TruthFiles([tmp_path / 'x.json']).entries[0].truth()


@pytest.mark.parametrize(
    ('name', 'stamp'),
    [
        ('1700000000000000001', START + 1),
        ('1700000000.5', START + SECOND // 2),
        ('1700000000.000000001', START + 1),
        ('camvid_0016E5_07959', None),
        ('20240101', None),
        ('0000f77c-6257be58', None),
    ],
)
def test_names_that_are_times(name, stamp):
    assert stamp_in(name) == stamp
