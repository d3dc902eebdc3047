# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""NYUv2, Cityscapes, VOC, COCO and Office-31 in their real layouts, two or three files each."""

import numpy as np
import pytest

pytest.importorskip('torch', reason='training extras are not installed')

from tiny_data import picture, put, put_json

from mtl_perception.tasks import COCO_CLASSES, COCO_DETECTION, OFFICE31, VOC_CLASSES
from training.data import coco2017, nyuv2
from training.data.check import check
from training.data.layout import Layout, LayoutConfig
from training.data.sample import DatasetError, collate
from training.data.transforms import AugmentConfig, augment

SIZE = (24, 32)


def opened(root, kind, split='train', **more):
    return Layout(LayoutConfig(kind, str(root), kind=kind, **more), split)


@pytest.fixture
def nyu(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (('train', 20), ('val', 2)):
        for number in range(count):
            normals = rng.normal(size=(*SIZE, 3))
            normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
            normals[0] = 0
            depth = rng.uniform(0.5, 9, (*SIZE, 1))
            depth[:, 0] = 0
            label = rng.integers(-1, 13, SIZE).astype(np.float64)
            image = rng.uniform(0, 1, (*SIZE, 3))
            for kind, values in (
                ('image', image), ('label', label), ('depth', depth), ('normal', normals),
            ):  # fmt: skip
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
                np.save(tmp_path / split / kind / f'{number}.npy', values)
    return tmp_path


def test_nyuv2_as_mtan_prepared_it(nyu):
    train, val, test = (opened(nyu, 'nyuv2', split) for split in ('train', 'val', 'test'))
    assert (len(train), len(val), len(test)) == (18, 2, 2)
    assert not set(train.names) & set(val.names)
    assert len(opened(nyu, 'nyuv2', 'trainval')) == 20
    assert train.tasks(0) == {'nyu13', 'depth', 'normals'}
    raw = {k: np.load(nyu / 'train' / k / '9.npy') for k in ('image', 'label', 'depth', 'normal')}
    sample = val.load(val.names.index('9.npy'))  # the tenth image
    assert np.abs(sample.image / 255 - raw['image']).max() <= 0.5 / 255 + 1e-9
    mask = sample.masks['nyu13']
    assert (mask == np.where(raw['label'] < 0, 255, raw['label'])).all()
    assert np.allclose(sample.maps['depth'], raw['depth'][..., 0])
    assert np.allclose(sample.maps['normals'], raw['normal'], atol=1e-6)
    seen = augment(sample, AugmentConfig(height=32, width=32), np.random.default_rng(0))
    batch = collate([seen], ['nyu13', 'depth', 'normals'])
    assert batch.targets['normals'][0].shape == (32, 32, 3)
    assert list(train.classes(0, 'nyu13')) == list(range(13))


def test_nyuv2_says_what_is_wrong(nyu):
    with pytest.raises(DatasetError, match="split 'testing', expected"):
        opened(nyu, 'nyuv2', 'testing')
    np.save(nyu / 'train' / 'depth' / '0.npy', np.ones((3, 3)))
    layout = opened(nyu, 'nyuv2')
    with pytest.raises(DatasetError, match=r'depth is \(3, 3\), its image is \(24, 32\)'):
        layout.load(layout.names.index('0.npy'))
    (nyu / 'train' / 'image' / '1.npy').write_bytes(b'nothing')
    with pytest.raises(DatasetError, match='not readable as an array'):
        layout.load(layout.names.index('1.npy'))
    with pytest.raises(DatasetError, match=r'can be checked'):
        check([LayoutConfig('nyuv2', str(nyu), kind='nyuv2')], 1)
    with pytest.raises(DatasetError, match=r'has no classes'):
        layout.classes(0, 'depth')


def test_the_official_mat_becomes_mtans_folder(tmp_path):
    h5py = pytest.importorskip('h5py')
    savemat = pytest.importorskip('scipy.io').savemat
    rng = np.random.default_rng(0)
    official = tmp_path / 'official'
    official.mkdir()
    with h5py.File(official / nyuv2.LABELED, 'w') as file:  # MATLAB's axes, reversed
        file['images'] = rng.integers(0, 256, (3, 3, 8, 6), np.uint8)
        file['depths'] = rng.uniform(1, 5, (3, 8, 6)).astype(np.float32)
        file['labels'] = np.full((3, 8, 6), 2, np.uint16)
    savemat(official / nyuv2.SPLIT_FILE, {'trainNdxs': [[1], [3]], 'testNdxs': [[2]]})
    savemat(official / nyuv2.MAPPINGS[0], {'mapClass': [[7, 4]]})
    thirteen = {'labels1': [[1, 1, 1, 5] + [0] * 36]}
    savemat(official / nyuv2.MAPPINGS[1], {'classMapping13': thirteen})
    output = tmp_path / 'nyuv2'
    size = ['--height', '6', '--width', '8']
    assert nyuv2.main([str(official), str(output), *size]) == 0
    layout = opened(output, 'nyuv2', 'trainval')
    sample = layout.load(1)
    with h5py.File(official / nyuv2.LABELED) as file:
        assert (sample.image == file['images'][2].transpose(2, 1, 0)).all()
        assert np.allclose(sample.maps['depth'], file['depths'][2].T)
    assert (sample.masks['nyu13'] == 4).all()  # label 2 is class 4 of 40, the fifth of 13
    assert 'normals' not in layout.tasks(0)
    assert nyuv2.main([str(tmp_path), str(output)]) == 1


def test_cityscapes_with_19_and_7_classes_and_metres(tmp_path):
    city = 'train/bochum/bochum_000000_000313'
    put(tmp_path / f'leftImg8bit/{city}_leftImg8bit.png', picture(0))
    labels = np.full((48, 64), 7, np.uint8)  # road
    labels[:10], labels[10:20], labels[20:30] = 26, 4, 20  # car, static, traffic sign
    put(tmp_path / f'gtFine/{city}_gtFine_labelIds.png', labels)
    stored = np.full((48, 64), 1 + 256 * 10, np.uint16)  # 10 pixels
    stored[0] = 0
    put(tmp_path / f'disparity/{city}_disparity.png', stored)
    layout = opened(tmp_path, 'cityscapes')
    assert layout.tasks(0) == {'semantic', 'cityscapes7', 'depth'}
    with pytest.raises(DatasetError, match='camera_trainvaltest'):
        layout.load(0)
    camera = {'extrinsic': {'baseline': 0.2}, 'intrinsic': {'fx': 2000.0}}
    put_json(tmp_path / f'camera/{city}_camera.json', camera)
    sample = layout.load(0)
    rows = [0, 15, 25, 40]
    assert [sample.masks['semantic'][row, 0] for row in rows] == [13, 255, 7, 0]
    assert [sample.masks['cityscapes7'][row, 0] for row in rows] == [6, 255, 2, 0]
    assert sample.maps['depth'][5, 5] == pytest.approx(40.0) and not sample.maps['depth'][0].any()


VOC_XML = """<annotation><filename>a.jpg</filename>
<object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>
<object><name>person</name><difficult>1</difficult>
<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>8</xmax><ymax>9</ymax></bndbox></object></annotation>"""


@pytest.fixture
def voc(tmp_path):
    for name in ('a', 'b', 'c'):
        put(tmp_path / f'JPEGImages/{name}.jpg', picture(ord(name)))
        (tmp_path / 'Annotations').mkdir(exist_ok=True)
        (tmp_path / f'Annotations/{name}.xml').write_text(VOC_XML)
        mask = np.zeros((48, 64), np.uint8)
        mask[:9], mask[9:11] = 20, 255
        put(tmp_path / f'SegmentationClass/{name}.png', mask)
    lists = {'Main/train': 'a\nb\n', 'Main/val': 'c\n', 'Segmentation/train': 'a\n',
             'Segmentation/val': 'b\n'}  # fmt: skip
    for name, text in lists.items():
        path = tmp_path / 'ImageSets' / f'{name}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_voc_boxes_and_masks_without_leaks(voc):
    train, val = opened(voc, 'voc'), opened(voc, 'voc', 'val')
    assert train.names == ['a.jpg'] and val.names == ['b.jpg', 'c.jpg']  # b is held out for masks
    assert train.tasks(0) == {'voc_detection', 'voc_segmentation'}
    assert (val.tasks(0), val.tasks(1)) == ({'voc_segmentation'}, {'voc_detection'})
    sample = train.load(0)
    boxes = sample.boxes['voc_detection']
    assert boxes.xyxy.tolist() == [[0, 1, 10, 20], [4, 4, 8, 9]]
    assert [VOC_CLASSES[i] for i in boxes.labels] == ['dog', 'person']
    assert boxes.ignored.tolist() == [False, True]
    assert sample.masks['voc_segmentation'][[0, 10, 30], 0].tolist() == [20, 255, 0]
    assert train.classes(0, 'voc_detection').tolist() == [VOC_CLASSES.index('dog')]


def test_voc_says_what_is_wrong(voc):
    with pytest.raises(DatasetError, match='no list'):
        opened(voc, 'voc', 'test')
    (voc / 'Annotations/c.xml').write_text(VOC_XML.replace('dog', 'wolf'))
    with pytest.raises(DatasetError, match='malformed'):
        opened(voc, 'voc', 'val')
    (voc / 'Annotations/c.xml').write_text('<annotation>')
    with pytest.raises(DatasetError, match='no VOC annotation'):
        opened(voc, 'voc', 'val')


@pytest.fixture
def coco(tmp_path):
    """One image of 48x64: a cow with a cat before it, and a crowd of people in run lengths."""
    put(tmp_path / 'val2017/000000000042.jpg', picture(0))
    counts = [0, 5, 48 * 64 - 5]  # the first five pixels of the first column
    annotations = [
        {'id': 1, 'category_id': 17, 'bbox': [8, 8, 8, 8], 'iscrowd': 0, 'area': 64,
         'segmentation': [[8, 8, 16, 8, 16, 16, 8, 16]]},
        {'id': 2, 'category_id': 21, 'bbox': [4, 4, 40, 30], 'iscrowd': 0, 'area': 1200,
         'segmentation': [[4, 4, 44, 4, 44, 34, 4, 34]]},
        {'id': 3, 'category_id': 1, 'bbox': [0, 0, 1, 5], 'iscrowd': 1, 'area': 5,
         'segmentation': {'size': [48, 64], 'counts': counts}},
    ]  # fmt: skip
    labels = {
        'images': [{'id': 42, 'file_name': '000000000042.jpg', 'width': 64, 'height': 48}],
        'categories': [
            {'id': 1, 'name': 'person'}, {'id': 17, 'name': 'cat'}, {'id': 21, 'name': 'cow'},
        ],
        'annotations': [{**each, 'image_id': 42} for each in annotations],
    }  # fmt: skip
    put_json(tmp_path / 'annotations/instances_val2017.json', labels)
    return tmp_path


def test_coco_boxes_and_masks_of_80_categories(coco, capsys):
    assert opened(coco, 'coco2017', 'val').tasks(0) == {'coco_detection'}
    assert coco2017.main([str(coco), '--splits', 'val']) == 0
    sample = opened(coco, 'coco2017', 'val').load(0)
    boxes = sample.boxes['coco_detection']
    assert [COCO_CLASSES[i] for i in boxes.labels] == ['cat', 'cow', 'person']
    assert boxes.ignored.tolist() == [False, False, True]
    assert boxes.xyxy[0].tolist() == [8, 8, 16, 16]
    mask = sample.masks['coco_segmentation']
    cat, cow = 1 + COCO_CLASSES.index('cat'), 1 + COCO_CLASSES.index('cow')
    assert [mask[y, x] for y, x in ((0, 0), (12, 12), (30, 20), (45, 60))] == [255, cat, cow, 0]
    seen = augment(sample, AugmentConfig(height=32, width=32), np.random.default_rng(0))
    assert COCO_DETECTION.name in collate([seen], [COCO_DETECTION.name]).targets


def test_coco_says_what_is_wrong(coco, capsys):
    with pytest.raises(DatasetError, match=r'instances_test2017.json'):
        opened(coco, 'coco2017', 'test')
    labels = coco / 'annotations/instances_val2017.json'
    labels.write_text(labels.read_text().replace('"cow"', '"yak"'))
    with pytest.raises(DatasetError, match='malformed'):
        opened(coco, 'coco2017', 'val')
    assert coco2017.main([str(coco), '--splits', 'val']) == 1
    assert 'annotation 2 cannot be drawn' in capsys.readouterr().err


def test_office_has_a_task_a_domain(tmp_path):
    for domain in ('amazon', 'webcam'):
        for number in range(5):
            put(tmp_path / f'{domain}/images/mug/frame_{number:04d}.jpg', picture(number))
    counts = {s: len(opened(tmp_path, 'office31', s)) for s in ('train', 'val', 'test')}
    assert counts == {'train': 6, 'val': 2, 'test': 2}
    layout = opened(tmp_path, 'office31', pattern='webcam/*')
    assert layout.tasks(0) == {'office_webcam'}
    sample = layout.load(0)
    assert sample.classes == {'office_webcam': OFFICE31.index('mug')}
    batch = collate([sample], ['office_amazon', 'office_webcam'])
    assert list(batch.targets['office_amazon']) == [None]
    assert list(batch.targets['office_webcam']) == [OFFICE31.index('mug')]
    assert layout.classes(0, 'office_webcam').tolist() == [OFFICE31.index('mug')]
    (tmp_path / 'amazon/images/teapot').mkdir()
    with pytest.raises(DatasetError, match='no class of Office-31'):
        opened(tmp_path, 'office31')
