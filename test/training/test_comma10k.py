# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""comma10k: five colours as class sets, val by the last digit of the name."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_data import picture, put

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_perception.tasks import SEMANTIC
from training.data import check
from training.data.comma10k import COLOURS
from training.data.layout import Layout, LayoutConfig
from training.data.sample import DatasetError
from training.evaluation.scoring import told_apart, told_coarsely
from training.tasks.segmentation import GROUPS

SIZE = 10
"""Rows a colour."""


def colour_mask(*values: int) -> np.ndarray:
    """Stripes of SIZE rows, BGR."""
    rows = [[value & 255, value >> 8 & 255, value >> 16] for value in values]
    return np.repeat(np.array(rows, np.uint8), SIZE, 0)[:, None].repeat(16, 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mask = colour_mask(*COLOURS.values())
    for name in ('0000_a_10', '0001_b_19', '0002_c_9', '0003_d_91'):
        put(tmp_path / f'imgs/{name}.png', picture(len(name), 16, len(mask)))
        put(tmp_path / f'masks/{name}.png', mask)
    return tmp_path


def layout(root: Path, split: str) -> Layout:
    return Layout(LayoutConfig('comma10k', str(root), kind='comma10k'), split)


def test_names_that_end_in_9_are_held_out(root):
    assert layout(root, 'train').names == ['0000_a_10.png', '0003_d_91.png']
    assert layout(root, 'val').names == ['0001_b_19.png', '0002_c_9.png']
    with pytest.raises(DatasetError, match='no images'):
        layout(root, 'test')


def test_colours_are_class_sets(root):
    train = layout(root, 'train')
    assert train.tasks(0) == {'semantic', 'drivable', 'lane'}
    masks = {task: mask[::SIZE, 0].tolist() for task, mask in train.load(0).masks.items()}
    assert masks['drivable'] == [3, 3, 2, 2, 2]
    assert masks['lane'] == [1, 0, 1, 1, 1]
    assert masks['semantic'][:2] == [0, 0] and masks['semantic'][4] == 255
    sets = [GROUPS['semantic'][code - len(SEMANTIC.classes)] for code in masks['semantic'][2:4]]
    named = [[SEMANTIC.classes[i] for i in members] for members in sets]
    assert named[0][0] == 'sidewalk' and named[0][-1] == 'sky' and len(named[0]) == 10
    assert named[1][0] == 'person' and named[1][-1] == 'bicycle' and len(named[1]) == 8


def test_what_is_not_told_apart_is_not_scored(root):
    val = layout(root, 'val')
    assert told_coarsely(val, 'drivable') and not told_coarsely(val, 'semantic')
    assert not told_apart(val, 'semantic') and told_apart(val, 'lane')


def test_other_colours_are_refused(root):
    mask = root / 'masks/0000_a_10.png'
    assert cv2.imwrite(str(mask), colour_mask(*COLOURS.values())[::-1] // 2)
    with pytest.raises(
        DatasetError, match=r'0000_a_10.png: \d colours that comma10k does not have'
    ):
        layout(root, 'train').load(0)


def test_check_reads_it(root, tmp_path, capsys):
    (tmp_path / 'data.yaml').write_text(
        f'name: x\noutput: x\ntasks: [lane]\ndata: [{{name: c, kind: comma10k, root: "{root}"}}]\n'
    )
    code = check.main(['--config', str(tmp_path / 'data.yaml'), '--workers', '1'])
    assert 'same picture' in capsys.readouterr().out and code == 1, 'all four pictures are one'
