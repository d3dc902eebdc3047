# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Sharing structures: what every one of them offers, and the property that defines each."""

import dataclasses
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from mtl_perception.tasks import DEPTH, DETECTION, SEMANTIC, WEATHER  # noqa: E402
from training.config import ConfigError, NetworkConfig  # noqa: E402
from training.network_error import NetworkError  # noqa: E402
from training.networks.__main__ import main  # noqa: E402
from training.networks.base import DeployedNetwork, output_specs  # noqa: E402
from training.networks.build import build_network  # noqa: E402
from training.networks.sharing import STRUCTURES  # noqa: E402
from training.networks.sharing.distillation import Messages  # noqa: E402
from training.networks.sharing.mti_net import Propagation  # noqa: E402
from training.networks.stages import StagedTrunk, block_shapes  # noqa: E402
from training.networks.trunk import Trunk  # noqa: E402

CONV, TRANSFORMER = 'test_resnet', 'pvt_v2_b0'
TASKS = (SEMANTIC, DEPTH, WEATHER)
PAIRS = [(name, trunk) for name in STRUCTURES for trunk in (CONV, TRANSFORMER)]
PAIRS.remove(('moe_ffn', CONV))
ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'training' / 'configs' / 'demo.yaml'
DOCUMENT = ROOT / 'docs' / 'networks.md'


def make(name, trunk=CONV, tasks=TASKS, **options):
    torch.manual_seed(0)
    sharing = {'name': name, **options}
    return build_network(NetworkConfig(trunk=trunk, neck_channels=16, sharing=sharing), tasks)


@pytest.fixture(scope='module')
def image():
    torch.manual_seed(1)
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)


@pytest.fixture(scope='module')
def targets():
    torch.manual_seed(2)
    return {
        'semantic': list(torch.randint(0, 19, (2, 64, 64), dtype=torch.uint8)),
        'depth': list(torch.rand(2, 64, 64) + 1),
        'weather': [1, 2],
    }


def loss_of(network, task, features, targets):
    head = network.head(task)
    return head.loss(head(features), targets) / head.normaliser(targets)


@pytest.mark.parametrize(('name', 'trunk'), PAIRS)
def test_every_structure_trains_with_partial_labels_and_deploys(name, trunk, image, targets):
    network = make(name, trunk).train()
    features = network.features(image)
    (features.nothing() + 0).backward(retain_graph=True)  # a batch without labels
    one = torch.tensor([1])
    for task in TASKS:
        network.zero_grad()
        rows, wanted = features, targets[task.name]
        if task is DEPTH:
            rows, wanted = features.rows(one), wanted[1:]
        loss = loss_of(network, task.name, rows, wanted)
        assert torch.isfinite(loss)
        loss.backward(retain_graph=True)
        # What is in a head is reached by no other task's loss.
        for other in TASKS:
            touched = [p.grad is not None for p in network.head(other.name).parameters()]
            assert all(touched) if other is task else not any(touched)
    network.zero_grad()
    sum(loss_of(network, t.name, features, targets[t.name]) for t in TASKS).backward()
    missed = [n for n, p in network.named_parameters() if p.grad is None]
    assert not missed
    owned = sum(p.numel() for t in TASKS for p in network.head(t.name).parameters())
    shared = sum(p.numel() for p in network.shared_parameters())
    assert owned + shared == sum(p.numel() for p in network.parameters())
    specs = {spec.name: spec for spec in output_specs(network.eval(), 64, 64)}
    assert specs['semantic'].shape == (19, 16, 16) and specs['depth'].shape == (16, 16)
    assert specs['weather'].meaning == 'probabilities'


@pytest.mark.parametrize('name', STRUCTURES)
def test_every_structure_is_a_plain_graph(name, image):
    network = make(name, TRANSFORMER if name == 'moe_ffn' else CONV, (SEMANTIC, DEPTH)).eval()
    deployed = DeployedNetwork(network)
    example = image.permute(0, 2, 3, 1).contiguous()
    with torch.no_grad():
        expected = deployed(example)
        graph = torch.export.export(deployed, (example,), strict=False).module()
        found = graph(example)
    for task, value in expected.items():
        assert torch.allclose(found[task], value, atol=1e-5)


@pytest.mark.parametrize('name', ['single', 'cross_stitch', 'mtan', 'cgc', 'adapters', 'mti_net'])
def test_one_task_and_boxes_are_possible(name, image):
    network = make(name, tasks=(DETECTION, DEPTH)).eval()
    assert output_specs(network, 64, 64)
    alone = make(name, tasks=(DEPTH,)).eval()
    assert [spec.name for spec in output_specs(alone, 64, 64)] == ['depth']


@pytest.mark.parametrize('trunk', [CONV, 'test_efficientnet', 'test_convnext', TRANSFORMER])
def test_a_trunk_in_stages_is_the_same_function(trunk, image):
    plain = Trunk(trunk).eval()
    staged = StagedTrunk(plain)
    with torch.no_grad():
        for a, b in zip(plain(image), staged(staged.start(image)), strict=True):
            assert torch.equal(a, b)
    assert all(shape.channels > 0 for shape in block_shapes(staged))


def test_channels_last_trunks_give_channels_first():
    with torch.device('meta'):
        plain = Trunk('swin_tiny_patch4_window7_224')
        zeros = torch.zeros(1, 3, 64, 96)
        levels = plain(zeros)
        staged = StagedTrunk(plain)
        assert [tuple(x.shape) for x in staged(staged.start(zeros))] == [
            tuple(x.shape) for x in levels
        ]
    assert levels[0].shape == (1, 96, 16, 24) and levels[3].shape == (1, 768, 2, 3)


def test_trunks_without_stages_are_refused(monkeypatch):
    plain = Trunk(CONV)
    plain.body = torch.nn.Linear(1, 1)
    with pytest.raises(NetworkError, match='no sequence of stages'):
        StagedTrunk(plain)


@pytest.mark.parametrize('name', ['cross_stitch', 'nddr'])
def test_identity_units_make_separate_networks(name, image):
    network = make(name, own=1.0).eval()
    features = network.features(image)
    for trunk, task in zip(network.trunk, TASKS, strict=True):
        for mixed, alone in zip(
            features.of(task.name).trunk, trunk(trunk.start(image)), strict=True
        ):
            assert torch.allclose(mixed, alone, rtol=1e-3, atol=1e-4)


def test_cross_stitch_mixes_as_its_matrix_says(image):
    network = make('cross_stitch', own=0.8)
    maps = [torch.full((1, 96, 2, 2), float(i)) for i in range(3)]
    mixed = network.mixes[-1](maps)
    assert [x[0, 0, 0, 0].item() for x in mixed] == pytest.approx([0.3, 1.0, 1.7])


def test_mtan_masks_the_shared_features(image):
    network = make('mtan').eval()
    shared = network.features(image).trunk
    head = network.head('depth')
    for own, level in zip(head.attend(shared), shared, strict=True):
        assert (own.abs() <= level.abs()).all() and not torch.equal(own, level)
    with torch.no_grad():
        for attention in head.attention:
            attention.h[1].bias.fill_(50.0)  # the sigmoid says 1
    for own, level in zip(head.attend(shared), shared, strict=True):
        assert torch.allclose(own, level)


@pytest.mark.parametrize('stages', [0, 2])
def test_gates_share_out_the_experts(stages, image):
    network = make('mmoe', shared_stages=stages, experts=3).eval()
    features = network.features(image)
    gate = network.head('depth').gate
    weights = gate(features.trunk[-1])
    assert weights.shape == (2, 3) and torch.allclose(weights.sum(1), torch.ones(2))
    seen = {}
    network.head('depth').head.register_forward_pre_hook(lambda _, args: seen.update(f=args[0]))
    with torch.no_grad():
        gate.linear.weight.zero_()
        gate.linear.bias.copy_(torch.tensor([0.0, 80.0, 0.0]))
        network.head('depth')(features)
    second = features.neck[4 - stages : 2 * (4 - stages)]
    for mixed, expert in zip(seen['f'].trunk[stages:], second, strict=True):
        assert torch.allclose(mixed, expert)


def test_progressive_extraction_mixes_level_by_level(image):
    network = make('ple', shared_stages=1).eval()
    head, features = network.head('depth'), network.features(image)
    own = features.of('depth')
    assert len(own.trunk) == 2 and len(own.neck) == 3  # two levels; two experts, then a shared one
    seen = {}
    head.head.register_forward_pre_hook(lambda _, args: seen.update(f=args[0]))
    with torch.no_grad():
        for gate in (head.before, head.gate):
            gate.linear.weight.zero_()
            gate.linear.bias.copy_(torch.tensor([80.0, 0.0]))  # the shared experts alone
        head(features)
    assert torch.allclose(seen['f'].trunk[2], own.neck[0])
    assert torch.allclose(seen['f'].trunk[3], own.neck[2])
    assert not set(map(id, head.parameters())) & set(map(id, network.shared_parameters()))


def test_messages_are_gated_sums_of_the_other_tasks():
    torch.manual_seed(0)
    messages = Messages(['a', 'b'], 4)
    maps = {task: torch.randn(1, 4, 3, 3) for task in ('a', 'b')}
    found = messages(maps)
    gate = messages.gate['b'](maps['b']).sigmoid()
    assert torch.allclose(found['a'], maps['a'] + gate * messages.message['a']['b'](maps['b']))
    alone = Messages(['a'], 4)
    assert not list(alone.parameters()) and torch.equal(alone(maps)['a'], maps['a'])


def test_propagation_keeps_what_a_task_has():
    propagation = Propagation(['a', 'b'], 8).eval()
    maps = {task: torch.randn(1, 8, 3, 3) for task in ('a', 'b')}
    with torch.no_grad():
        propagation.take['a'].fc2.bias.fill_(-80.0)  # the gate is 0
    assert torch.allclose(propagation(maps)['a'], maps['a'], atol=1e-6)
    assert not torch.allclose(propagation(maps)['b'], maps['b'], atol=1e-3)


@pytest.mark.parametrize(('name', 'answers'), [('pad_net', 1), ('mti_net', 4)])
def test_first_answers_have_a_loss_and_are_not_deployed(name, answers, image, targets):
    network = make(name).train()
    head = network.head('depth')
    outputs = head(network.features(image))
    assert len(outputs.first) == answers
    truth = targets['depth']
    firsts = [h.loss(o, truth) for h, o in zip(head.first, outputs.first, strict=True)]
    last = head.head.loss(outputs.last, truth)
    assert torch.allclose(head.loss(outputs, truth), last + sum(firsts))
    assert network.eval().head('depth')(network.features(image)).first == []
    assert make(name, first_weight=0.0).head('depth').weight == 0


@pytest.mark.parametrize('trunk', [CONV, TRANSFORMER])
def test_adapters_begin_as_the_plain_trunk_and_then_differ_by_task(trunk, image):
    network = make('adapters', trunk).eval()
    plain = network.trunk(network.trunk.start(image))  # nobody's turn
    features = network.features(image)
    for adapted, level in zip(features.of('depth').trunk, plain, strict=True):
        assert torch.allclose(adapted, level, atol=1e-6)
    with torch.no_grad():
        for adapter in network.head('depth').visitor.adapters:
            adapter.gate[-1].bias.fill_(0.5)
    assert not torch.allclose(features.of('depth').trunk[-1], plain[-1], atol=1e-3)
    assert torch.allclose(features.of('semantic').trunk[-1], plain[-1], atol=1e-6)


def test_adashare_that_selects_all_is_the_plain_trunk_and_skipped_blocks_do_not_run(image):
    network = make('adashare', TRANSFORMER).eval()
    plain = network.trunk(network.trunk.start(image))
    features = network.features(image)
    assert torch.equal(features.of('depth').trunk[-1], plain[-1])
    policy = network.head('depth').visitor
    ran = []
    for module in network.trunk.modules():
        if type(module).__name__ == 'Visited':
            module.block.register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        policy.logits[3, 1] = 9.0
    features.of('depth')
    assert len(ran) == len(policy.place) - 1


def test_adashare_draws_in_training_and_its_penalty_is_in_the_loss(image, targets):
    network = make('adashare', TRANSFORMER, start=0.0, sparsity=0.1, sharing=0.5).train()
    head = network.head('depth')
    features = network.features(image)
    assert not torch.equal(features.of('depth').trunk[-1], features.of('depth').trunk[-1])
    outputs = head(features)
    plain = head.head.loss(outputs.outputs, targets['depth'])
    pixels = head.normaliser(targets['depth'])
    penalty = 0.1 * (head.visitor.early * torch.tensor(0.5).log()).mean()
    added = (head.loss(outputs, targets['depth']) - plain) / pixels
    assert added.item() == pytest.approx(penalty.item(), rel=1e-3)


def test_routers_keep_the_best_experts_of_each_token(image, targets):
    network = make('moe_ffn', TRANSFORMER, experts=4, top_k=2).eval()
    routers = network.head('depth').visitor
    weights = routers.weights(0, torch.randn(2, 5, routers.routers[0].in_features))
    assert (weights > 0).sum(-1).eq(2).all() and torch.allclose(weights.sum(-1), torch.ones(2, 5))
    outputs = network.train().head('depth')(network.features(image))
    assert outputs.penalty is not None and outputs.penalty > 0
    assert network.eval().head('depth')(network.features(image)).penalty is None


def test_film_begins_as_hard_sharing(image):
    network = make('film').eval()
    own = network.features(image).of('depth')
    for asked, level in zip(own.neck, network.neck(network.trunk(image)), strict=True):
        assert torch.allclose(asked, level, atol=1e-6)
    with torch.no_grad():
        network.decoder.modulate.weight.normal_(std=0.1)
    features = network.features(image)
    assert not torch.allclose(features.of('depth').neck[0], features.of('semantic').neck[0])


@pytest.mark.parametrize(
    ('sharing', 'more', 'message'),
    [
        ({'name': 'crossstitch'}, {}, "unknown sharing structure.*did you mean 'cross_stitch'"),
        ({'name': 'mmoe', 'expert': 2}, {}, "unknown option of sharing 'mmoe'.*mean 'experts'"),
        ({'name': 'mmoe', 'experts': 0}, {}, 'experts is 0, expected int from 1'),
        ({'name': 'mmoe', 'experts': 2.5}, {}, 'expected int'),
        ({'name': 'hard', 'own': 1}, {}, "unknown option of sharing 'hard'"),
        ({'name': 'mtan'}, {'own_neck': ['depth']}, 'own_neck belongs to sharing'),
        ({'name': 'mtan'}, {'architecture': 'yolop'}, 'is for architecture hydranet'),
        ({'name': 'dselect_k', 'experts': 3}, {}, '2 selected of 3 experts; expected a power'),
        ({'name': 'moe_ffn'}, {}, r'has none; take pvt_v2'),
        ({'name': 'moe_ffn', 'top_k': 5}, {}, 'top_k 5 of 4 experts'),
        ({'name': 'film'}, {'neck': 'none'}, 'must be fpn or bifpn'),
        ({'name': 'task_query', 'layers': 1}, {}, "'task_query' is called 'film' now"),
        ({'name': 'pad_net'}, {'neck': 'none'}, 'works on the levels of the neck'),
        ({'name': 'hard'}, {'neck': 'none'}, 'read the neck; set their decoder'),
        ({'name': 'mtan'}, {'neck': 'none'}, r'reads the neck; set network\.segmentation'),
        ({'name': 'hard'}, {'neck': 'pan'}, 'neck: expected one of'),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(sharing, more, message):
    with pytest.raises(ConfigError, match=message):
        build_network(NetworkConfig(trunk=CONV, sharing=sharing, **more), TASKS)


def test_distillation_refuses_another_decoder():
    config = NetworkConfig(trunk=CONV, sharing={'name': 'mti_net'})
    config.depth.decoder = 'mlp'
    with pytest.raises(ConfigError, match=r'decodes by itself: network\.depth'):
        build_network(config, TASKS)


def test_the_document_names_every_structure_and_option():
    lines = DOCUMENT.read_text('utf-8').splitlines()
    rows = {line.split('`')[1]: line for line in lines if line.startswith('| `')}
    for name, (_, options) in STRUCTURES.items():
        assert all(f'`{field.name}`' in rows[name] for field in dataclasses.fields(options)), name


def test_the_command_says_what_every_task_adds(capsys):
    size = ['augment.input_height=64', 'augment.input_width=64', 'tasks=[semantic, depth, weather]']
    chosen = [f'network.trunk={CONV}', 'network.sharing={name: cross_stitch}']
    assert main([str(CONFIG), *chosen, *size]) == 0
    printed = capsys.readouterr().out
    assert 'cross_stitch' in printed and 'mixes' in printed and 'one task more' in printed
    parameters = [line.split('│')[2] for line in printed.splitlines() if line.startswith('│ depth')]
    trunk = sum(p.numel() for p in Trunk(CONV).parameters()) / 1e6
    assert float(parameters[0]) > 2 * trunk
