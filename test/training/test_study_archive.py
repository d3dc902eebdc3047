# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A study in one file: packed, unpacked elsewhere, gone on with; bad archives are refused."""

import gzip
import io
import json
import shutil
import tarfile

import pytest

pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from made_study import STUDY, made_study, write_study
from test_study import children

from training.study.__main__ import main
from training.study.archive import pack, unpack
from training.study.cells import plan, read_json
from training.study.config import StudyError, load_study
from training.study.cost import COST, measure_costs, outdated
from training.study.initial import INITIAL, remember_initial_weights
from training.study.report import make_report
from training.study.runner import run_cells

AXES = {'trunks': ['pvt_v2_b0'], 'tasks': {'all': ['semantic', 'depth']}, 'sharing': ['hard'],
        'balancing': ['equal'], 'seeds': [0, 1], 'exclude': None, 'reference': None}  # fmt: skip


@pytest.fixture
def made(tmp_path):
    """A finished study of six cells, its archive, and the same study with an empty folder."""
    path = made_study(tmp_path, **AXES)
    study = load_study(path)
    assert pack(study, plan(study), tmp_path / 'made.tar.gz') == 6
    return study, tmp_path / 'made.tar.gz', load_study(path, tmp_path / 'elsewhere')


def test_an_unpacked_study_gives_the_same_report(made):
    study, archive, other = made
    assert unpack(other, plan(other), archive) == (6, 6)
    assert unpack(other, plan(other), archive) == (6, 0)
    first, second = (make_report(each) for each in (study, other))
    for report in (first, second):
        report['made'].pop('study')  # says where
    assert first == second and first['affinity'] and first['costs'] and first['pareto']


def test_an_archive_is_small_without_weights_and_the_same_every_time(made, tmp_path):
    study, archive, other = made
    (plan(study)[0].folder / 'run' / 'best').mkdir()
    (plan(study)[0].folder / 'run' / 'best' / 'ema.safetensors').write_bytes(bytes(100_000))
    pack(study, plan(study), tmp_path / 'again.tar.gz')
    unpack(other, plan(other), archive)
    pack(other, plan(other), tmp_path / 'third.tar.gz')
    kept = {(tmp_path / f'{name}.tar.gz').read_bytes() for name in ('made', 'again', 'third')}
    assert len(kept) == 1 and len(kept.pop()) < 50_000
    assert not list(other.output.rglob('*.safetensors'))


def test_seeds_are_added_on_another_machine_and_finished_cells_not_repeated(
    made, tmp_path, monkeypatch
):
    _, archive, _ = made
    more = load_study(write_study(tmp_path, **{**AXES, 'seeds': [0, 1, 2]}), tmp_path / 'elsewhere')
    cells = plan(more)
    unpack(more, cells, archive)
    assert [cell.state() for cell in cells] == ['finished'] * 6 + ['new'] * 3
    children(monkeypatch, {})
    assert run_cells(more, cells)
    assert [(cell.folder / 'begun').exists() for cell in cells] == [False] * 6 + [True] * 3


def test_what_is_finished_here_stays_and_half_a_cell_is_replaced(made):
    _, archive, other = made
    cells = plan(other)
    unpack(other, cells, archive)
    (cells[0].folder / 'evaluation.json').write_text('{"results": {}, "mine": 1}')
    (cells[1].folder / 'status.json').write_text('{"state": "failed", "error": "no luck"}')
    assert unpack(other, cells, archive) == (6, 1)
    assert 'mine' in read_json(cells[0].folder / 'evaluation.json')
    assert cells[1].state() == 'finished'


def test_costs_wait_for_weights(made, monkeypatch):
    _, archive, other = made
    unpack(other, plan(other), archive)
    assert not outdated(other, plan(other))  # packed with the cells
    (other.output / COST).unlink()
    with pytest.raises(StudyError, match=r'the weights of pvt_v2_b0\S+ are not in .*elsewhere'):
        measure_costs(other, plan(other))


def rewritten(archive, change):
    """The archive with other members: change takes and gives name -> content or TarInfo."""
    with tarfile.open(archive) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    with tarfile.open(archive, 'w:gz') as tar:
        for name, content in change(files).items():
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b'' if member is content else content
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def link(name):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, '/etc/passwd'
    return member


FIRST = 'cells/pvt_v2_b0.scratch.semantic.single.equal.s0/'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda files: {**files, '../out.json': b'{}'}, r"'../out.json' is no file of study"),
        (lambda files: {**files, '/etc/out': b'{}'}, r"'/etc/out' is no file of study"),
        (lambda files: {**files, FIRST + 'run/x.safetensors': b''}, 'is no file of study'),
        (lambda files: {**files, 'cost.json': link('cost.json')}, "'cost.json' is no file"),
        (lambda files: {'cells/other.s0/status.json': b'{}'}, 'packed from another study file'),
        (lambda files: {**files, FIRST + 'status.json': b'{"state": "failed"}'}, 'not finished'),
        (lambda files: {**files, FIRST + 'evaluation.json': b'{'}, 'json cannot be read'),
        (lambda files: {**files, FIRST + 'evaluation.json': b'[]'}, 'expected a JSON object'),
        (lambda files: {**files, FIRST + 'cell.yaml': b'a: 1'}, 'says something else now'),
        (lambda files: {**files, FIRST + 'cell.yaml': b'\xff'}, 'cannot be read'),
        (lambda files: {k: x for k, x in files.items() if k != FIRST + 'cell.yaml'}, 'is without'),
        (lambda files: {}, 'it is empty'),
    ],
)  # fmt: skip
def test_a_bad_archive_is_refused_before_anything_is_written(made, change, message, tmp_path):
    _, archive, other = made
    rewritten(archive, change)
    with pytest.raises(StudyError, match=message) as caught:
        unpack(other, plan(other), archive)
    assert '\n' not in str(caught.value)
    assert not other.output.exists() and not (tmp_path / 'out.json').exists()


def test_a_file_that_is_no_archive_or_cut_short_is_refused(made, tmp_path):
    _, archive, other = made
    whole = archive.read_bytes()
    bad = tmp_path / 'bad.tar.gz'
    other_sum = whole[:-8] + bytes(4) + whole[-4:]
    cut = whole[: len(whole) // 2]
    for content in (b'nothing', cut, whole[:-4], other_sum, gzip.compress(b'x' * 99)):
        bad.write_bytes(content)
        with pytest.raises(StudyError, match=r'no archive of `training\.study pack`'):
            unpack(other, plan(other), bad)
    with pytest.raises(StudyError, match='no such file'):
        unpack(other, plan(other), tmp_path / 'none.tar.gz')


def test_another_study_of_the_same_labels_is_refused(made, tmp_path):
    _, archive, _ = made
    for change in ({'name': 'another'}, {'run': {**STUDY['run'], 'log_every': 7}}):
        path = write_study(tmp_path, **AXES, **change)
        other = load_study(path, tmp_path / 'elsewhere')
        with pytest.raises(StudyError, match='says something else now'):
            unpack(other, plan(other), archive)


def test_primary_comparisons_stay_those_of_the_first_run(tmp_path, monkeypatch):
    primary = {'effect_percent': 5, 'deviation_percent': 2, 'comparisons': [{'against': 'single'}]}
    path = write_study(tmp_path, **AXES, primary=primary)
    study, other = load_study(path), load_study(path, tmp_path / 'elsewhere')
    children(monkeypatch, {})
    run_cells(study, plan(study)[:1])
    (plan(study)[0].folder / 'evaluation.json').write_text('{"results": {}}')
    pack(study, plan(study), tmp_path / 'made.tar.gz')
    unpack(other, plan(other), tmp_path / 'made.tar.gz')
    assert make_report(other)['primary']['in_time']
    (other.output / 'primary.json').write_text('{"effect": 0.01}')
    with pytest.raises(StudyError, match='primary comparisons were others'):
        unpack(other, plan(other), tmp_path / 'made.tar.gz')


def test_later_seeds_begin_from_the_same_weights(tmp_path, monkeypatch):
    weights = tmp_path / 'trunk.safetensors'
    weights.write_bytes(b'first')
    axes = {**AXES, 'trunks': {'small': {'trunk': 'resnet10t', 'trunk_weights': str(weights)}}}
    study = load_study(write_study(tmp_path, **axes))
    remember_initial_weights(study, plan(study))
    assert list(read_json(study.output / INITIAL)) == [str(weights)]
    weights.unlink()
    remember_initial_weights(study, plan(study))  # may be gone when nothing is to be run
    weights.write_bytes(b'second')
    children(monkeypatch, {})
    with pytest.raises(StudyError, match='is another file than the one that earlier cells'):
        run_cells(study, plan(study))


def test_the_commands(made, tmp_path, capsys):
    study, _, other = made
    path, archive = str(tmp_path / 'study.yaml'), str(tmp_path / 'by_command.tar.gz')
    assert main(['pack', path, archive]) == 0
    assert '6 finished cells, 0.0' in capsys.readouterr().out
    assert main(['unpack', path, archive, '--output', str(other.output)]) == 0
    assert f'6 finished cells, 6 of them new in {other.output}' in capsys.readouterr().out
    shutil.rmtree(study.output)
    assert main(['pack', path, archive]) == 1
    assert 'no finished cell to pack' in capsys.readouterr().err
    assert json.loads((other.output / COST).read_text())['models']
