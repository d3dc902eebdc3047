"""Reading the BDD100K layout, transforms and batches."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_perception.tasks import UNLABELLED
from training.data.bdd100k import Bdd100kLayout, LayoutConfig, open_layouts
from training.data.loader import Draws, StepSampler, train_loader
from training.data.sample import Boxes, DatasetError, Sample, collate
from training.data.transforms import AugmentConfig, augment

SHARED = Path(__file__).parents[2] / 'shared' / 'data'
WIDTH, HEIGHT = 64, 48


def write_layout(root: Path, count: int = 3) -> Path:
    """A tiny data set: every frame has an image and a drivable mask, all but the last one boxes."""
    frames = []
    for index in range(count):
        name = f'frame_{index}'
        image = np.full((HEIGHT, WIDTH, 3), 40 * index, np.uint8)
        drivable = np.zeros((HEIGHT, WIDTH), np.uint8)
        drivable[: HEIGHT // 2] = 2
        for folder, suffix, data in (
            ('images/100k/train', 'jpg', image),
            ('labels/drivable/masks/train', 'png', drivable),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / f'{name}.{suffix}'), data)
        frames.append({'name': f'{name}.jpg', 'attributes': {'weather': 'rainy',
                       'timeofday': 'undefined'}, 'labels': [
            {'category': 'car', 'box2d': {'x1': 8, 'y1': 8, 'x2': 40, 'y2': 32}},
            {'category': 'other vehicle', 'box2d': {'x1': 0, 'y1': 0, 'x2': 8, 'y2': 8}},
        ]})  # fmt: skip
    path = root / 'labels/det_20/det_train.json'
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(frames[:-1]))
    return root


@pytest.fixture
def layout(tmp_path):
    return Bdd100kLayout(LayoutConfig('tiny', str(write_layout(tmp_path))), 'train')


def test_only_what_is_labelled_is_a_label(layout):
    first, last = layout.load(0), layout.load(2)
    assert set(first.boxes) == {'detection'} and first.classes == {'weather': 0}
    assert first.boxes['detection'].ignored.tolist() == [False, True]
    assert not last.boxes and not last.classes
    assert set(last.masks) == {'drivable'}


def test_masks_without_a_split_become_class_sets(tmp_path):
    config = LayoutConfig('tiny', str(write_layout(tmp_path)), drivable_split=False)
    mask = Bdd100kLayout(config, 'train').load(0).masks['drivable']
    assert np.unique(mask).tolist() == [2, 3]


def test_missing_split_says_where_it_looked(tmp_path):
    with pytest.raises(DatasetError, match='images/'):
        Bdd100kLayout(LayoutConfig('tiny', str(write_layout(tmp_path))), 'val')


def test_optional_data_set_may_be_absent(tmp_path):
    here = LayoutConfig('tiny', str(write_layout(tmp_path / 'a')))
    gone = LayoutConfig('gone', str(tmp_path / 'b'), optional=True)
    assert [layout.config.name for layout in open_layouts([here, gone], 'train')] == ['tiny']
    with pytest.raises(DatasetError):
        open_layouts([gone], 'train')


@pytest.mark.parametrize('fault', ['size', 'ids', 'json', 'image'])
def test_broken_files_are_named(tmp_path, fault):
    root = write_layout(tmp_path)
    mask = root / 'labels/drivable/masks/train/frame_0.png'
    if fault == 'size':
        cv2.imwrite(str(mask), np.zeros((5, 5), np.uint8))
    elif fault == 'ids':
        cv2.imwrite(str(mask), np.full((HEIGHT, WIDTH), 7, np.uint8))
    elif fault == 'json':
        (root / 'labels/det_20/det_train.json').write_text('[{"name": ')
    else:
        (root / 'images/100k/train/frame_0.jpg').write_bytes(b'no image')
    with pytest.raises(DatasetError, match=r'frame_0|det_train'):
        Bdd100kLayout(LayoutConfig('tiny', str(root)), 'train').load(0)


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


def test_batches_depend_on_seed_and_step_only(layout):
    config = AugmentConfig(32, 64, 32, 64)
    draws = Draws([layout], config, seed=5)
    whole = list(train_loader(draws, StepSampler(0, 4, 2), ['drivable'], workers=0))
    tail = list(train_loader(draws, StepSampler(2, 4, 2), ['drivable'], workers=0))
    assert len(whole) == 4 and len(tail) == 2
    for a, b in zip(whole[2:], tail, strict=True):
        assert (a.image == b.image).all()


def test_ranks_share_a_batch_without_overlap():
    parts = [list(StepSampler(1, 3, 8, rank, 2)) for rank in (0, 1)]
    for step in (0, 1):
        together = sorted(parts[0][step] + parts[1][step])
        assert together == list(range(8 * (step + 1), 8 * (step + 2)))


def test_collate_keeps_unlabelled_as_none(layout):
    batch = collate([layout.load(0), layout.load(2)], ['detection', 'drivable', 'weather'])
    assert batch.targets['detection'][1] is None and batch.targets['weather'] == [0, None]
    assert batch.targets['detection'][0].ignored.shape == (1, 4)
    assert batch.image.shape == (2, 3, HEIGHT, WIDTH)


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason='../shared/data is not there')
def test_real_bdd100k_samples_load():
    layout = Bdd100kLayout(LayoutConfig('bdd', str(SHARED / 'bdd_samples')), 'train')
    samples = [layout.load(i) for i in range(len(layout))]
    assert len(samples) == 14  # one frame is in 100k and in 10k, the clip has no detection labels
    assert sum('detection' in s.boxes for s in samples) == 3
    assert sum('semantic' in s.masks for s in samples) == 6
    assert any(len(s.boxes['detection'].labels) for s in samples if s.boxes)
