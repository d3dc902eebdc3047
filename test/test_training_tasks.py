"""Heads, losses and the assigner: edge cases and closed forms."""

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from mtl_perception.tasks import DETECTION, DRIVABLE, SEMANTIC, TIME_OF_DAY, WEATHER  # noqa: E402
from training.networks.hydranet import HydraNet, output_specs  # noqa: E402
from training.networks.trunk import Trunk  # noqa: E402
from training.tasks import make_head  # noqa: E402
from training.tasks.detection import BoxTarget, assign  # noqa: E402
from training.train import TaskLosses  # noqa: E402

TASKS = (DETECTION, DRIVABLE, SEMANTIC, WEATHER, TIME_OF_DAY)
EMPTY = BoxTarget(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4))


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return HydraNet('pvt_v2_b0', TASKS)


@pytest.fixture
def image():
    return torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)


def test_trunk_without_a_stride_4_pyramid_is_refused():
    with pytest.raises(ValueError, match='strides'):
        Trunk('vit_tiny_patch16_224')


def test_output_specs_follow_the_graph_contract(network):
    specs = {spec.name: spec for spec in output_specs(network.eval(), 64, 96)}
    assert specs['boxes'].shape[1] == 4 and specs['boxes'].dtype == 'float32'
    assert specs['labels'].dtype == 'int64'
    assert specs['semantic'].shape == (19, 16, 24) and specs['semantic'].stride == 4
    assert specs['weather'].meaning == 'probabilities'


def test_unlabelled_tasks_add_no_loss_and_no_gradient(network, image):
    targets = {task.name: [None, None] for task in TASKS} | {'weather': [None, 2]}
    losses = TaskLosses(network).train()(image, targets)
    assert set(losses) == {'weather'}
    network.zero_grad()
    losses['weather'].backward()
    assert all(p.grad is None for p in network.head('semantic').parameters())
    assert all(p.grad is not None for p in network.head('weather').parameters())


def test_batch_without_any_label_has_no_loss(network, image):
    assert TaskLosses(network)(image, {task.name: [None, None] for task in TASKS}) == {}


def test_image_without_boxes_trains_the_background_only(network, image):
    head = network.head('detection')
    loss = head.loss(head(network.features(image)), [EMPTY, EMPTY])
    assert torch.isfinite(loss) and loss > 0


def test_fully_unlabelled_mask_costs_nothing():
    head = make_head(SEMANTIC, [8] * 4, 8)
    loss = head.loss(torch.randn(1, 19, 8, 8), [torch.full((32, 32), 255, dtype=torch.uint8)])
    assert loss == 0


def test_class_mask_loss_is_cross_entropy():
    head = make_head(DRIVABLE, [8] * 4, 8)
    logits = torch.randn(1, 3, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    logits = logits[:, :, ::4, ::4].mean((2, 3), keepdim=True).expand(1, 3, 8, 8)
    target = torch.ones(32, 32, dtype=torch.uint8)
    expected = -logits[0, :, 0, 0].log_softmax(0)[1]
    assert torch.allclose(head.loss(logits, [target]), expected, atol=1e-6)


def test_class_set_loss_is_minus_log_of_the_summed_probability():
    head = make_head(DRIVABLE, [8] * 4, 8)
    logits = torch.tensor([2.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    road = torch.full((32, 32), 3, dtype=torch.uint8)  # {direct, alternative}
    p = torch.tensor([2.0, 1.0, 0.0]).softmax(0)
    assert torch.allclose(head.loss(logits, [road]), -(p[0] + p[1]).log(), atol=1e-6)


def grid(height=8, width=8, stride=8.0):
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    points = (torch.stack((xs, ys), -1).reshape(-1, 2) + 0.5) * stride
    return points, torch.full((len(points),), stride)


def test_assigner_gives_each_box_its_aligned_points():
    points, strides = grid()
    truth = torch.tensor([[0.0, 0, 32, 32], [32, 32, 64, 64]])
    target = BoxTarget(truth, torch.tensor([2, 0]), torch.zeros(0, 4))
    # Every point predicts the box that it lies in, exactly.
    predicted = truth[((points > 32).all(1)).long()]
    matched, quality = assign(torch.full((64, 10), 0.5), predicted, points, strides, target)
    for box in (0, 1):
        rows = (matched == box).nonzero().squeeze(1)
        assert len(rows) == 10
        inner = (points[rows] > truth[box, :2]) & (points[rows] < truth[box, 2:])
        assert inner.all()
        assert torch.allclose(quality[rows], torch.ones(10))  # IoU 1, the best alignment
    assert (quality[matched < 0] == 0).all()


def test_assigner_finds_points_for_a_box_smaller_than_a_cell():
    points, strides = grid()
    target = BoxTarget(torch.tensor([[5.0, 5, 7, 7]]), torch.tensor([9]), torch.zeros(0, 4))
    boxes = torch.cat((points - 4, points + 4), 1)
    matched, _ = assign(torch.full((64, 10), 0.1), boxes, points, strides, target)
    assert (matched == 0).any()


def test_points_in_ignored_regions_add_no_classification_loss():
    head = make_head(DETECTION, [8] * 4, 8).eval()
    from training.tasks.base import Features

    maps = [torch.randn(1, 8, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    outputs = head(Features(maps, maps))
    everywhere = BoxTarget(EMPTY.boxes, EMPTY.labels, torch.tensor([[0.0, 0, 64, 64]]))
    assert head.loss(outputs, [EMPTY]) > 0
    assert head.loss(outputs, [everywhere]) == 0


def test_deployed_boxes_are_the_best_points_in_order():
    head = make_head(DETECTION, [8] * 4, 8).eval()
    from training.tasks.base import Features

    maps = [torch.randn(2, 8, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    outputs = head(Features(maps, maps))
    deployed = head.deploy(outputs)
    count = 64 + 16 + 4
    assert deployed['boxes'].shape == (2, count, 4)
    best = outputs.logits.sigmoid().amax(2).sort(1, descending=True).values
    assert torch.allclose(deployed['scores'], best)
    assert torch.allclose(
        deployed['boxes'].sort(1).values, head.boxes(outputs).sort(1).values, atol=1e-4
    )


def test_distribution_loss_vanishes_for_sharp_and_right_distances():
    head = make_head(DETECTION, [8] * 4, 8).eval()
    from training.tasks.base import Features

    maps = [torch.zeros(1, 8, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    outputs = head(Features(maps, maps))
    sharp = torch.full_like(outputs.distances, -50.0)
    sharp[..., 2] = 50.0  # every point: two strides to each side
    outputs = type(outputs)(outputs.logits, sharp, outputs.points, outputs.strides)
    rows = torch.tensor([27])
    wanted = head.boxes(outputs)[0][rows]
    assert torch.allclose(head._dfl(outputs, 0, rows, wanted), torch.zeros(1), atol=1e-5)
