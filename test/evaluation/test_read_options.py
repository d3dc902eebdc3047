# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Truth that is called otherwise, stamped a little beside its image, or left out."""

from __future__ import annotations

import numpy as np
import pytest
from drive_bags import SECOND, START, header, image_cdr, make_bag

from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_writer import MessageWriter
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.bags.read_options import ReadOptions
from mtl_evaluation.messages.cdr import (
    DETECTIONS,
    IMAGE,
    BagError,
    detection_message,
    serialise,
    typestore,
)
from mtl_evaluation.truth.class_mapping import ClassMapping, MappingError
from mtl_evaluation.truth.truth import Truth, TruthBoxes
from mtl_perception.tasks import SEMANTIC

BOXES = '/ground_truth/detections'


def bag_with_shifted_truth(path, shift_ns, name='car'):
    """Three frames, each with one box whose message is stamped so much later."""
    with MessageWriter(path) as writer:
        for index in range(3):
            stamp = START + index * SECOND // 10
            writer.write('/camera/image_raw', IMAGE, stamp, image_cdr(stamp))
            box = detection_message(header(stamp), [1.0, 1.0, 4.0, 4.0], name, 1.0)
            found = typestore().types[DETECTIONS](header(stamp + shift_ns), [box])
            writer.write(BOXES, DETECTIONS, stamp, serialise(found))
    return path


def labelled(path, **options):
    with GuardedBag(path, options=ReadOptions(**options)) as bag:
        frames = [frame.truth().boxes is not None for frame in bag.frames()]
        return frames, bag.unmatched_truth.count


@pytest.mark.parametrize('shift_ns', [0, 1000, -1000, 900_000])
def test_truth_within_the_tolerance_belongs_to_its_image(tmp_path, shift_ns):
    path = bag_with_shifted_truth(tmp_path / 'bag', shift_ns)

    assert labelled(path) == ([True] * 3, 0)


def test_truth_beyond_the_tolerance_is_counted(tmp_path):
    path = bag_with_shifted_truth(tmp_path / 'bag', 5_000_000)

    assert labelled(path) == ([False] * 3, 3)
    assert labelled(path, tolerance_ms=10.0) == ([True] * 3, 0)
    assert labelled(bag_with_shifted_truth(tmp_path / 'near', 1000), tolerance_ms=0.0)[1] == 3


def test_a_topic_that_is_ignored_is_not_there(tmp_path):
    path = bag_with_shifted_truth(tmp_path / 'bag', 0)

    assert labelled(path, ignored=(BOXES,)) == ([False] * 3, 0)


def test_a_definition_that_differs_names_the_way_out(tmp_path, monkeypatch):
    """Also where only the text of it is stored, as in an mcap file without its folder."""
    path = bag_with_shifted_truth(tmp_path / 'bag', 0)
    real = type(typestore()).hash_rihs01
    ours = typestore()

    def differs(store, name):
        """Ours has other fields than what was recorded."""
        return 'RIHS01_other' if store is ours and name == DETECTIONS else real(store, name)

    monkeypatch.setattr(type(ours), 'hash_rihs01', differs)

    for file in (path, path / 'bag.mcap'):
        with pytest.raises(BagError, match=f'another definition.*--ignore-topic {BOXES}'):
            DriveBag(file)
        with DriveBag(file, options=ReadOptions(ignored=(BOXES,))) as bag:
            assert len(list(bag.frames())) == 3


@pytest.mark.parametrize(('name', 'mapping'), [('Auto', {'Auto': 'car'}), ('3', {'3': 'car'})])
def test_classes_that_are_called_otherwise_become_ours(tmp_path, name, mapping):
    path = bag_with_shifted_truth(tmp_path / 'bag', 0, name)

    with GuardedBag(path, options=ReadOptions(classes=mapping)) as bag:
        assert [frame.truth().boxes.classes for frame in bag.frames()] == [('car',)] * 3


def test_boxes_masks_and_labels_are_mapped():
    mapping = ClassMapping.of('kegel=,Auto=car,nebel=foggy,semantic:7=road,semantic:8=')
    boxes = TruthBoxes(np.zeros((3, 4), np.float32), ('Auto', 'kegel', 'bus'), np.zeros(3, bool))
    mask = np.array([[7, 8, 0, 255]], np.uint8)

    found = mapping(Truth(boxes, {'semantic': mask, 'drivable': mask}, {'weather': 'nebel'}))

    assert found.boxes.classes[::2] == ('car', 'bus')
    assert found.boxes.ignore.tolist() == [False, True, False]
    assert found.masks['semantic'].tolist() == [[SEMANTIC.classes.index('road'), 255, 0, 255]]
    assert found.masks['drivable'].tolist() == [[7, 8, 0, 255]]
    assert found.labels == {'weather': 'foggy'}


def test_a_mapping_may_be_a_file(tmp_path):
    (tmp_path / 'classes.yaml').write_text('Auto: car\n3: bus\nkegel:\nsemantic:7: road\n')

    mapping = ClassMapping.of(str(tmp_path / 'classes.yaml'))

    assert mapping.names == {'Auto': 'car', '3': 'bus', 'kegel': '', 'semantic:7': 'road'}
    assert mapping.tasks() == {'semantic'}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('nothing.yaml', 'No such file'),
        ('semantic:7=elephant', 'expected'),
        ('=car', 'without a name'),
        ('a=car,a=bus', 'one twice'),
    ],
)
def test_a_mapping_that_is_none_is_one_sentence(text, message):
    with pytest.raises(MappingError, match=message):
        ClassMapping.of(text)


def test_depth_and_infrared_beside_a_colour_camera_are_left_out(tmp_path):
    names = ('color/image_raw', 'depth/image_rect_raw', 'infra1/image_rect_raw',
             'aligned_depth_to_color/image_raw')  # fmt: skip
    with MessageWriter(tmp_path / 'bag') as writer:
        for name in names:
            writer.write(f'/camera/{name}', IMAGE, START, image_cdr(START))

    with DriveBag(tmp_path / 'bag') as bag:
        assert [camera.topic for camera in bag.cameras] == ['/camera/color/image_raw']
        (note,) = bag.info.notes
        assert 'left out' in note and all(f'/camera/{name}' in note for name in names[1:])
    with DriveBag(tmp_path / 'bag', '/camera/infra1/image_rect_raw') as bag:
        assert bag.image.topic == '/camera/infra1/image_rect_raw'
        assert not bag.info.notes


def test_a_lone_infrared_camera_is_read(tmp_path):
    with MessageWriter(tmp_path / 'bag') as writer:
        writer.write('/thermal/image_raw', IMAGE, START, image_cdr(START))

    with DriveBag(tmp_path / 'bag') as bag:
        assert bag.image.topic == '/thermal/image_raw'


def test_what_is_read_by_default_is_as_before(tmp_path):
    with DriveBag(make_bag(tmp_path / 'bag')) as bag:
        assert all(frame.truth().boxes is not None for frame in bag.frames())
