# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""NYUv2 (Silberman et al., ECCV 2012) as MTAN prepared it (Liu et al., CVPR 2019).

    ROOT/{train,val}/image/N.npy     float [H, W, 3] in 0-1 (or uint8)
    ROOT/{train,val}/label/N.npy     [H, W], 0 to 12, -1 unlabelled: the task nyu13
    ROOT/{train,val}/depth/N.npy     float [H, W] or [H, W, 1] metres, 0 unknown
    ROOT/{train,val}/normal/N.npy    float [H, W, 3] unit vectors, zeros unknown

MTAN has two splits and papers report their best epoch on the second. Here that one is `test`; every
tenth image of the first is `val`, for choosing, and the others are `train` (`trainval` is both).

The official nyu_depth_v2_labeled.mat becomes such a folder, without normals, by

    python -m training.data.nyuv2 FOLDER OUTPUT [--height 288 --width 384]

where FOLDER holds it, splits.mat, and for labels classMapping40.mat and class13Mapping.mat.
"""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from mtl_perception.tasks import DEPTH, NORMALS, NYU13, UNLABELLED
from training.command import at_least, run
from training.data.index import Index, LayoutConfig, MapFiles, MaskFiles, Pictures, id_table
from training.data.sample import DatasetError

HELD_OUT = 10
"""Every so many images of MTAN's training part are `val`."""

SPLITS = {'train': 'train', 'val': 'train', 'trainval': 'train', 'test': 'val'}
"""Folder by split."""

ROUNDING = 1e-3
"""How far interpolation may have taken an image out of 0 to 1."""
FARTHEST_M = 1000.0
"""Nothing indoors is as far: such values are millimetres."""
UNIT_WITHIN = 0.1
"""How far the length of a normal may be from 1, for the half of them, that were resized."""

LABELED, SPLIT_FILE = 'nyu_depth_v2_labeled.mat', 'splits.mat'
MAPPINGS = ('classMapping40.mat', 'class13Mapping.mat')


def index(config: LayoutConfig, split: str) -> Index:
    """Files of a split; raises DatasetError for one that there is not."""
    if split not in SPLITS:
        raise DatasetError(f'data set {config.name!r}: split {split!r}, expected {list(SPLITS)}')
    folder = config.folder / SPLITS[split]
    files = sorted((folder / 'image').glob('*.npy'), key=lambda path: (len(path.stem), path.stem))
    if split in ('train', 'val'):
        held_out = split == 'val'
        files = [f for i, f in enumerate(files) if (i % HELD_OUT == HELD_OUT - 1) == held_out]
    images = {path.name: path for path in files if fnmatch(path.name, config.pattern)}

    def beside(kind: str) -> dict[str, Path]:
        paths = {name: folder / kind / name for name in images}
        return {name: path for name, path in paths.items() if path.is_file()}

    maps = {
        DEPTH.name: MapFiles(beside('depth'), read_depth),
        NORMALS.name: MapFiles(beside('normal'), read_normals),
    }
    masks = {NYU13.name: MaskFiles(beside('label'), id_table(len(NYU13.classes)), read_labels)}
    return Index(
        images, {}, masks, None, str(folder / 'image'), False, maps, Pictures(_size, read_image)
    )


def read_image(path: Path, shrink: int = 1) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3], never shrunk; raises DatasetError."""
    values = _load(path, (3,))
    if values.shape[2] != 3:
        raise DatasetError(f'{path}: expected [H, W, 3], found {values.shape}')
    if values.dtype.kind in 'iu':
        _within(path, values, 0, 255, 'an image of whole numbers has 0 to 255')
        return values.astype(np.uint8)
    _within(path, values, -ROUNDING, 1 + ROUNDING, 'an image is float in 0 to 1, or uint8')
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Class ids uint8 [H, W], 255 unlabelled; raises DatasetError."""
    values = _load(path, (2,))
    _within(path, values, -np.inf, UNLABELLED, 'labels are class ids, negative where unlabelled')
    if (values != np.rint(values)).any():
        raise DatasetError(f'{path}: labels are whole numbers, found {values.dtype} with fractions')
    return np.where(values < 0, UNLABELLED, values).astype(np.uint8)


def read_depth(path: Path) -> NDArray[np.float32]:
    """Metres float32 [H, W], 0 unknown; raises DatasetError."""
    values = np.array(_load(path, (2, 3)), np.float32)
    values = values[..., 0] if values.ndim == 3 else values
    values = np.where(np.isfinite(values) & (values > 0), values, 0)
    _within(path, values, 0, FARTHEST_M, 'depth is in metres')
    return np.ascontiguousarray(values)


def read_normals(path: Path) -> NDArray[np.float32]:
    """Unit vectors float32 [H, W, 3], zeros unknown; raises DatasetError."""
    values = np.array(_load(path, (3,)), np.float32)
    if values.shape[2] != 3:
        raise DatasetError(f'{path}: expected [H, W, 3], found {values.shape}')
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    known = np.isfinite(length) & (length > 0)
    if known.any() and abs(middle := float(np.median(length[known])) - 1) > UNIT_WITHIN:
        raise DatasetError(
            f'{path}: normals are unit vectors, zeros where unknown, and the length of these is '
            f'{middle + 1:.3g} in the middle; a picture of normals is v = 2 * picture - 1'
        )
    return np.where(known, values / np.where(known, length, 1), 0).astype(np.float32)


def _within(path: Path, values: NDArray[Any], least: float, most: float, what: str) -> None:
    """Raise DatasetError, NaN included, unless all values are in a range."""
    low, high = (float(values.min()), float(values.max())) if values.size else (least, least)
    if not least <= low <= high <= most:
        raise DatasetError(f'{path}: {what}, found {values.dtype} of {low:g} to {high:g}')


def _load(path: Path, axes: tuple[int, ...]) -> NDArray[Any]:
    values = _array(path)
    if values.ndim not in axes:
        raise DatasetError(f'{path}: expected {" or ".join(map(str, axes))} axes, [H, W, ...], '
                           f'found {values.shape}')  # fmt: skip
    return values


def _size(path: Path) -> tuple[int, int]:
    height, width = (*_array(path, 'r').shape, 0, 0)[:2]
    return width, height


def _array(path: Path, mmap: Literal['r'] | None = None) -> NDArray[Any]:
    """An array of numbers; raises DatasetError."""
    try:
        values = np.load(path, mmap_mode=mmap, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f'{path} is not readable as an array: {error}') from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in 'biuf':
        found = getattr(values, 'dtype', 'an archive of arrays')
        raise DatasetError(f'{path}: expected an array of numbers, found {found}')
    return values


def convert(folder: Path, output: Path, height: int, width: int) -> int:
    """Write the official .mat as MTAN's folder; returns the images. Raises DatasetError."""
    try:
        import h5py
        from scipy.io import loadmat
    except ImportError as error:
        raise DatasetError(f'reading .mat files needs h5py and scipy: {error}') from error
    for name in (LABELED, SPLIT_FILE):
        if not (folder / name).is_file():
            raise DatasetError(f'{folder} has no {name}; it comes with NYU Depth v2')
    splits = loadmat(folder / SPLIT_FILE)
    table = None
    if all((folder / name).is_file() for name in MAPPINGS):
        table = _thirteen(*(loadmat(folder / name) for name in MAPPINGS))
    size = (width, height)
    count = 0
    with h5py.File(folder / LABELED) as file:
        for split, key in (('train', 'trainNdxs'), ('val', 'testNdxs')):
            for number, row in enumerate(track(splits[key].ravel().tolist(), description=split)):
                # MATLAB counts from 1, and h5py sees its arrays with the axes reversed.
                image = np.asarray(file['images'][row - 1]).transpose(2, 1, 0)
                depth = np.asarray(file['depths'][row - 1]).T
                parts = {
                    'image': _resized(image, size, cv2.INTER_AREA),
                    'depth': _resized(depth, size, cv2.INTER_NEAREST),
                }
                if table is not None:
                    labels = table[np.asarray(file['labels'][row - 1]).T.astype(int)]
                    parts['label'] = _resized(labels, size, cv2.INTER_NEAREST)
                for kind, values in parts.items():
                    (output / split / kind).mkdir(parents=True, exist_ok=True)
                    np.save(output / split / kind / f'{number}.npy', values)
                count += 1
    return count


def _resized(values: NDArray[Any], size: tuple[int, int], how: int) -> NDArray[Any]:
    return np.asarray(cv2.resize(np.ascontiguousarray(values), size, interpolation=how))


def _thirteen(forty: dict[str, Any], thirteen: dict[str, Any]) -> NDArray[np.int16]:
    """Label of the .mat (0 unlabelled) -> 0 to 12, or -1."""
    of_894 = np.concatenate(([0], forty['mapClass'].ravel().astype(int)))
    mapping = thirteen['classMapping13']
    while mapping.dtype == object or mapping.dtype.names:
        mapping = mapping[mapping.dtype.names[0]] if mapping.dtype.names else mapping.ravel()[0]
    of_40 = np.concatenate(([0], mapping.ravel().astype(int)))
    return (of_40[of_894] - 1).astype(np.int16)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog='python -m training.data.nyuv2', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument('folder', type=Path)
    parser.add_argument('output', type=Path)
    parser.add_argument('--height', type=at_least(1), default=288)
    parser.add_argument('--width', type=at_least(1), default=384)
    args = parser.parse_args(argv)
    try:
        count = convert(args.folder, args.output, args.height, args.width)
    except DatasetError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'{count} images in {args.output}')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
