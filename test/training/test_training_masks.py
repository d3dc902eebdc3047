# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Segmentation: the losses of (sets of) classes in closed form, and the decoders."""

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from torch.nn import functional as F  # noqa: E402

from mtl_perception.tasks import DRIVABLE, SEMANTIC, UNLABELLED  # noqa: E402
from training.network_error import NetworkError  # noqa: E402
from training.tasks.base import Features  # noqa: E402
from training.tasks.decoders import DECODERS, PooledNorm  # noqa: E402
from training.tasks.mask_loss import (  # noqa: E402
    MaskLossConfig,
    amounts,
    lovasz_softmax,
    mask_loss,
    pixel_weight,
)
from training.tasks.segmentation import (  # noqa: E402
    MaskOutputs,
    SegmentationConfig,
    SegmentationHead,
)

ROAD = 3
"""Direct or alternative: the drivable task's class set."""
LEVELS = ((4, 8), (8, 16), (16, 24), (32, 32))
"""Stride and trunk channels."""
MEMBERS = torch.tensor([[True, True, False]])
LOSSES = {
    'cross-entropy': {},
    'ohem': {'ohem': 0.25},
    'boundary': {'boundary': 2.0},
    'lovasz': {'lovasz': 0.5},
    'auxiliary': {'auxiliary': 0.4},
    'ohem + lovasz + auxiliary': {'ohem': 0.5, 'lovasz': 1.0, 'auxiliary': 0.4},
}


def head(task=DRIVABLE, **options):
    return SegmentationHead(task, [8] * 4, 8, SegmentationConfig(**options))


def features(size=64):
    levels = [torch.randn(2, 8, size // s, size // s, requires_grad=True) for s in (4, 8, 16, 32)]
    return Features(levels, levels)


def flat(logits, size=8):
    return MaskOutputs(torch.tensor(logits).view(1, -1, 1, 1).expand(1, -1, size, size))


def mean(head, outputs, *masks):
    return head.loss(outputs, masks) / head.normaliser(masks)


def test_fully_unlabelled_mask_costs_nothing():
    outputs = MaskOutputs(torch.randn(1, 19, 8, 8))
    unlabelled = [torch.full((32, 32), UNLABELLED, dtype=torch.uint8)]
    for options in LOSSES.values():
        assert head(SEMANTIC, **options).loss(outputs, unlabelled) == 0
        assert head(SEMANTIC, **options).normaliser(unlabelled) == 0


def test_class_mask_loss_is_cross_entropy():
    expected = -torch.tensor([2.0, 1.0, 0.0]).log_softmax(0)[1]
    mask = torch.ones(32, 32, dtype=torch.uint8)
    assert torch.allclose(mean(head(), flat([2.0, 1.0, 0.0]), mask), expected, atol=1e-6)


def test_class_set_loss_is_minus_log_of_the_summed_probability():
    p = torch.tensor([2.0, 1.0, 0.0]).softmax(0)
    mask = torch.full((32, 32), ROAD, dtype=torch.uint8)
    expected = -(p[0] + p[1]).log()
    assert torch.allclose(mean(head(), flat([2.0, 1.0, 0.0]), mask), expected, atol=1e-6)


def test_mixed_labels_add_up_pixel_by_pixel():
    mask = torch.full((32, 32), UNLABELLED, dtype=torch.uint8)
    mask[:8], mask[8:12] = 2, ROAD
    p = torch.tensor([2.0, 1.0, 0.0]).softmax(0)
    total = head().loss(flat([2.0, 1.0, 0.0]), [mask])
    # At half resolution: 4 rows of 16 pixels of class 2, 2 rows of the set.
    assert torch.allclose(total, -64 * p[2].log() - 32 * (p[0] + p[1]).log(), rtol=1e-5)


def test_ohem_counts_the_hardest_share_of_each_image():
    logits = torch.zeros(1, 3, 8, 8)
    logits[0, 0, :2] = 5.0  # the first row of labels is right and easy
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    config = MaskLossConfig(ohem=0.75)
    assert amounts(target, config).tolist() == [12]
    expected = 12 * torch.tensor(3.0).log()  # the twelve undecided ones
    assert torch.allclose(mask_loss(logits, target, MEMBERS, config), expected)


def test_border_pixels_weigh_more_and_unlabelled_ones_make_no_border():
    target = torch.zeros(1, 4, 6, dtype=torch.long)
    target[..., 3:] = 1
    target[..., 5] = UNLABELLED
    weight = pixel_weight(target, 2.0)
    assert weight[0, 0].tolist() == [1, 1, 3, 3, 1, 1]
    assert amounts(target, MaskLossConfig(boundary=2.0)).tolist() == [4 * (1 + 1 + 3 + 3 + 1)]


def test_lovasz_of_hard_predictions_is_one_minus_the_mean_iou():
    target = torch.tensor([[0, 0, 0, 1], [1, 1, 2, 2]])
    predicted = torch.tensor([[0, 0, 1, 1], [1, 2, 2, 2]])
    p = F.one_hot(predicted, 3).permute(2, 0, 1).float()
    iou = (2 / 3 + 2 / 4 + 2 / 3) / 3
    none = torch.zeros(0, 3, dtype=torch.bool)
    assert lovasz_softmax(p, target, none).item() == pytest.approx(1 - iou, abs=1e-6)


def test_lovasz_takes_class_sets_as_one_label():
    """Road said as either class is right; a pixel labelled `direct` says nothing against road."""
    target = torch.tensor([[ROAD, ROAD, ROAD, 2]])
    p = F.one_hot(torch.tensor([[0, 1, 2, 2]]), 3).permute(2, 0, 1).float()
    iou = (2 / 3 + 1 / 2) / 2
    assert lovasz_softmax(p, target, MEMBERS).item() == pytest.approx(1 - iou, abs=1e-6)
    both = torch.tensor([[ROAD, 0]])
    p = F.one_hot(torch.tensor([[1, 0]]), 3).permute(2, 0, 1).float()
    assert lovasz_softmax(p, both, MEMBERS) == 0


@pytest.mark.parametrize('name', LOSSES)
def test_losses_are_additive_over_images(name):
    """Parts of a batch and shares of several devices give the loss of the whole."""
    torch.manual_seed(0)
    one = head(SEMANTIC, **LOSSES[name])
    masks = torch.randint(0, 19 + 7, (2, 64, 64), dtype=torch.uint8)
    masks[0, :40] = UNLABELLED
    outputs = one(features())
    whole = one.loss(outputs, list(masks))
    single = [
        one.loss(MaskOutputs(*(o[i : i + 1] for o in outputs if o is not None)), [masks[i]])
        for i in (0, 1)
    ]
    assert torch.isfinite(whole) and torch.allclose(whole, sum(single), rtol=1e-5)
    assert one.normaliser(list(masks)) == one.normaliser([masks[0]]) + one.normaliser([masks[1]])
    (whole / one.normaliser(list(masks))).backward()
    assert all(torch.isfinite(p.grad).all() for p in one.parameters())


@pytest.mark.parametrize('decoder', ['fpn', 'finest', *DECODERS])
def test_decoders_answer_at_their_stride(decoder):
    if decoder in ('upernet', 'semantic_fpn'):
        pytest.importorskip('segmentation_models_pytorch', reason='the decoder is its')
    one = SegmentationHead(DRIVABLE, [8, 16, 24, 32], 32, SegmentationConfig(decoder=decoder))
    trunk = [torch.randn(2, c, 64 // s, 96 // s) for s, c in LEVELS]
    neck = [torch.randn(2, 32, 64 // s, 96 // s) for s, _ in LEVELS]
    outputs = one.train()(Features(trunk, neck))
    stride = 32 if decoder == 'aspp' else 4
    assert one.stride == stride and outputs.auxiliary is None
    assert outputs.logits.shape == (2, 3, 64 // stride, 96 // stride)
    outputs.logits.sum().backward()
    assert all(p.grad is not None for p in one.parameters())


@pytest.mark.parametrize('decoder', ['fpn', 'finest', *DECODERS])
def test_decoders_train_on_a_single_image(decoder):
    """As a part of a step has it in which one image is labelled for the task."""
    if decoder in ('upernet', 'semantic_fpn'):
        pytest.importorskip('segmentation_models_pytorch', reason='the decoder is its')
    one = SegmentationHead(DRIVABLE, [8, 16, 24, 32], 32, SegmentationConfig(decoder=decoder))
    trunk = [torch.randn(1, c, 64 // s, 96 // s) for s, c in LEVELS]
    neck = [torch.randn(1, 32, 64 // s, 96 // s) for s, _ in LEVELS]
    logits = one.train()(Features(trunk, neck)).logits
    logits.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in one.parameters())


def test_a_pooled_branch_is_normalised_by_its_batch_or_by_what_it_has_seen():
    torch.manual_seed(0)
    norm, usual = PooledNorm(3).train(), torch.nn.BatchNorm2d(3).train()
    assert norm.state_dict().keys() == usual.state_dict().keys()
    seen = torch.randn(4, 3, 1, 1)
    assert torch.equal(norm(seen), usual(seen))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    found = norm(seen[:1])
    assert torch.equal(found, usual.eval()(seen[:1]))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_the_auxiliary_classifier_is_for_training_only():
    one = head(auxiliary=0.4)
    assert one.train()(features()).auxiliary.shape == (2, 3, 4, 4)
    outputs = one.eval()(features())
    assert outputs.auxiliary is None and set(one.deploy(outputs)) == {'drivable'}


def test_values_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match='set one'):
        SegmentationConfig(ohem=0.5, boundary=1.0)
    with pytest.raises(ValueError, match=r'segmentation\.decoder: expected one of'):
        SegmentationConfig(decoder='deeplab')
    with pytest.raises(ValueError, match='ohem'):
        SegmentationConfig(ohem=0.0)
    pytest.importorskip('segmentation_models_pytorch', reason='the decoder is its')
    with pytest.raises(NetworkError, match='multiple of 32'):
        SegmentationHead(DRIVABLE, [8] * 4, 48, SegmentationConfig(decoder='semantic_fpn'))
