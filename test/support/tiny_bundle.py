# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A bundle with a small real graph whose outputs follow from the pixels by hand.

The graph contract is `mtl_perception.kinds.meanings`; no torch, no training. With `image` scaled
to 0-1:

* detection: the input is cut into 2 rows of 4 cells, K = 8 in reading order. Box k is cell k less
  a margin of 2 pixels, its score is the saturation (strongest minus weakest channel of the cell's
  mean colour), its class the strongest channel: red 0 pedestrian, green 1 rider, blue 2 car.
  Grey (and therefore letterbox padding) scores 0.
* drivable: red is direct, green alternative, blue background; stride-4 logits.
* semantic: red is road, green sidewalk, blue building; all other classes have logit -1.
* weather / timeofday: bright images are clear / daytime, dark ones rainy / night.
* with `maps`: depth is 1 m where it is black and 11 m where it is white; a normal points along
  2 * (red, green, blue) - 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mtl_perception.bundle import (
    InputSpec,
    Manifest,
    Metric,
    OutputSpec,
    sha256_of,
    write_manifest,
)
from mtl_perception.tasks import (
    DEPTH,
    DETECTION,
    DRIVABLE,
    NORMALS,
    SEMANTIC,
    TIME_OF_DAY,
    WEATHER,
)

ROWS, COLUMNS = 2, 4
MARGIN = 2
MARGINS = (-MARGIN, -MARGIN, MARGIN, MARGIN)
STRIDE = 4


def write_tiny_bundle(
    folder: str | Path,
    height: int = 64,
    width: int = 96,
    name: str = 'tiny',
    class_map: bool = False,
    letterbox_colour: tuple[int, int, int] = (114, 114, 114),
    maps: bool = False,
    any_size: bool = False,
) -> Path:
    """Write `model.onnx` and `manifest.yaml` into `folder`; returns it.

    `class_map`: drivable leaves the graph as a uint8 map at stride 4 instead of logits. `maps`:
    depth and normals as well. `any_size`: engines can be built for any multiple of 32. Height must
    be a multiple of 8 and width of 16.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_graph(height, width, class_map, maps, any_size), folder / 'model.onnx')
    (folder / 'card.md').write_text('A graph made by hand for tests; it has learnt nothing.\n')
    grid = (height // STRIDE, width // STRIDE)
    k = ROWS * COLUMNS
    drivable = (
        OutputSpec('drivable', 'drivable', 'class_map', 'uint8', grid, STRIDE)
        if class_map
        else OutputSpec('drivable', 'drivable', 'logits', 'float32', (3, *grid), STRIDE)
    )
    dense = (
        OutputSpec('depth', 'depth', 'depth', 'float32', grid, STRIDE),
        OutputSpec('normals', 'normals', 'normals', 'float32', (3, *grid), STRIDE),
    )
    tasks = (DETECTION, DRIVABLE, SEMANTIC, WEATHER, TIME_OF_DAY)
    manifest = Manifest(
        name=name,
        tasks=(*tasks, DEPTH, NORMALS) if maps else tasks,
        input=InputSpec(height, width, letterbox_colour, size_step=32 if any_size else 0),
        outputs=(
            OutputSpec('boxes', 'detection', 'boxes', 'float32', (k, 4)),
            OutputSpec('scores', 'detection', 'scores', 'float32', (k,)),
            OutputSpec('labels', 'detection', 'labels', 'int64', (k,)),
            drivable,
            OutputSpec('semantic', 'semantic', 'logits', 'float32', (19, *grid), STRIDE),
            OutputSpec('weather', 'weather', 'probabilities', 'float32', (6,)),
            OutputSpec('timeofday', 'timeofday', 'probabilities', 'float32', (3,)),
            *(dense if maps else ()),
        ),
        files={file: sha256_of(folder / file) for file in ('model.onnx', 'card.md')},
        licence='Apache-2.0',
        training_data=('none: made by hand',),
        built_with={'onnx': onnx.__version__},
        metrics=(Metric('none', 'none', {'accuracy': 0.0}),),
    )
    write_manifest(folder, manifest)
    return folder


def cell_box(k: int, height: int = 64, width: int = 96) -> tuple[int, int, int, int]:
    """Box k as xyxy input pixels."""
    cell_height, cell_width = height // ROWS, width // COLUMNS
    row, column = divmod(k, COLUMNS)
    return (
        column * cell_width + MARGIN,
        row * cell_height + MARGIN,
        (column + 1) * cell_width - MARGIN,
        (row + 1) * cell_height - MARGIN,
    )


def _graph(height: int, width: int, class_map: bool, maps: bool, any_size: bool) -> onnx.ModelProto:
    if height % (ROWS * STRIDE) or width % (COLUMNS * STRIDE):
        raise ValueError(f'tiny bundle: {height}x{width} must be multiples of 8x16')
    cell = [height // ROWS, width // COLUMNS]
    k = ROWS * COLUMNS
    semantic_weight = np.zeros((19, 3, 1, 1), np.float32)
    semantic_weight[[0, 1, 2], [0, 1, 2]] = 1
    semantic_bias = np.where(np.arange(19) < 3, 0, -1).astype(np.float32)
    weather = np.full((2, 6), -4, np.float32)
    weather[:, [0, 2]] = [[-8, 8], [4, -4]]
    weather[0, [1, 3, 4, 5]] = 0
    constants = {
        'scale': np.float32(1 / 255),
        'cell_boxes': np.array([[cell_box(i, height, width) for i in range(k)]], np.float32),
        'zero': np.float32(0),
        'flat': np.array([0, 3, k], np.int64),
        'last': np.array([2], np.int64),
        'channels': np.array([1], np.int64),
        'all_but_batch': np.array([1, 2, 3], np.int64),
        'semantic_weight': semantic_weight,
        'semantic_bias': semantic_bias,
        'weather_slope': weather[0],
        'weather_offset': weather[1],
        'time_slope': np.array([8, -8, 0], np.float32),
        'time_offset': np.array([-4, 4, 0], np.float32),
        'mean_shape': np.array([0, 1], np.int64),
        'one': np.float32(1),
        'two': np.float32(2),
        'columns_apart': np.array([0, 3, 0, COLUMNS, -1], np.int64),
        'rows_apart': np.array([0, 3, ROWS, -1, COLUMNS], np.int64),
        'fifth': np.array([4], np.int64),
        'fourth': np.array([3], np.int64),
        'width_height': np.array([2, 1, 2, 1], np.int64),
        'unit_boxes': np.array(
            [[np.add(cell_box(i, 64, 64), MARGINS) / 64 for i in range(k)]], np.float32
        ),
        'margins': -np.array(MARGINS, np.float32),
        'ten': np.float32(10),
    }
    node = helper.make_node
    pool = {'kernel_shape': [STRIDE] * 2, 'strides': [STRIDE] * 2}
    drivable_nodes = (
        [
            node('ArgMax', ['small'], ['drivable_label'], axis=1, keepdims=0),
            node('Cast', ['drivable_label'], ['drivable'], to=TensorProto.UINT8),
        ]
        if class_map
        else [node('Identity', ['small'], ['drivable'])]
    )
    nodes = [
        node('Cast', ['image'], ['float'], to=TensorProto.FLOAT),
        node('Mul', ['float', 'scale'], ['unit']),
        node('Transpose', ['unit'], ['x'], perm=[0, 3, 1, 2]),
        node('AveragePool', ['x'], ['small'], **pool),
        *drivable_nodes,
        node('Conv', ['small', 'semantic_weight', 'semantic_bias'], ['semantic']),
        *_cells(any_size, cell),
        node('Reshape', ['cells', 'flat'], ['colours']),
        node('ArgMax', ['colours'], ['labels'], axis=1, keepdims=0),
        node('ReduceMax', ['colours', 'channels'], ['strongest'], keepdims=0),
        node('ReduceMin', ['colours', 'channels'], ['weakest'], keepdims=0),
        node('Sub', ['strongest', 'weakest'], ['scores']),
        node('Unsqueeze', ['scores', 'last'], ['scores_column']),
        node('Mul', ['scores_column', 'zero'], ['nothing']),
        *_boxes(any_size),
        node('ReduceMean', ['x', 'all_but_batch'], ['mean'], keepdims=1),
        node('Reshape', ['mean', 'mean_shape'], ['brightness']),
        node('Mul', ['brightness', 'weather_slope'], ['weather_scaled']),
        node('Add', ['weather_scaled', 'weather_offset'], ['weather_logits']),
        node('Softmax', ['weather_logits'], ['weather'], axis=1),
        node('Mul', ['brightness', 'time_slope'], ['time_scaled']),
        node('Add', ['time_scaled', 'time_offset'], ['time_logits']),
        node('Softmax', ['time_logits'], ['timeofday'], axis=1),
    ]
    if maps:
        nodes += [
            node('ReduceMean', ['small', 'channels'], ['grey'], keepdims=0),
            node('Mul', ['grey', 'ten'], ['farther']),
            node('Add', ['farther', 'one'], ['depth']),
            node('Mul', ['small', 'two'], ['doubled']),
            node('Sub', ['doubled', 'one'], ['normals']),
        ]
    grid: list[int | str] = [height // STRIDE, width // STRIDE]
    size: list[int | str] = [height, width]
    if any_size:
        grid, size = ['H4', 'W4'], ['H', 'W']
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        'tiny',
        [info('image', TensorProto.UINT8, ['B', *size, 3])],
        [
            info('boxes', TensorProto.FLOAT, ['B', k, 4]),
            info('scores', TensorProto.FLOAT, ['B', k]),
            info('labels', TensorProto.INT64, ['B', k]),
            info('drivable', TensorProto.UINT8, ['B', *grid])
            if class_map
            else info('drivable', TensorProto.FLOAT, ['B', 3, *grid]),
            info('semantic', TensorProto.FLOAT, ['B', 19, *grid]),
            info('weather', TensorProto.FLOAT, ['B', 6]),
            info('timeofday', TensorProto.FLOAT, ['B', 3]),
            *(
                [
                    info('depth', TensorProto.FLOAT, ['B', *grid]),
                    info('normals', TensorProto.FLOAT, ['B', 3, *grid]),
                ]
                if maps
                else []
            ),
        ],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def _cells(any_size: bool, cell: list[int]) -> list[onnx.NodeProto]:
    """Mean colour of each cell, [B, 3, ROWS, COLUMNS]: by a pool, or by reshaping any size."""
    node = helper.make_node
    if not any_size:
        return [node('AveragePool', ['x'], ['cells'], kernel_shape=cell, strides=cell)]
    return [
        node('Reshape', ['x', 'columns_apart'], ['by_column']),
        node('ReduceMean', ['by_column', 'fifth'], ['column_means'], keepdims=0),
        node('Reshape', ['column_means', 'rows_apart'], ['by_row']),
        node('ReduceMean', ['by_row', 'fourth'], ['cells'], keepdims=0),
    ]


def _boxes(any_size: bool) -> list[onnx.NodeProto]:
    """The cells less their margins, in input pixels."""
    node = helper.make_node
    if not any_size:
        return [node('Add', ['nothing', 'cell_boxes'], ['boxes'])]
    return [
        node('Shape', ['image'], ['input_shape']),
        node('Gather', ['input_shape', 'width_height'], ['sides']),
        node('Cast', ['sides'], ['float_sides'], to=TensorProto.FLOAT),
        node('Mul', ['unit_boxes', 'float_sides'], ['scaled_boxes']),
        node('Add', ['scaled_boxes', 'margins'], ['inner_boxes']),
        node('Add', ['nothing', 'inner_boxes'], ['boxes']),
    ]
