# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Generated scenes: determinism, and labels that agree with each other and with geometry."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest

from mtl_perception import tasks
from mtl_scenes import Drive, DriveConfig, SceneFrame, random_scene

SEMANTIC = {name: index for index, name in enumerate(tasks.SEMANTIC.classes)}
BOX_SEMANTIC = {'pedestrian': 'person'}
SIZE = (320, 180)


@cache
def scenes() -> tuple[SceneFrame, ...]:
    """Render a mixed bag of small frames once."""
    return tuple(random_scene(seed, *SIZE) for seed in range(48))


@cache
def drive(scene: str = 'city street') -> tuple[SceneFrame, ...]:
    """Render a short drive once."""
    return tuple(Drive(DriveConfig(seed=5, width=320, height=180, frames=12, scene=scene)))


def assert_same(one: SceneFrame, other: SceneFrame) -> None:
    """Compare every field bit by bit."""
    for name in SceneFrame.__dataclass_fields__:
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), name
        else:
            assert a == b, name


@pytest.mark.parametrize('weather', ['rainy', 'snowy', 'clear'])
def test_same_seed_gives_identical_frames(weather: str) -> None:
    """Two independent drives of one configuration agree bit by bit."""
    config = DriveConfig(
        seed=9, width=320, height=180, frames=3, weather=weather, timeofday='night'
    )
    for one, other in zip(Drive(config), Drive(config), strict=True):
        assert_same(one, other)
    assert_same(random_scene(4, *SIZE), scenes()[4])


def test_other_seeds_give_other_frames() -> None:
    """No two of the frames are alike."""
    assert len({frame.image.tobytes() for frame in scenes()}) == len(scenes())


def test_random_access_equals_sequence() -> None:
    """Frame i does not depend on what was rendered before it."""
    again = Drive(DriveConfig(seed=5, width=320, height=180, frames=12, scene='city street'))
    assert len(again) == 12
    for index in (11, 0, 7):
        assert_same(again[index], drive()[index])
    for index in (12, -1):
        with pytest.raises(IndexError, match='frames 0 to 11'):
            again[index]


def test_shapes_and_types() -> None:
    """The contract of SceneFrame holds, also with nothing in view."""
    for frame in (*scenes(), random_scene(1, 1280, 720), random_scene(2, 97, 61)):
        height, width = frame.semantic.shape
        assert frame.image.shape == (height, width, 3) and frame.image.dtype == np.uint8
        assert frame.drivable.shape == (height, width) and frame.drivable.dtype == np.uint8
        assert frame.depth.shape == (height, width) and frame.depth.dtype == np.float32
        assert frame.normals.shape == (height, width, 3) and frame.normals.dtype == np.float32
        count = len(frame.labels)
        assert frame.boxes.shape == (count, 4) and frame.boxes.dtype == np.float32
        assert frame.labels.dtype == np.int64 and frame.track_ids.dtype == np.int64
        assert frame.track_ids.shape == (count,) and len(set(frame.track_ids.tolist())) == count
        assert frame.semantic.max() < len(tasks.SEMANTIC.classes)
        assert set(np.unique(frame.drivable)) <= {0, 1, 2}


def test_boxes_hold_pixels_of_their_class_and_are_tight() -> None:
    """Each side of a box touches a pixel of the box's semantic class."""
    checked = 0
    for frame in scenes():
        height, width = frame.semantic.shape
        for box, label in zip(frame.boxes, frame.labels, strict=True):
            x0, y0, x1, y1 = (int(value) for value in box)
            assert np.array_equal(box, (x0, y0, x1, y1))
            assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height and y1 - y0 >= 4
            name = tasks.DETECTION.classes[int(label)]
            inside = frame.semantic[y0:y1, x0:x1] == SEMANTIC[BOX_SEMANTIC.get(name, name)]
            assert inside.sum() >= 12, name
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any(), name
            checked += 1
    assert checked > 300


def test_every_large_thing_has_a_box() -> None:
    """A region of a countable class that is large enough lies within boxes of its class."""
    countable = {
        SEMANTIC[BOX_SEMANTIC.get(name, name)]: index
        for index, name in enumerate(tasks.DETECTION.classes)
    }
    for frame in scenes():
        for semantic_id, label in countable.items():
            covered = np.zeros(frame.semantic.shape, bool)
            for x0, y0, x1, y1 in frame.boxes[frame.labels == label].astype(int):
                covered[y0:y1, x0:x1] = True
            mask = ((frame.semantic == semantic_id) & ~covered).astype(np.uint8)
            count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
            for part in range(1, count):
                # Below this it may be slivers of several occluded things, each too small to count.
                small = stats[part, cv2.CC_STAT_AREA] < 100 or min(stats[part, 2:4]) < 6
                assert small, (frame.attributes, semantic_id)


def test_drivable_only_on_road() -> None:
    """Direct and alternative lanes are road; both occur."""
    seen = set()
    for frame in scenes():
        lanes = frame.drivable < 2
        assert (frame.semantic[lanes] == SEMANTIC['road']).all()
        seen |= set(np.unique(frame.drivable).tolist())
    assert seen == {0, 1, 2}
    assert np.mean([(frame.drivable == 0).any() for frame in scenes()]) > 0.9


def test_depth_and_normals_exactly_where_not_sky() -> None:
    """Depth is 0 only in the sky; normals are unit vectors that face the camera elsewhere."""
    for frame in scenes():
        solid = frame.semantic != SEMANTIC['sky']
        assert np.array_equal(frame.depth > 0, solid)
        assert np.isfinite(frame.depth).all()
        length = np.linalg.norm(frame.normals, axis=-1)
        assert np.allclose(length[solid], 1.0, atol=1e-4)
        assert (length[~solid] == 0).all()


@pytest.mark.parametrize('seed', [0, 3, 11])
def test_ground_lies_on_one_plane(seed: int) -> None:
    """Back-projected road lies on one plane, whose normal is the one given and points up."""
    frame = random_scene(seed, 640, 360)
    flat = np.isin(frame.semantic, [SEMANTIC[n] for n in ('road', 'sidewalk', 'terrain')])
    row, column = np.nonzero(flat & (frame.depth < 80))
    matrix = frame.camera_matrix
    depth = frame.depth[row, column].astype(np.float64)
    points = np.stack(
        [
            (column - matrix[0, 2]) / matrix[0, 0] * depth,
            (row - matrix[1, 2]) / matrix[1, 1] * depth,
            depth,
        ],
        axis=1,
    )
    normals = frame.normals[row, column].astype(np.float64)
    assert np.ptp(normals, axis=0).max() < 1e-6
    assert normals[0, 1] < -0.99
    height = -(points @ normals[0])
    assert 1.1 < height.mean() < 1.9
    assert np.ptp(height) < 0.02


def test_depth_agrees_with_normals_inside_faces() -> None:
    """Neighbouring pixels of equal normal and close depth span the plane that the normal says."""
    frame = scenes()[3]
    matrix = frame.camera_matrix
    row, column = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    points = (
        np.stack(
            [
                (column - matrix[0, 2]) / matrix[0, 0],
                (row - matrix[1, 2]) / matrix[1, 1],
                np.ones_like(row),
            ],
            axis=-1,
        )
        * frame.depth[..., None]
    )
    step = points[:, 1:] - points[:, :-1]
    same = (frame.normals[:, 1:] == frame.normals[:, :-1]).all(axis=-1)
    near = np.abs(frame.depth[:, 1:] - frame.depth[:, :-1]) < 0.05 * frame.depth[:, 1:]
    use = same & near & (frame.depth[:, 1:] > 0) & (frame.depth[:, 1:] < 60)
    off_plane = np.abs((step * frame.normals[:, 1:]).sum(axis=-1))[use]
    assert use.sum() > 10000
    assert np.quantile(off_plane, 0.95) < 1e-3


@pytest.mark.parametrize('task', [tasks.WEATHER, tasks.SCENE, tasks.TIME_OF_DAY])
def test_every_attribute_value_renders_and_differs(task: tasks.Task) -> None:
    """Each value gives another picture of the same seed, and is reported back."""
    pictures = []
    for value in task.classes:
        config = {
            'scene': 'city street',
            'weather': 'clear',
            'timeofday': 'daytime',
            task.name: value,
        }
        frame = Drive(DriveConfig(seed=6, width=320, height=180, frames=1, **config))[0]
        assert frame.attributes == config
        pictures.append(frame.image.astype(np.float32))
    for index, one in enumerate(pictures):
        for other in pictures[:index]:
            assert np.abs(one - other).mean() > 2.0


def test_weather_and_light_do_not_change_labels() -> None:
    """Labels come from geometry alone."""
    one, other = (
        Drive(
            DriveConfig(
                seed=8,
                width=320,
                height=180,
                frames=1,
                scene='residential',
                weather=weather,
                timeofday=time,
            )
        )[0]
        for weather, time in (('snowy', 'night'), ('clear', 'daytime'))
    )
    for name in ('boxes', 'labels', 'drivable', 'semantic', 'depth'):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_all_classes_occur() -> None:
    """All ten detection classes and all nineteen semantic classes, over some seeds."""
    labels: set[int] = set()
    semantic: set[int] = set()
    for frame in scenes():
        labels |= set(frame.labels.tolist())
        semantic |= set(np.unique(frame.semantic).tolist())
    missing = {tasks.DETECTION.classes[i] for i in range(10)} - {
        tasks.DETECTION.classes[i] for i in labels
    }
    assert not missing
    assert {tasks.SEMANTIC.classes[i] for i in range(19) if i not in semantic} == set()


def test_attributes_are_drawn_with_variety() -> None:
    """Unset attributes differ from seed to seed and are classes of their tasks."""
    for task in (tasks.WEATHER, tasks.SCENE, tasks.TIME_OF_DAY):
        assert {frame.attributes[task.name] for frame in scenes()} == set(task.classes)


@pytest.mark.parametrize('scene', ['city street', 'highway'])
def test_tracks_move_smoothly(scene: str) -> None:
    """An id keeps its class, and the boxes of frames 0.1 s apart mostly overlap or are close."""
    frames = drive(scene)
    shared = 0
    label_of: dict[int, int] = {}
    jumps = []
    for before, after in zip(frames[:-1], frames[1:], strict=True):
        places = dict(zip(before.track_ids.tolist(), before.boxes, strict=True))
        for track, label, box in zip(
            after.track_ids.tolist(), after.labels.tolist(), after.boxes, strict=True
        ):
            assert label_of.setdefault(track, label) == label
            if track not in places:
                continue
            shared += 1
            old = places[track]
            size = max(old[2] - old[0], old[3] - old[1], 8.0)
            jumps.append(
                np.abs((box + box[[2, 3, 0, 1]] - old - old[[2, 3, 0, 1]]) / 2).max() / size
            )
    total = sum(len(frame.labels) for frame in frames[1:])
    assert shared > 0.75 * total
    assert np.quantile(jumps, 0.9) < 0.5
    assert not np.array_equal(frames[0].image, frames[-1].image)
    assert [round(frame.time_s, 6) for frame in frames[:3]] == [0.0, 0.1, 0.2]


@pytest.mark.parametrize(
    ('wrong', 'allowed'),
    [
        ({'weather': 'hail'}, 'partly cloudy'),
        ({'scene': 'moon'}, 'gas stations'),
        ({'timeofday': 'noon'}, 'dawn/dusk'),
        ({'width': 0}, '32'),
        ({'frames': 0}, '1 or more'),
        ({'rate_hz': 0.0}, 'above 0'),
        ({'seed': -1}, '0 or more'),
    ],
)
def test_bad_config_names_what_is_allowed(wrong: dict[str, str], allowed: str) -> None:
    """A wrong value is an error that says what would be right."""
    with pytest.raises(ValueError, match=allowed):
        DriveConfig(**wrong)


def test_objects_stand_at_the_foot_of_their_boxes():
    """Of cars ahead whose foot is seen: it is projected to the lower edge of the box."""
    drive = Drive(DriveConfig(seed=3, width=640, height=360, frames=21, scene='highway'))
    frame = drive[20]
    camera = drive.camera
    car = tasks.DETECTION.classes.index('car')
    found = []
    for (x1, _, x2, y2), label, foot in zip(frame.boxes, frame.labels, frame.feet, strict=True):
        below = frame.semantic[min(int(y2) + 1, 359), int((x1 + x2) / 2)]
        if label == car and below == 0 and x1 > 0 and x2 < 640:  # on the road, not cut off
            row = foot[1] * camera.focal / foot[2] + camera.centre_y
            found.append(y2 - 0.5 - row)

    assert len(found) >= 3 and np.abs(found).max() < 2
    assert frame.feet.shape == (len(frame.boxes), 3)
