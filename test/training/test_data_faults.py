# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Data that used to be lost or misread without a word: names, codings, values, folders."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_data import CAR, HEIGHT, WIDTH, frame, picture, put, put_json, write_layout

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_perception.tasks import DRIVABLE
from training.data import check, to_masks
from training.data.layout import CocoConfig, Layout, LayoutConfig, MaskConfig
from training.data.nyuv2 import read_depth, read_image, read_labels, read_normals
from training.data.pictures import read_picture
from training.data.sample import DatasetError

AREA = {
    'category': 'drivable area', 'attributes': {'areaType': 'direct'}, 'id': 5,
    'poly2d': [{'vertices': [[0, 47], [32, 20], [63, 47]], 'types': 'LLL', 'closed': True}],
}  # fmt: skip


def layout(root: Path, split: str = 'train', **config) -> Layout:
    return Layout(LayoutConfig('t', str(root), **config), split)


def found(root: Path, capsys) -> tuple[int, str]:
    """Exit code and print of `check`."""
    code = check.main([str(root), '--workers', '1'])
    return code, ' '.join(capsys.readouterr().out.split())


def masks(root: Path, kind: str, values: np.ndarray, count: int = 3) -> None:
    for index in range(count):
        put(root / f'labels/{kind}/masks/train/frame_{index}.png', values)


# Names


def test_two_images_of_one_name_are_refused_and_found(tmp_path, capsys):
    for number, folder in enumerate(('drive1', 'drive2')):
        put(tmp_path / f'images/100k/train/{folder}/000.jpg', picture(number))
    message = r'drive2/000\.jpg and .*drive1/000\.jpg have the same name.*kind: coco'
    with pytest.raises(DatasetError, match=message):
        layout(tmp_path)
    code, text = found(tmp_path, capsys)
    assert code == 1 and 'have the same name' in text


def test_copies_of_an_image_count_once(tmp_path, caplog):
    for folder in ('', 'trainA/'):
        put(tmp_path / f'images/100k/train/{folder}000.jpg', picture(1))
    assert layout(tmp_path).names == ['000.jpg']
    assert '1 files are copies of others of the same name' in caplog.text


def test_two_masks_of_one_name_are_refused(tmp_path):
    root = write_layout(tmp_path)
    other = np.full((HEIGHT, WIDTH), 2, np.uint8)
    put(root / 'labels/drivable/masks/train/again/frame_0.png', other)
    with pytest.raises(DatasetError, match=r'frame_0\.png and .*frame_0\.png have the same name'):
        layout(root)


def test_a_mask_of_two_coco_images_is_refused(tmp_path):
    for suffix in ('jpg', 'png'):
        put(tmp_path / f'images/train/a.{suffix}', picture(1))
    put(tmp_path / 'masks/a.png', np.zeros((HEIGHT, WIDTH), np.uint8))
    config = CocoConfig(annotations='', masks={'drivable': MaskConfig('masks', {0: 'direct'})})
    with pytest.raises(DatasetError, match=r"any of the images \['a\.jpg', 'a\.png'\]"):
        layout(tmp_path, kind='coco', coco=config)


def test_masks_in_subfolders_are_read_as_images_are(tmp_path):
    root = write_layout(tmp_path)
    folder = root / 'labels/drivable/masks/train'
    (folder / 'drive1').mkdir()
    (folder / 'frame_0.png').rename(folder / 'drive1/frame_0.png')
    assert len(layout(root).masks['drivable'].paths) == 3


@pytest.mark.parametrize('kind', ['bdd100k', 'coco'])
def test_masks_that_belong_to_no_image_are_broken(tmp_path, capsys, kind, caplog):
    root = write_layout(tmp_path)
    folder = root / 'labels/drivable/masks/train'
    for path in folder.iterdir():
        path.rename(path.with_name(f'{path.stem}_mask.png'))
    coco = CocoConfig(
        'images/100k/{split}', '', masks={
            'drivable': MaskConfig('labels/drivable/masks/{split}', {0: 'direct', 2: 'background'})
        },
    )  # fmt: skip
    config = LayoutConfig('t', str(root), kind, coco=coco)
    hint = Layout(config, 'train').hints['drivable']
    assert hint.startswith('3 masks are there and none is named as an image; the first mask is')
    assert hint in caplog.text
    _, findings = check.check([config], 1)
    assert ('no drivable mask belongs to an image', True) in {(f.kind, f.broken) for f in findings}


def test_a_label_file_of_other_images_is_said(tmp_path, caplog):
    root = write_layout(tmp_path)
    put_json(root / 'labels/det_20/det_train.json', [frame('elsewhere.jpg', CAR)])
    hints = layout(root).hints
    assert '1 images are in the label file and none is there' in hints['detection']
    assert 'elsewhere.jpg' in caplog.text


def test_check_names_an_image_that_is_listed_twice_and_a_box_that_stands_twice(tmp_path, capsys):
    root = write_layout(tmp_path)
    frames = [frame('frame_0.jpg', CAR), frame('frame_0.jpg', {**CAR, 'id': '7'}),
              frame('frame_1.jpg', CAR, CAR)]  # fmt: skip
    put_json(root / 'labels/det_20/det_train.json', frames)
    code, text = found(root, capsys)
    assert code == 0
    assert 'image listed more than once: 1' in text and 'same box twice: 1' in text
    assert len(layout(root).boxes(0).labels) == 1


# Codings


def two_valued() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2 * HEIGHT // 3 :] = 255
    return mask


@pytest.mark.parametrize('kind', ['drivable', 'sem_seg', 'lane'])
def test_masks_of_0_and_255_are_refused(tmp_path, capsys, kind):
    root = write_layout(tmp_path)
    masks(root, kind, two_valued())
    with pytest.raises(DatasetError, match=r'hold 0 and 255 only.*drivable_maps.*coco'):
        layout(root)
    code, text = found(root, capsys)
    assert code == 1 and 'hold 0 and 255 only' in text


def test_lane_masks_with_crosswalks_alone_are_lane_masks(tmp_path):
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[40:44, 10:30] = 0
    root = write_layout(tmp_path)
    masks(root, 'lane', mask)
    lane = layout(root).load(0).masks['lane']
    assert (lane == 0).sum() == 80 and (lane == 1).sum() == lane.size - 80, '255 is no marking'


def test_ids_of_2018_under_the_name_of_2020_are_suspected(tmp_path, capsys, caplog):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)  # 0 background, 1 direct, 2 alternative
    mask[30:, 20:40], mask[30:, :20] = 1, 2
    root = write_layout(tmp_path)
    masks(root, 'drivable', mask)
    layout(root)
    assert 'most of the uppermost rows is road' in caplog.text
    code, text = found(root, capsys)
    assert code == 1 and 'drivable masks in another coding: 1' in text


def old_layout(root: Path, split: str, *, nested: bool) -> None:
    """Files as the zips of 2018 unpack; nested: in a folder for each zip, as Kaggle has them."""

    def place(zip_name: str, path: str) -> Path:
        return root / (f'{zip_name}/bdd100k' if nested else '.') / path

    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[30:, 20:40], ids[30:, :20] = 1, 2
    road = np.full((HEIGHT, WIDTH), 10, np.uint8)
    road[30:] = 0
    number = 100 * (split == 'val')
    put(place('bdd100k', f'images/100k/{split}/a.jpg'), picture(number))
    put(place('bdd100k_seg', f'seg/images/{split}/s.jpg'), picture(number + 1))
    put(place('bdd100k_seg', f'seg/labels/{split}/s_train_id.png'), road)
    maps = f'drivable_maps/labels/{split}/a_drivable_id.png'
    put(place('bdd100k_drivable_maps', maps), ids)
    labels = [frame('a.jpg', CAR, AREA, weather='clear')]
    boxes = f'labels/bdd100k_labels_images_{split}.json'
    put_json(place('bdd100k_labels_release', boxes), labels)


@pytest.mark.parametrize('nested', [False, True])
def test_folders_of_2018_and_of_kaggle_are_recognised(tmp_path, nested, capsys, caplog):
    for split in ('train', 'val'):
        old_layout(tmp_path, split, nested=nested)
    if nested:
        put(tmp_path / 'bdd100k/bdd100k/images/100k/train/testA/t.jpg', picture(7))
    data = layout(tmp_path)
    assert data.names == ['a.jpg', 's.jpg'], 'images of the test split are left out'
    assert nested == ('in folders of other splits' in caplog.text)
    first, second = data.load(0), data.load(1)
    names = [DRIVABLE.classes[value] for value in first.masks['drivable'][[0, 40, 40], [0, 30, 0]]]
    assert names == ['background', 'direct', 'alternative']
    assert set(np.unique(second.masks['semantic'])) == {0, 10}
    assert len(first.boxes['detection'].labels) == 1 and first.classes['weather'] == 2
    code, text = found(tmp_path, capsys)
    assert code == 0 and '0 broken' in text


def test_areas_of_2018_that_are_not_drawn_yet_name_the_command(tmp_path, capsys, caplog):
    put(tmp_path / 'images/100k/train/a.jpg', picture(1))
    labels = tmp_path / 'labels/bdd100k_labels_images_train.json'
    put_json(labels, [frame('a.jpg', CAR, AREA)])
    assert 'to_masks' in layout(tmp_path).hints['drivable']
    assert f'python -m training.data.to_masks {tmp_path}' in caplog.text
    assert 'lane' not in layout(tmp_path).hints
    code, text = found(tmp_path, capsys)
    assert code == 0 and 'drivable labels that are not read: 1' in text


@pytest.mark.parametrize('boxes', ['', 'labels/det_20/det_train.json'])
def test_to_masks_draws_areas_in_the_size_of_nested_images(tmp_path, boxes):
    """Also where the boxes of 2020 lie beside the label file of 2018."""
    put(tmp_path / 'images/100k/train/trainA/a.jpg', picture(1))
    put_json(tmp_path / 'labels/bdd100k_labels_images_train.json', [frame('a.jpg', AREA)])
    if boxes:
        put_json(tmp_path / boxes, [frame('a.jpg', CAR)])
        assert 'to_masks' in layout(tmp_path).hints['drivable']
    assert to_masks.main([str(tmp_path), '--tasks', 'drivable', '--workers', '1']) == 0
    assert (layout(tmp_path).load(0).masks['drivable'] == 0).any()


# Values


def test_12_bits_in_a_png_of_16_are_refused(tmp_path):
    path = tmp_path / 'raw.png'
    cv2.imwrite(str(path), picture(1).astype(np.uint16) * 257)
    assert abs(read_picture(path).astype(int) - picture(1)[..., ::-1]).max() <= 1
    cv2.imwrite(str(path), picture(1).astype(np.uint16) << 4)
    with pytest.raises(DatasetError, match=r'PNG of 16 bits with no value above \d+.* of 12 bits'):
        read_picture(path)


def saved(path: Path, values) -> Path:
    np.save(path, np.asarray(values))
    return path


def test_arrays_of_images_are_read_or_refused(tmp_path):
    path = tmp_path / '0.npy'
    image = picture(1)
    for values in (image, image.astype(np.int64), image.astype(np.float32) / 255):
        assert (read_image(saved(path, values)) == image).all()
    for values in (
        image.astype(np.float32), image / 255 - 0.5, np.where(image < 50, np.nan, image / 255),
        image.astype(np.int64) * 2,
    ):  # fmt: skip
        with pytest.raises(DatasetError, match=r'0\.npy: an image .*, found \w+ of '):
            read_image(saved(path, values))


def test_arrays_of_labels_are_read_or_refused(tmp_path):
    path = tmp_path / '0.npy'
    ids = np.array([[-1, 0], [12, 255]])
    for kind in (np.int64, np.float32):
        assert read_labels(saved(path, ids.astype(kind))).tolist() == [[255, 0], [12, 255]]
    for values in ([[0, np.nan]], [[0.0, 1.5]], [[0, 256]], [[0, np.inf]]):
        with pytest.raises(DatasetError, match=r'0\.npy: labels are'):
            read_labels(saved(path, values))


def test_depth_in_millimetres_and_pictures_of_normals_are_refused(tmp_path):
    path = tmp_path / '0.npy'
    assert read_depth(saved(path, [[2.5, np.nan, -1.0]])).tolist() == [[2.5, 0, 0]]
    with pytest.raises(DatasetError, match='depth is in metres, found float32 of 0 to 2500'):
        read_depth(saved(path, [[2500, 0]]))
    normals = np.array([[[0, 0, -1], [0, 0.6, -0.8], [0, 0, 0]]])
    assert np.allclose(read_normals(saved(path, normals)), normals)
    for coded in ((normals + 1) / 2, (normals + 1) * 127.5):
        with pytest.raises(DatasetError, match='normals are unit vectors'):
            read_normals(saved(path, coded))


@pytest.mark.parametrize('content', [b'', b'text', 'objects', 'archive', 'words'])
def test_files_that_hold_no_array_of_numbers_are_refused(tmp_path, content):
    path = tmp_path / '0.npy'
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == 'objects':
        np.save(path, np.array([{}], object))
    elif content == 'archive':
        with path.open('wb') as file:
            np.savez(file, a=np.zeros(3))
    else:
        np.save(path, np.array([['a']]))
    for read in (read_image, read_labels, read_depth, read_normals):
        with pytest.raises(DatasetError, match=r'0\.npy'):
            read(path)


def test_numbers_as_text_and_lists_without_labels_train(tmp_path):
    """The whole way, in both label forms that `kind: coco` takes."""
    put(tmp_path / 'frames/train/a.jpg', picture(1))
    put(tmp_path / 'frames/train/b.jpg', picture(2))
    corners = {'x1': '8', 'y1': '8', 'x2': '40', 'y2': '32'}
    frames = [frame('a.jpg', {**CAR, 'box2d': corners}), {'name': 'b.jpg'}]
    put_json(tmp_path / 'train.json', {'frames': frames, 'config': {}})
    config = CocoConfig('frames/{split}', '{split}.json')
    data = layout(tmp_path, kind='coco', coco=config)
    assert data.boxes(0).xyxy.tolist() == [[8, 8, 40, 32]]
    assert data.tasks(1) == {'detection'} and not len(data.boxes(1).labels)
