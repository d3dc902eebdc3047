# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The study that this project grew from: its networks have the published numbers of parameters."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from training.config import load_config  # noqa: E402
from training.networks.base import output_specs  # noqa: E402
from training.networks.build import build_network  # noqa: E402
from training.study.budget import PEAK_TFLOPS, budget  # noqa: E402
from training.study.cells import plan  # noqa: E402
from training.study.config import load_study  # noqa: E402

ROOT = Path(__file__).parents[2]
CONFIGS, DOCS = ROOT / 'training' / 'configs', ROOT / 'docs'
PUBLISHED = [
    ('pvt_v2_b2', ['nyu13', 'depth', 'normals'], 39.02),
    ('pvt_v2_b2', ['nyu13', 'depth'], 34.30),
    ('pvt_v2_b2', ['nyu13'], 29.57),
    ('pvt_v2_b2', ['normals'], 29.57),
    ('resnet50', ['nyu13', 'depth', 'normals'], 71.89),
    ('swinv2_base_window8_256', ['nyu13', 'depth', 'normals'], 112.47),
]
"""Trunk, tasks, millions of parameters. "Swin" is SwinV2-B: no other of timm's gives 112.47."""


def empty(name, tasks, trunk=None):
    """The network of a configuration on the meta device, which costs neither memory nor time."""
    config = load_config(CONFIGS / name, [f'tasks=[{",".join(tasks)}]'])
    network = replace(config.network, trunk=trunk or config.network.trunk)
    with torch.device('meta'):
        return build_network(network, config.task_table(), initialise=False), config


@pytest.mark.parametrize(('trunk', 'tasks', 'millions'), PUBLISHED)
def test_parameters_are_the_published_ones(trunk, tasks, millions):
    network, _ = empty('nyuv2_original.yaml', tasks, trunk)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_the_first_swin_does_not_have_them():
    network, _ = empty('nyuv2_original.yaml', PUBLISHED[0][1], 'swin_base_patch4_window7_224')
    assert abs(sum(p.numel() for p in network.parameters()) / 1e6 - 112.47) > 0.1


@pytest.mark.parametrize(('name', 'stride'), [('nyuv2_original', 32), ('nyuv2_improved', 4)])
def test_the_original_decodes_the_last_stage_and_ours_all(name, stride):
    network, config = empty(f'{name}.yaml', ['nyu13', 'depth', 'normals'])
    size = config.augment.input_height, config.augment.input_width
    with torch.device('meta'):
        specs = {spec.name: spec for spec in output_specs(network.eval(), *size)}
    assert specs['nyu13'].shape == (13, size[0] // stride, size[1] // stride)
    assert specs['depth'].stride == specs['normals'].stride == stride


def test_the_budget_is_what_the_document_says():
    """Counted anew for the smallest network; the record holds the rest."""
    cells = plan(load_study(CONFIGS / 'study' / 'original.yaml'))
    singles = [cell for cell in cells if cell.model.id == 'pvt_v2_b2.scratch.nyu13.single']
    found = budget(singles)
    record = json.loads((DOCS / 'results' / 'original_budget.json').read_text())
    (network,) = found['networks'].values()
    assert network == record['networks'][singles[0].model.id]
    assert network['pflop'] == pytest.approx(3 * network['gflop'] * 8 * 17875 * 3 / 1e6)
    assert record['runs'] == len(cells) == 63
    assert record['pflop'] == pytest.approx(sum(x['pflop'] for x in record['networks'].values()))
    for gpu, peak in PEAK_TFLOPS.items():
        hours = record['pflop'] * 1e3 / (peak * 0.2) / 3600
        assert record['hours'][gpu] == pytest.approx([hours, hours / 2])
    text = (DOCS / 'study.md').read_text()
    assert '26 to 52 hours on one RTX 3080' in text and '12 to 23 hours on one H100' in text
    assert f'{record["pflop"]:,.0f} PFLOP' in text


@pytest.mark.parametrize('name', ['tesla_hydranet', 'multinet'])
def test_historic_references_can_be_built(name):
    config = load_config(CONFIGS / 'references' / f'{name}.yaml')
    with torch.device('meta'):
        network = build_network(config.network, config.task_table(), initialise=False).eval()
        assert output_specs(network, 64, 96)
