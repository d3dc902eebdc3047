# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Networks and heads: contracts and partial labels."""

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from mtl_perception.tasks import DETECTION, DRIVABLE, SEMANTIC, TIME_OF_DAY, WEATHER  # noqa: E402
from training.networks.base import output_specs  # noqa: E402
from training.networks.hydranet import HydraNet  # noqa: E402
from training.tasks.assigners import BoxTarget  # noqa: E402
from training.tasks.mask_loss import at_labels  # noqa: E402
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


def test_output_specs_follow_the_graph_contract(network):
    specs = {spec.name: spec for spec in output_specs(network.eval(), 64, 96)}
    assert specs['boxes'].shape[1] == 4 and specs['boxes'].dtype == 'float32'
    assert specs['labels'].dtype == 'int64'
    assert specs['semantic'].shape == (19, 16, 24) and specs['semantic'].stride == 4
    assert specs['weather'].meaning == 'probabilities'


@pytest.mark.parametrize('stride', [1, 4, 16])
def test_the_loss_looks_where_its_labels_were_taken(stride):
    """Labels are every second pixel; a map of places must be read at those pixels' centres."""
    cells = torch.arange(64 // stride) + 0.5
    places = (cells * stride).expand(1, 1, 64 // stride, -1)  # x of each cell, in pixels
    read = at_labels(places, (32, 32))
    inner = slice(stride, -stride)
    assert torch.allclose(read[..., inner], (2 * torch.arange(32.0) + 0.5)[inner])


def test_unlabelled_tasks_add_no_loss_and_no_gradient(network, image):
    targets = {task.name: [None, None] for task in TASKS} | {'weather': [None, 2]}
    losses = TaskLosses(network).train()(image, targets)
    assert set(losses) == {'weather'}
    network.zero_grad()
    losses['weather'].backward()
    assert all(p.grad is None for p in network.head('semantic').parameters())
    assert all(p.grad is not None for p in network.head('weather').parameters())


def test_batch_without_any_label_costs_nothing(network, image):
    losses = TaskLosses(network)(image, {task.name: [None, None] for task in TASKS})
    assert sum(losses.values()) == 0


def test_image_without_boxes_trains_the_background_only(network, image):
    head = network.head('detection')
    loss = head.loss(head(network.features(image)), [EMPTY, EMPTY])
    assert torch.isfinite(loss) and loss > 0
