# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the documents say is so: tables equal their owners, links lead somewhere."""

import json
import re
from pathlib import Path

import pytest

from mtl_perception.node import parameter_table

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / 'README.md',
    ROOT / 'SECURITY.md',
    ROOT / 'QUALITY_DECLARATION.md',
    ROOT / 'models' / 'README.md',
    *sorted((ROOT / 'docs').rglob('*.md')),
]
NODE = (ROOT / 'docs' / 'node.md').read_text('utf-8')


def test_the_parameter_table_is_the_one_of_parameters_py():
    assert parameter_table.as_markdown().strip() in NODE


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document):
    links = re.findall(r'\]\((?!http)([^)#]+)\)', document.read_text('utf-8'))
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'docs' / 'results').glob('*.json')), ids=lambda path: path.name
)
def test_every_result_says_how_it_was_made(path):
    record = json.loads(path.read_text('utf-8'))
    assert record['command']
    assert record.get('environment') or record.get('machine')


def test_every_result_is_named_in_a_document():
    text = ''.join(document.read_text('utf-8') for document in DOCUMENTS)
    for path in (ROOT / 'docs' / 'results').glob('*.json'):
        assert f'results/{path.name}' in text, path.name
