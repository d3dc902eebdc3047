# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Networks: weights of trunks from files, the peers' references, the command."""

import pickle
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
timm = pytest.importorskip('timm', reason='training extras are not installed')

from safetensors.torch import load_file, save_file  # noqa: E402
from torch.nn.modules.batchnorm import _BatchNorm  # noqa: E402

from mtl_perception.tasks import DETECTION, DRIVABLE, LANE, SEMANTIC, WEATHER, Task  # noqa: E402
from training.config import ConfigError, NetworkConfig  # noqa: E402
from training.export import round_weights, save_weights  # noqa: E402
from training.network_error import NetworkError  # noqa: E402
from training.networks.__main__ import main  # noqa: E402
from training.networks.base import output_specs  # noqa: E402
from training.networks.build import ARCHITECTURES, build_network  # noqa: E402
from training.networks.references import anchor_head, yolo_head  # noqa: E402
from training.networks.references.twinlitenet_plus import _patches, _together  # noqa: E402
from training.networks.trunk import Trunk  # noqa: E402
from training.tasks.assigners import BoxTarget  # noqa: E402
from training.train import TaskLosses, synchronise  # noqa: E402

CONFIG = Path(__file__).parents[2] / 'training' / 'configs' / 'demo.yaml'
SMALL = 'mobilenetv3_small_050'
LITE = 'tf_efficientnet_lite0'
VEHICLE = Task('vehicle', 'detection', ('vehicle',))
ROAD = Task('road', 'segmentation', ('road', 'background'))
EMPTY = BoxTarget(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4))
PUBLISHED = {
    'yolop': (7.9, (VEHICLE, ROAD, LANE)),
    'hybridnets': (12.83, (VEHICLE, ROAD, LANE)),
    'twinlitenet_plus_large': (1.94, (ROAD, LANE)),
    'twinlitenet_plus_medium': (0.48, (ROAD, LANE)),
}
"""Million parameters that the papers state, and the tasks that they state them for."""


def truth(boxes, labels=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.zeros(len(boxes), dtype=torch.long) if labels is None else torch.tensor(labels)
    return BoxTarget(boxes, labels, torch.zeros(0, 4))


def test_trunk_without_a_stride_4_pyramid_is_refused():
    with pytest.raises(NetworkError, match='strides'):
        Trunk('vit_tiny_patch16_224')


def test_unknown_trunk_is_named_with_its_neighbours():
    with pytest.raises(NetworkError, match=r"'pvt_v2_b9' is no timm model; near it: .*pvt_v2_b0"):
        Trunk('pvt_v2_b9')


def test_trunks_without_stochastic_depth_are_taken_without_it():
    assert Trunk('efficientvit_b0').channels == [16, 32, 64, 128]
    with pytest.raises(NetworkError, match=r"'efficientvit_b0' has no stochastic depth; .*0.1"):
        Trunk('efficientvit_b0', drop_path_rate=0.1)


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """A timm model with weights of its own and the file that holds them."""
    torch.manual_seed(0)
    model = timm.create_model(SMALL)
    path = tmp_path_factory.mktemp('weights') / 'small.safetensors'
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return model, path


def assert_holds(trunk, expected):
    """Every tensor of the trunk is the one of that name."""
    found = trunk.body.state_dict()
    assert len(found) > 50
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_weights_come_from_a_safetensors_file(small):
    model, path = small
    assert_holds(Trunk(SMALL, weights=str(path)), model.state_dict())


def test_weights_come_from_a_wrapped_pth_file(small, tmp_path):
    model, _ = small
    torch.save({'epoch': 3, 'state_dict': model.state_dict()}, tmp_path / 'small.pth')
    assert_holds(Trunk(SMALL, weights=str(tmp_path / 'small.pth')), model.state_dict())


def test_weights_come_from_an_installed_package(small, tmp_path, monkeypatch):
    """Under the names of `efficientnet-pytorch`, as the packages on PyPI have them."""
    torch.manual_seed(1)
    model = timm.create_model(LITE)
    info = tmp_path / 'some_weights-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n')
    (info / 'RECORD').write_text('some_weights/lite0.pth,,\nsome_weights/__init__.py,,\n')
    (tmp_path / 'some_weights').mkdir()
    torch.save(as_efficientnet_pytorch(model), tmp_path / 'some_weights' / 'lite0.pth')
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
    assert_holds(Trunk(LITE, weights='pypi:some-weights'), model.state_dict())


def as_efficientnet_pytorch(model):
    """timm's tensors in the order in which both libraries list them, under the other names."""
    names = ['_conv_stem.weight', *norm('_bn0')]
    for i, block in enumerate(block for stage in model.blocks for block in stage):
        at = f'_blocks.{i}.'
        if hasattr(block, 'conv_pwl'):
            names += [f'{at}_expand_conv.weight', *norm(f'{at}_bn0')]
        names += [f'{at}_depthwise_conv.weight', *norm(f'{at}_bn1')]
        names += [f'{at}_project_conv.weight', *norm(f'{at}_bn2')]
    names += ['_conv_head.weight', *norm('_bn1'), '_fc.weight', '_fc.bias']
    return dict(zip(names, model.state_dict().values(), strict=True))


def norm(name):
    parts = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    return [f'{name}.{part}' for part in parts]


def trained_trunk(folder):
    """A trunk that is no longer as it began, in files as runs and bundles have them."""
    torch.manual_seed(2)
    network = build_network(NetworkConfig(trunk=SMALL, neck_channels=16), (WEATHER,)).train()
    network.trunk(torch.rand(2, 3, 64, 64) * 255)  # moves the batch statistics too
    save_file(network.state_dict(), folder / 'ema.safetensors')
    round_weights(network)
    save_weights(network, folder / 'weights.safetensors')
    return network.trunk


def test_weights_come_from_an_earlier_run_of_ours(tmp_path):
    trained = trained_trunk(tmp_path)
    rounded = Trunk(SMALL, weights=str(tmp_path / 'weights.safetensors')).state_dict()
    assert all(torch.equal(rounded[name], value) for name, value in trained.state_dict().items())
    path = str(tmp_path / 'ema.safetensors')
    network = build_network(NetworkConfig(trunk=SMALL, trunk_weights=path), (DRIVABLE,))
    stored = load_file(path)
    assert_holds(network.trunk, {name.removeprefix('trunk.body.'): x for name, x in stored.items()})


def test_the_trunk_of_another_run_is_refused(tmp_path):
    trained_trunk(tmp_path)
    message = r"ema\.safetensors does not hold the weights of 'resnet18'.*Missing key"
    with pytest.raises(NetworkError, match=message):
        Trunk('resnet18', weights=str(tmp_path / 'ema.safetensors'))


def test_weights_of_another_model_are_refused(small):
    with pytest.raises(NetworkError, match=r"does not hold the weights of 'resnet18'.*Missing"):
        Trunk('resnet18', weights=str(small[1]))


def test_files_that_are_no_weights_are_refused(tmp_path):
    class Dangerous:
        def __reduce__(self):
            return (exec, ('raise SystemExit',))

    (tmp_path / 'code.pth').write_bytes(pickle.dumps(Dangerous(), protocol=2))
    (tmp_path / 'broken.safetensors').write_bytes(b'no weights')
    torch.save([1, 2], tmp_path / 'list.pth')
    for name, message in (
        ('code.pth', 'cannot be read'), ('broken.safetensors', 'cannot be read'),
        ('list.pth', 'no tensors'), ('missing.pth', r'no \.safetensors or \.pth file'),
    ):  # fmt: skip
        with pytest.raises(NetworkError, match=message):
            Trunk(SMALL, weights=str(tmp_path / name))
    with pytest.raises(NetworkError, match='pip install no-such-weights'):
        Trunk(SMALL, weights='pypi:no-such-weights')


@pytest.mark.parametrize('name', [SMALL, 'pvt_v2_b0'])
def test_frozen_stages_keep_weights_and_statistics(name):
    trunk = Trunk(name, drop_path_rate=0.5, frozen_stages=2).train()
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    image = torch.randint(0, 256, (2, 3, 64, 64)).float()
    low = trunk(image)[1]
    features = trunk(image)

    assert torch.equal(features[1], low), 'frozen stages drop nothing'
    assert not features[1].requires_grad
    assert features[2].requires_grad
    sum(feature.sum() for feature in features).backward()
    after = trunk.state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    frozen = {key for key, value in trunk.named_parameters() if not value.requires_grad}
    trained = {key for key, value in trunk.named_parameters() if value.grad is not None}
    assert frozen
    assert trained
    assert not frozen & trained
    owners = {key.rsplit('.', 1)[0] for key in moved}
    assert not owners & {key.rsplit('.', 1)[0] for key in frozen}, 'statistics of frozen norms'


def test_frozen_norms_that_are_made_synchronised_stay_frozen():
    network = build_network(NetworkConfig(trunk='resnet10t', frozen_stages=2), (WEATHER,)).train()
    frozen = {name for name, norm in norms(network) if not norm.training}

    synchronise(network)

    assert 'trunk.body.bn1' in frozen
    assert {name for name, norm in norms(network.train()) if not norm.training} == frozen


def test_norms_of_heads_wait_for_no_other_device():
    """A device without labels of a task leaves its head out."""
    network = build_network(NetworkConfig(trunk='resnet10t'), (WEATHER, SEMANTIC))

    synchronise(network)

    waiting = {name for name, norm in norms(network) if isinstance(norm, torch.nn.SyncBatchNorm)}
    own = {name for name, _ in norms(network)} - waiting
    assert {name.partition('.')[0] for name in waiting} == {'trunk', 'neck'}
    assert own and all(name.startswith('heads.') for name in own)


def norms(network):
    return [(name, m) for name, m in network.named_modules() if isinstance(m, _BatchNorm)]


def test_stages_that_cannot_be_frozen_are_refused():
    with pytest.raises(NetworkError, match='expected 0 to 4, found 5'):
        Trunk(SMALL, frozen_stages=5)


def test_trained_weights_need_no_imagenet_file():
    config = NetworkConfig(trunk=SMALL, trunk_weights='not/there.pth')
    build_network(config, (WEATHER,), initialise=False)
    with pytest.raises(ConfigError, match='not/there'):
        build_network(config, (WEATHER,))


@pytest.mark.parametrize('name', PUBLISHED)
def test_references_have_the_published_number_of_parameters(name):
    published, tasks = PUBLISHED[name]
    network = build_network(NetworkConfig(architecture=name), tasks)
    count = sum(p.numel() for p in network.parameters()) / 1e6
    assert count == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize('name', PUBLISHED)
def test_references_train_on_our_tasks_and_deploy_by_the_contract(name):
    torch.manual_seed(0)
    tasks = (DETECTION, DRIVABLE, SEMANTIC, WEATHER)[name.startswith('twin') :]
    network = build_network(NetworkConfig(architecture=name), tasks)
    image = torch.randint(0, 256, (2, 3, 64, 128), dtype=torch.uint8)
    targets = {
        'detection': [EMPTY, truth([[3, 3, 5, 5], [10, 10, 60, 50]], [0, 9])],
        'drivable': [None, torch.randint(0, 4, (64, 128), dtype=torch.uint8)],
        'semantic': [torch.randint(0, 26, (64, 128), dtype=torch.uint8), None],
        'weather': [2, None],
    }
    losses = TaskLosses(network).train()(image, targets)
    assert set(losses) == {task.name for task in tasks}
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    specs = {spec.meaning: spec for spec in output_specs(network, 64, 128)}
    stride = specs['logits'].stride
    assert specs['logits'].shape == (19, 64 // stride, 128 // stride)
    if 'boxes' in specs:
        assert specs['boxes'].shape == (300, 4) and specs['labels'].dtype == 'int64'


def test_what_an_architecture_cannot_do_is_said():
    for name, tasks, message in (
        ('twinlitenet_plus_large', (DETECTION,), 'no detection; leave the task out'),
        ('resnet', (WEATHER,), r"expected one of \['hydranet', 'yolop'"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_network(NetworkConfig(architecture=name), tasks)
    with pytest.raises(ConfigError, match='trunk of its own'):
        build_network(NetworkConfig(architecture='yolop', pretrained=True), (WEATHER,))


def outputs_of(head, size=64):
    """Outputs for maps of zeros: the head's shapes and places."""
    from training.tasks.base import Features

    maps = [torch.zeros(1, 8, size // s, size // s) for s in (8, 8, 16, 32)]
    return head(Features(maps, maps))


def test_yolo_anchors_of_like_shape_near_the_centre_answer():
    outputs = outputs_of(yolo_head.YoloHead(VEHICLE, (8, 8, 8)))
    matched = yolo_head.match(outputs, truth([[24, 24, 42, 52]]))  # centre 33, 38; 18 x 28
    rows = (matched == 0).nonzero().squeeze(1)
    at_8 = rows[outputs.stride[rows] == 8]
    # Cell (4, 4), the nearest beside it (3, 4) and below it (4, 5), with all three shapes.
    assert {tuple(c) for c in (outputs.corner[at_8] / 8).int().tolist()} == {(4, 4), (3, 4), (4, 5)}
    assert len(at_8) == 9
    ratio = torch.tensor([18.0, 28]) / outputs.anchor[rows]
    assert (torch.maximum(ratio, 1 / ratio) < yolo_head.MOST_RATIO).all()


def test_yolo_boxes_that_fit_no_anchor_get_the_nearest_shape():
    outputs = outputs_of(yolo_head.YoloHead(VEHICLE, (8, 8, 8)))
    matched = yolo_head.match(outputs, truth([[20, 20, 21, 21]]))
    (row,) = (matched == 0).nonzero().squeeze(1)
    assert outputs.anchor[row].tolist() == [10, 13] and outputs.corner[row].tolist() == [16, 16]


def test_yolo_boxes_are_anchors_in_the_middle_of_the_cell_for_zero_logits():
    head = yolo_head.YoloHead(VEHICLE, (8, 8, 8))
    outputs = outputs_of(head)
    boxes = head.boxes(
        torch.zeros_like(outputs.raw[0, :, :4]), outputs.corner, outputs.anchor, outputs.stride
    )
    assert torch.allclose(boxes[:, 2:] - boxes[:, :2], outputs.anchor)
    middle = outputs.corner + outputs.stride[:, None] / 2
    assert torch.allclose((boxes[:, 2:] + boxes[:, :2]) / 2, middle)


def test_anchors_answer_by_iou_and_a_box_without_one_gets_its_best():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 9, 4.5], [50, 50, 90, 90]])
    matched, counted = anchor_head.match(anchors, truth([[0, 0, 10, 10], [50, 50, 60, 60]]))
    assert matched.tolist() == [0, 0, -1, 1]
    assert counted.tolist() == [True, True, False, True]  # 0.405: neither positive nor negative


def test_anchor_offsets_are_inverted_by_the_boxes():
    head = anchor_head.AnchorHead(VEHICLE, 8, 4)
    anchors = torch.tensor([[0.0, 0, 16, 16], [8, 8, 40, 24]])
    boxes = torch.tensor([[2.0, 3, 9, 30], [0, 0, 64, 64]])
    found = head.boxes(anchor_head._offsets(anchors, boxes), anchors)
    assert torch.allclose(found, boxes, atol=1e-4)


def test_patches_come_together_again():
    x = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12)
    patches = _patches(x)
    assert patches.shape == (2, 8, 3, 12)
    assert torch.equal(patches[0, 1, 0].view(4, 3), x[0, 0, :4, 3:6])
    assert torch.equal(_together(patches, 8, 12), x)


def test_command_prints_parts_and_refuses_what_cannot_be_built(capsys):
    size = ['augment.input_height=64', 'augment.input_width=96']
    assert main([str(CONFIG), f'network.trunk={SMALL}', *size]) == 0
    printed = capsys.readouterr().out
    assert 'heads.semantic' in printed and 'GFLOPs' in printed
    assert main([str(CONFIG), 'network.architecture=resnet']) == 1
    assert 'expected one of' in capsys.readouterr().err
    assert 'hydranet' in ARCHITECTURES
