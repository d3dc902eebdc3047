# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Label files as people have them: text for numbers, images listed twice, ids that repeat."""

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_data import frame, picture, put, put_json

from mtl_evaluation.truth.label_files import LabelError, flag, number, scalabel_frames
from mtl_evaluation.truth.labels import FolderLabels, read_mask, truth_boxes


def coco(*, images=(), annotations=(), categories=({'id': 1, 'name': 'car'},)) -> dict:
    return {
        'images': [{'width': 64, 'height': 48, **image} for image in images],
        'annotations': [
            {'category_id': 1, 'bbox': [10, 20, 30, 5], **annotation} for annotation in annotations
        ],
        'categories': list(categories),
    }


def box(*corners, **attributes) -> dict:
    corners = dict(zip(('x1', 'y1', 'x2', 'y2'), corners, strict=True))
    return {'category': 'car', 'box2d': corners, 'attributes': attributes}


ONE = {'id': 1, 'file_name': 'a.jpg'}


def test_numbers_may_be_text_in_coco(tmp_path):
    data = coco(
        images=[{**ONE, 'width': '64', 'height': '48'}],
        annotations=[{'image_id': '1', 'bbox': ['10', '20', '30.5', '5'], 'iscrowd': '0'}],
        categories=[{'id': 1.0, 'name': 'car'}],
    )
    (found,) = scalabel_frames(put_json(tmp_path / 'coco.json', data))
    assert found['size'] == {'width': 64, 'height': 48}
    (label,) = found['labels']
    assert label['box2d'] == {'x1': 10, 'y1': 20, 'x2': 40.5, 'y2': 25}
    assert label['attributes'] == {'crowd': False}


def test_numbers_and_flags_may_be_text_in_scalabel():
    labels = [
        box('10', '20', '40', '25', crowd='false'),
        box(1, 2, 3, 4, crowd='True', suspectMerged=None),
    ]
    found = truth_boxes(labels)
    assert found.boxes.tolist() == [[10, 20, 40, 25], [1, 2, 3, 4]]
    assert found.ignore.tolist() == [False, True]


@pytest.mark.parametrize('value', [None, True, [1], 'wide', {}])
def test_what_is_no_number_is_refused(tmp_path, value):
    with pytest.raises(ValueError):
        number(value)
    with pytest.raises(ValueError):
        truth_boxes([box(1, 2, value, 4)])
    data = coco(images=[ONE], annotations=[{'image_id': 1, 'bbox': [1, 2, value, 4]}])
    with pytest.raises(LabelError, match=r'labels\.json: COCO file with a malformed entry'):
        scalabel_frames(put_json(tmp_path / 'labels.json', data))


def test_a_flag_that_says_neither_is_refused():
    assert [flag(value) for value in (None, 0, 1, '', 'no', 'YES')] == [False] * 2 + [
        True, False, False, True,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="'maybe' is neither"):
        flag('maybe')


@pytest.mark.parametrize('form', ['coco', 'scalabel', 'files'])
def test_an_image_listed_twice_keeps_all_of_its_boxes(tmp_path, form, caplog):
    first, second = box(10, 20, 40, 25), box(1, 2, 3, 4)
    if form == 'coco':
        data = coco(
            images=[ONE, {'id': 9, 'file_name': 'a.jpg'}],
            annotations=[
                {'image_id': 1}, {'image_id': 9, 'bbox': [1, 2, 2, 2]}, {'image_id': 9},
            ],
        )  # fmt: skip
        path = put_json(tmp_path / 'labels.json', data)
    elif form == 'scalabel':
        frames = [frame('a.jpg', first, weather='undefined'), frame('b.jpg'),
                  frame('a.jpg', second, first, weather='rainy')]  # fmt: skip
        path = put_json(tmp_path / 'labels.json', frames)
    else:
        path = tmp_path / 'train'
        for name, objects in (('x', [first]), ('y', [second, first])):
            one = {'name': 'a', 'attributes': {}, 'frames': [{'objects': objects}]}
            put_json(path / f'{name}.json', one)
    found = {each['name']: each for each in scalabel_frames(path)}
    assert [label['box2d']['x1'] for label in found['a.jpg']['labels']] == [10, 1]
    assert found['a.jpg']['listed'] == 2
    assert 'lists 1 images more than once; the labels of a.jpg' in caplog.text
    if form == 'scalabel':
        assert found['a.jpg']['attributes'] == {'weather': 'rainy'}
        assert 'listed' not in found['b.jpg']


@pytest.mark.parametrize(
    ('other', 'message'),
    [
        ({'videoName': 'drive2'}, r"with videoName None and 'drive2'.*drive1/000001\.jpg"),
        ({'size': {'width': 1, 'height': 1}}, 'with size None and'),
        ({'attributes': {'weather': 'clear'}}, "with weather 'rainy' and 'clear'"),
    ],
)
def test_entries_of_one_image_that_contradict_each_other_are_refused(tmp_path, other, message):
    frames = [frame('a.jpg', weather='rainy'), {**frame('a.jpg'), **other}]
    with pytest.raises(LabelError, match=rf'labels\.json lists a\.jpg twice, {message}'):
        scalabel_frames(put_json(tmp_path / 'labels.json', frames))


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (coco(images=[ONE, {'id': '1', 'file_name': 'b.jpg'}]), r"image id 1 is of 'a\.jpg' and"),
        (
            coco(images=[ONE], categories=[{'id': 1, 'name': 'car'}, {'id': 1, 'name': 'bus'}]),
            "category id 1 is of 'car' and of 'bus'",
        ),
    ],
)
def test_ids_that_repeat_in_a_joined_export_are_refused(tmp_path, data, message):
    with pytest.raises(LabelError, match=f'{message}.*number them anew'):
        scalabel_frames(put_json(tmp_path / 'labels.json', data))


def test_frames_without_labels_have_an_empty_list(tmp_path):
    data = {'frames': [{'name': 'a.jpg'}, {'name': 'b.jpg', 'labels': None}]}
    found = scalabel_frames(put_json(tmp_path / 'labels.json', data))
    assert [each['labels'] for each in found] == [[], []]
    data['frames'][0]['labels'] = {'category': 'car'}
    with pytest.raises(LabelError, match=r'`labels` of a\.jpg is of type dict'):
        scalabel_frames(put_json(tmp_path / 'labels.json', data))


def test_deeply_nested_json_is_refused(tmp_path):
    path = tmp_path / 'labels.json'
    path.write_text('[' * 100_000)
    with pytest.raises(LabelError, match='not readable JSON'):
        scalabel_frames(path)


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_grey_masks_of_few_bits_hold_ids(tmp_path, bits):
    ids = np.arange(2**bits, dtype=np.uint8)[None].repeat(2, 0)
    path = tmp_path / 'mask.png'
    if bits in (1, 8):
        Image.fromarray(ids.astype(bool) if bits == 1 else ids).save(path)
    else:
        _write_png(path, ids, bits)
    assert (read_mask(path) == ids).all()


def _write_png(path, ids, bits):
    """Pillow writes no grey of 2 or 4 bits."""
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))

    rows = b''
    for row in ids:
        packed = np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()
        rows += b'\0' + np.packbits(packed).tobytes()
    head = struct.pack('>IIBBBBB', ids.shape[1], ids.shape[0], bits, 0, 0, 0, 0)
    data = chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + data)


def test_labels_of_a_name_that_two_images_have_are_refused(tmp_path):
    images = [put(tmp_path / f'images/100k/val/drive{i}/000.jpg', picture(i)) for i in (1, 2)]
    FolderLabels(images)  # without labels nothing is ambiguous
    put_json(tmp_path / 'labels/det_20/det_val.json', [frame('000.jpg')])
    with pytest.raises(LabelError, match=r'drive2/000\.jpg and .*drive1/000\.jpg have the same'):
        FolderLabels(images)


def test_masks_of_many_modes_are_refused_with_a_sentence(tmp_path):
    path = tmp_path / 'mask.png'
    cv2.imwrite(str(path), np.zeros((4, 4), np.uint16))
    with pytest.raises(LabelError, match='expected a palette or grey PNG of class ids'):
        read_mask(path)
