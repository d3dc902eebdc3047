# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Detection: assigners in closed form, the head's losses, and boxes that need no suppression."""

from dataclasses import replace

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

import numpy as np  # noqa: E402
from torchvision.ops import generalized_box_iou_loss  # noqa: E402

from mtl_perception import decode  # noqa: E402
from mtl_perception.bundle import OutputSpec  # noqa: E402
from mtl_perception.letterbox import Letterbox  # noqa: E402
from mtl_perception.tasks import DETECTION, Task  # noqa: E402
from training.tasks import make_head  # noqa: E402
from training.tasks.assigners import (  # noqa: E402
    ATSS_ANCHOR,
    Assignment,
    Points,
    adaptive,
    one_to_one,
    task_aligned,
)
from training.tasks.base import Features  # noqa: E402
from training.tasks.detection import (  # noqa: E402
    BINS,
    CLASS_LOSSES,
    FIRST_DISTANCE,
    DetectionConfig,
    DetectionHead,
    giou_loss,
)
from training.tasks.targets import BoxTarget, BoxTargets  # noqa: E402

EMPTY = BoxTarget(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4))
ASSIGNERS = {'tal': task_aligned, 'atss': adaptive, 'one_to_one': one_to_one}


def assign(method, probabilities, boxes, points, target):
    """An assigner on one image."""
    matched, quality = method(probabilities[None], boxes[None], points, BoxTargets.pack([target]))
    return Assignment(matched[0], quality[0])


OPTIONS = {
    'default': DetectionConfig(),
    'p2': DetectionConfig(levels='p2-p5'),
    'atss': DetectionConfig(assigner='atss'),
    'quality_focal': DetectionConfig(class_loss='quality_focal'),
    'one_to_one': DetectionConfig(one_to_one=True),
    'no tower': DetectionConfig(tower_depth=0),
}


def truth(boxes, labels=None, ignored=()):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.zeros(len(boxes), dtype=torch.long) if labels is None else torch.tensor(labels)
    return BoxTarget(boxes, labels, torch.tensor(ignored, dtype=torch.float32).reshape(-1, 4))


def grid(height=8, width=8, stride=8.0):
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    xy = (torch.stack((xs, ys), -1).reshape(-1, 2) + 0.5) * stride
    return Points(xy, torch.full((len(xy),), stride), (len(xy),))


def maps(batch=1, channels=8, size=64):
    levels = [torch.randn(batch, channels, size // s, size // s) for s in (4, 8, 16, 32)]
    return Features(levels, levels)


def test_task_alignment_gives_each_box_its_aligned_points():
    points = grid()
    target = truth([[0, 0, 32, 32], [32, 32, 64, 64]], [2, 0])
    # Every point predicts the box that it lies in, exactly.
    predicted = target.boxes[((points.xy > 32).all(1)).long()]
    matched, quality = assign(task_aligned, torch.full((64, 10), 0.5), predicted, points, target)
    for box in (0, 1):
        rows = (matched == box).nonzero().squeeze(1)
        assert len(rows) == 10
        inner = (points.xy[rows] > target.boxes[box, :2]) & (
            points.xy[rows] < target.boxes[box, 2:]
        )
        assert inner.all()
        assert torch.allclose(quality[rows], torch.ones(10))  # IoU 1, the best alignment
    assert (quality[matched < 0] == 0).all()


def test_quality_falls_with_the_alignment():
    points = grid(1, 2)
    target = truth([[0, 0, 16, 8]])
    boxes = torch.tensor([[0.0, 0, 16, 8], [0, 0, 8, 8]])  # IoU 1 and 1/2
    matched, quality = assign(task_aligned, torch.full((2, 10), 0.25), boxes, points, target)
    assert matched.tolist() == [0, 0]
    assert torch.allclose(quality, torch.tensor([1.0, 0.5**6]), rtol=1e-4)


def test_a_fresh_head_gives_even_hopeless_boxes_their_iou_as_best_quality():
    """IoU to the sixth power is tiny: it must not be lost in a floor of the division."""
    points = grid()
    boxes = torch.cat((points.xy - 100, points.xy + 100), 1)
    target = truth([[28, 28, 36, 36]])
    _, quality = assign(task_aligned, torch.full((64, 10), 0.01), boxes, points, target)
    assert quality.max() == pytest.approx(64 / 40_000, rel=0.02)


def test_atss_takes_candidates_above_mean_plus_deviation():
    points = grid()
    target = truth([[8, 8, 56, 56]])
    matched, _ = assign(adaptive, torch.rand(64, 10), torch.rand(64, 4), points, target)
    centre = torch.tensor([32.0, 32.0])
    nearest = (points.xy - centre).norm(dim=1).topk(9, largest=False).indices
    half = ATSS_ANCHOR * 8 / 2
    overlaps = {}
    for i in nearest.tolist():  # an anchor of 64 pixels around the point, a box of 48
        covered = [
            min(56, float(points.xy[i, a]) + half) - max(8, float(points.xy[i, a]) - half)
            for a in (0, 1)
        ]
        both = covered[0] * covered[1]
        overlaps[i] = both / (64 * 64 + 48 * 48 - both)
    values = np.array(list(overlaps.values()))
    threshold = values.mean() + values.std(ddof=1)
    expected = {i for i, value in overlaps.items() if value >= threshold - 1e-6}
    assert set((matched == 0).nonzero().squeeze(1).tolist()) == expected


@pytest.mark.parametrize('name', ASSIGNERS)
def test_a_box_smaller_than_a_cell_finds_a_point(name):
    points = grid()
    boxes = torch.cat((points.xy - 4, points.xy + 4), 1)
    target = truth([[5, 5, 7, 7]], [9])
    matched, _ = assign(ASSIGNERS[name], torch.full((64, 10), 0.1), boxes, points, target)
    assert (matched == 0).any()


@pytest.mark.parametrize('name', ASSIGNERS)
def test_no_box_no_match(name):
    points = grid()
    matched, quality = assign(ASSIGNERS[name], torch.rand(64, 10), torch.rand(64, 4), points, EMPTY)
    assert (matched == -1).all() and (quality == 0).all()


def test_one_to_one_gives_every_box_its_own_point_even_where_boxes_coincide():
    points = grid()
    target = truth([[0, 0, 32, 32]] * 3 + [[32, 32, 64, 64]], [0, 0, 1, 0])
    boxes = torch.cat((points.xy - 16, points.xy + 16), 1)
    torch.manual_seed(0)
    matched, quality = assign(one_to_one, torch.rand(64, 10), boxes, points, target)
    assert sorted(matched[matched >= 0].tolist()) == [0, 1, 2, 3]
    assert ((quality > 0) == (matched >= 0)).all()


def test_one_to_one_takes_the_best_aligned_point():
    points = grid()
    boxes = torch.tensor([[0.0, 0, 1, 1]]).repeat(64, 1)
    boxes[27] = torch.tensor([16.0, 16, 48, 48])
    matched, quality = assign(
        one_to_one, torch.full((64, 10), 0.5), boxes, points, truth([[16, 16, 48, 48]])
    )
    assert (matched == 0).nonzero().tolist() == [[27]] and quality[27] == 1


@pytest.mark.parametrize('name', OPTIONS)
def test_losses_are_finite_with_gradients_for_no_tiny_and_many_boxes(name):
    torch.manual_seed(0)
    head = DetectionHead(DETECTION, [8] * 4, 8, OPTIONS[name]).train()
    many = torch.rand(40, 2) * 50
    targets = [
        EMPTY,
        truth([[3, 3, 4, 4], [0, 0, 64, 64], [63, 63, 64, 64]], [0, 1, 2]),
        truth(torch.cat((many, many + 9), 1).tolist(), [i % 10 for i in range(40)]),
    ]
    loss = head.loss(head(maps(3)), targets)
    assert torch.isfinite(loss) and loss > 0
    assert head.normaliser(targets) == 43
    loss.backward()
    gradients = [p.grad for p in head.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize('name', OPTIONS)
def test_a_batch_has_the_losses_and_gradients_of_its_images(name):
    """Padding and the other images change nothing, whatever is labelled in which."""
    torch.manual_seed(0)
    head = DetectionHead(DETECTION, [8] * 4, 8, OPTIONS[name]).train()
    outputs = head(maps(4))
    many = torch.rand(30, 2) * 50
    covered = torch.arange(10) < 6
    targets = [
        EMPTY._replace(covered=covered, complete=False),
        truth([[3, 3, 4, 4], [0, 0, 64, 64]], [0, 11], [[0, 0, 30, 30]])._replace(covered=covered),
        truth(torch.cat((many, many + 9), 1).tolist(), [i % 13 for i in range(30)]),
        truth([[20, 20, 50, 40]], [10])._replace(complete=False),
    ]
    branches = [b for b in (outputs.one_to_many, outputs.one_to_one) if b is not None]
    leaves = [tensor for b in branches for tensor in (b.logits, b.distances)]

    def row(predictions, i):
        logits, distances = predictions.logits[i : i + 1], predictions.distances[i : i + 1]
        return replace(predictions, logits=logits, distances=distances)

    whole = head.loss(outputs, targets)
    single = sum(
        head.loss(type(outputs)(*(
            branch and row(branch, i) for branch in (outputs.one_to_many, outputs.one_to_one)
        )), [target])
        for i, target in enumerate(targets)
    )  # fmt: skip
    torch.testing.assert_close(whole, single)
    for a, b in zip(
        torch.autograd.grad(whole, leaves, retain_graph=True),
        torch.autograd.grad(single, leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_giou_is_that_of_torchvision():
    torch.manual_seed(0)
    corners = torch.rand(2, 50, 2) * 20
    boxes, wanted = torch.cat((corners, corners + torch.rand(2, 50, 2) * 20), 2)
    expected = generalized_box_iou_loss(boxes, wanted)
    torch.testing.assert_close(giou_loss(boxes, wanted), expected)


@pytest.mark.parametrize('class_loss', CLASS_LOSSES)
def test_points_in_ignored_regions_add_no_classification_loss(class_loss):
    config = DetectionConfig(class_loss=class_loss)
    head = DetectionHead(DETECTION, [8] * 4, 8, config).eval()
    outputs = head(maps())
    everywhere = EMPTY._replace(ignored=torch.tensor([[0.0, 0, 64, 64]]))
    assert head.loss(outputs, [EMPTY]) > 0
    assert head.loss(outputs, [everywhere]) == 0


def test_a_fresh_head_predicts_boxes_of_the_size_its_level_is_for():
    head = make_head(DETECTION, [8] * 4, 8).eval()
    flat = [torch.zeros(1, 8, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    predictions = head(Features(flat, flat)).deployed
    boxes = head.boxes(predictions)[0]
    sides = (boxes[:, 2] - boxes[:, 0]) / predictions.points.strides
    assert torch.allclose(sides, torch.tensor(2 * FIRST_DISTANCE), rtol=0.05)  # BINS cut the tail


def test_deployed_boxes_are_the_best_pairs_of_point_and_class_in_order():
    torch.manual_seed(0)
    head = make_head(DETECTION, [8] * 4, 8).eval()
    outputs = head(maps(2))
    deployed = head.deploy(outputs)
    count = 64 + 16 + 4
    assert deployed['boxes'].shape == (2, count, 4)
    every = head.boxes(outputs.deployed)
    for image in range(2):
        scores, pairs = outputs.deployed.logits[image].sigmoid().flatten().topk(count)
        assert torch.allclose(deployed['scores'][image], scores)
        assert torch.equal(deployed['labels'][image], pairs % 10)
        assert torch.allclose(deployed['boxes'][image], every[image, pairs // 10], atol=1e-4)


def test_classes_that_a_source_does_not_cover_add_no_loss():
    head = DetectionHead(DETECTION, [8] * 4, 8).eval()
    outputs = head(maps())
    nothing = torch.zeros(10, dtype=torch.bool)
    assert head.loss(outputs, [EMPTY._replace(covered=nothing)]) == 0
    cars = nothing.clone()
    cars[2] = True
    whole, part = head.loss(outputs, [EMPTY]), head.loss(outputs, [EMPTY._replace(covered=cars)])
    assert 0 < part < whole


def test_a_class_set_asks_for_its_likeliest_class_and_leaves_the_others_alone():
    head = DetectionHead(DETECTION, [8] * 4, 8).eval()
    outputs = head(maps())
    predictions = outputs.deployed
    logits = predictions.logits.detach().clone().fill_(-2.0)
    logits[..., 3] = 1.0  # trucks everywhere
    logits.requires_grad_()
    outputs = replace(outputs, one_to_many=replace(predictions, logits=logits))
    vehicle = len(DETECTION.classes)  # the first of CLASS_SETS
    head.loss(outputs, [truth([[16, 16, 48, 48]], [vehicle])]).backward()
    gradient = logits.grad[0]
    answering = (gradient[:, 2] == 0).nonzero().flatten()
    assert len(answering) and (gradient[answering][:, [2, 4, 5]] == 0).all()
    assert (gradient[answering, 3] != 0).all() and (gradient[answering, 0] > 0).all()


def test_where_a_teacher_is_silent_the_sure_student_is_believed():
    head = DetectionHead(DETECTION, [8] * 4, 8).eval()
    outputs = head(maps())
    predictions = outputs.deployed
    logits = predictions.logits.detach().clone().fill_(-9.0)
    logits[0, 5, 2] = 2.0  # one sure car
    outputs = replace(outputs, one_to_many=replace(predictions, logits=logits))
    whole = head.loss(outputs, [EMPTY])
    partial = head.loss(outputs, [EMPTY._replace(complete=False)])
    assert whole > 100 * partial


def test_distribution_loss_vanishes_for_sharp_and_right_distances():
    head = make_head(DETECTION, [8] * 4, 8).eval()
    outputs = head(maps()).deployed
    sharp = torch.full_like(outputs.distances, -50.0)
    sharp[..., 2] = 50.0  # every point: two strides to each side
    outputs = replace(outputs, distances=sharp)
    errors = head._dfl(outputs, head.boxes(outputs))
    assert torch.allclose(errors, torch.zeros_like(errors), atol=1e-5)
    assert sharp.shape[-1] == BINS


def test_one_to_one_leaves_what_is_shared_to_the_other_branch():
    head = DetectionHead(DETECTION, [8] * 4, 8, DetectionConfig(one_to_one=True)).train()
    features = maps()
    for level in features.neck:
        level.requires_grad_()
    outputs = head(features)
    alone = type(outputs)(None, outputs.one_to_one)
    head.loss(alone, [truth([[8, 8, 40, 40]])]).backward()
    assert all(level.grad is None for level in features.neck)
    assert head.one_classify[0][-1].weight.grad is not None


def test_unknown_values_are_named():
    with pytest.raises(ValueError, match=r"detection\.assigner: expected one of \['tal', 'atss'\]"):
        DetectionConfig(assigner='simota')
    with pytest.raises(ValueError, match='levels'):
        DetectionConfig(levels='p3')


def test_a_trained_one_to_one_branch_needs_no_suppression():
    """Memorise two images: as many confident boxes as objects, where the other branch has more."""
    torch.manual_seed(0)
    task = Task('detection', 'detection', ('a', 'b'))
    head = DetectionHead(task, [16] * 4, 16, DetectionConfig(one_to_one=True)).train()
    features = maps(2, 16)
    targets = [
        truth([[4, 4, 40, 40], [44, 8, 60, 24], [36, 40, 64, 64]], [0, 1, 0]),
        truth([[10, 20, 50, 60]], [1]),
    ]
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        head.loss(head(features), targets).backward()
        optimizer.step()
    outputs = head(features)  # batch statistics, as trained

    def found(outputs, meaning):
        deployed = {k: v.detach().numpy() for k, v in head.deploy(outputs).items()}
        specs = {
            key: OutputSpec(name, 'detection', key, 'float32', (1,))
            for key, name in ((meaning, 'boxes'), ('scores', 'scores'), ('labels', 'labels'))
        }
        return [
            decode.boxes.detection(
                task,
                specs,
                {key: deployed[spec.name][i] for key, spec in specs.items()},
                Letterbox.fit(64, 64, 64, 64),
                decode.Thresholds(score=0.5),
            )
            for i in range(2)
        ]

    assert head.deployed_names()['boxes'] == ('unique_boxes', 1)
    single = found(outputs, 'unique_boxes')
    for detections, target in zip(single, targets, strict=True):
        assert len(detections) == len(target.boxes)
        wanted = target.boxes.numpy()
        order = [int(np.abs(detections.boxes - box).sum(1).argmin()) for box in wanted]
        assert sorted(order) == list(range(len(order)))
        np.testing.assert_allclose(detections.boxes[order], wanted, atol=4)
        assert detections.labels[order].tolist() == target.labels.tolist()
    many = found(type(outputs)(outputs.one_to_many, None), 'unique_boxes')
    assert sum(map(len, many)) > sum(map(len, single)), 'suppression would have been needed'
