# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Studies: their files, cells and runner. Reports are tested in test_study_report.py."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from made_study import write_study  # noqa: E402
from tiny_training import ROOT, tiny_scenes  # noqa: E402

from training.config import ConfigError, load_config  # noqa: E402
from training.study import runner  # noqa: E402
from training.study.cell import run_cell  # noqa: E402
from training.study.cells import CELL, EVALUATION, LOG, RUN, STATUS, Cell, plan  # noqa: E402
from training.study.config import StudyError, load_study  # noqa: E402
from training.study.cost import COST, measure_costs, outdated, peak_bytes  # noqa: E402
from training.study.report import write_study_report  # noqa: E402
from training.study.runner import child_environment, run_cells, summary  # noqa: E402

CONFIGS = ROOT / 'training' / 'configs' / 'study'


@pytest.fixture
def study(tmp_path):
    """Two tasks, one method: single-task twice and multi-task once, for one seed."""
    return load_study(
        write_study(
            tmp_path, trunks=['resnet10t'], tasks={'all': ['semantic', 'drivable']},
            sharing=['hard'], balancing=['equal'], seeds=[0], reference=None, exclude=None,
        )
    )  # fmt: skip


def test_a_study_is_its_axes_less_what_is_excluded_and_single_task_baselines(tmp_path):
    cells = plan(load_study(write_study(tmp_path)))
    assert len(cells) == len({cell.id for cell in cells}) == 3 * (2 * 4 + 6 + 2)
    assert [cell.model.single for cell in cells[:16]] == [True] * 8 + [False] * 8
    assert {cell.seed for cell in cells[:16]} == {0}
    assert cells[8].id == 'pvt_v2_b0.scratch.all.hard.equal.s0'
    soft = {cell.balancing for cell in cells if cell.model.sharing == 'mtan'}
    assert soft == {'equal'}


def test_single_task_baselines_have_the_same_budget(study):
    single, _, multi = (cell.config() for cell in plan(study))
    assert single.tasks == ['semantic'] and multi.tasks == ['semantic', 'drivable']
    assert single.optimizer == multi.optimizer and single.augment == multi.augment
    assert single.data == multi.data and single.seed == multi.seed
    assert single.network.trunk == multi.network.trunk == 'resnet10t'


def test_a_cell_has_the_options_of_its_own_method_and_structure_only(tmp_path):
    run = {
        'data': [{'name': 'made', 'root': 'nowhere'}],
        'balancing': {'method': 'UW', 'lr': 0.5},
        'network': {'neck_channels': 16, 'sharing': {'name': 'mtan', 'other': 1}},
        'best_by': ['made/semantic/miou', 'made/drivable/*', '*/*/accuracy'],
    }
    path = write_study(
        tmp_path, run=run, tasks={'all': ['semantic', 'drivable']}, reference=None, exclude=None,
        trunks={'small': {'trunk': 'resnet10t'}},
        balancing={'FAMO_fast': {'method': 'FAMO', 'lr': 0.1}},
        pretraining={'scratch': {}, 'imagenet': {'pretrained': True}}, sharing=['hard'], seeds=[4],
    )  # fmt: skip
    cells = {cell.id: cell.config() for cell in plan(load_study(path))}
    multi = cells['small.imagenet.all.hard.FAMO_fast.s4']
    assert multi.balancing == {'method': 'FAMO', 'lr': 0.1}
    assert multi.network.sharing == {'name': 'hard'}
    assert multi.network.neck_channels == 16 and multi.network.pretrained
    single = cells['small.scratch.drivable.single.equal.s4']
    assert single.balancing == {'method': 'equal'}
    assert single.network.sharing == {'name': 'hard'} and not single.network.pretrained
    assert single.best_by == ['made/drivable/*', '*/*/accuracy']


def test_a_study_file_is_read_as_plain_data(tmp_path):
    path = tmp_path / 'study.yaml'
    for text, says in (
        ('trunks: &t [small]\nseeds: *t', 'aliases are not allowed'),
        ('seeds: [' + '59:' * 100_000 + '59]', 'larger than'),
        ('name: \xe9', 'not readable YAML'),
    ):
        path.write_bytes(text.encode('latin-1'))
        with pytest.raises(StudyError, match=f'cannot be read: .*{says}'):
            load_study(path)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'trunk': ['resnet10t']}, "unknown key 'trunk'.*did you mean 'trunks'"),
        ({'seeds': None}, r"\['seeds'\] missing"),
        ({'tasks': {'one': ['semantic']}}, 'is a single-task baseline'),
        ({'tasks': {'all': ['semantic', 'lanes']}}, 'tasks all: expected some of'),
        ({'sharing': ['single']}, 'single-task baselines are always part'),
        ({'balancing': ['equal', 'pcgrad']}, 'balancing pcgrad: expected one of'),
        ({'exclude': [{'trunks': ['pvt_v2_b0']}]}, "exclude: 'trunks', expected some of"),
        ({'exclude': [{'sharing': ['soft']}]}, r"exclude: sharing \['soft'\]"),
        ({'reference': 'yolo'}, "reference 'yolo'"),
        ({'split': 'test'}, 'a study compares on val'),
        ({'trunks': ['a/b']}, 'labels name folders'),
        ({'run': {}}, 'run.data'),
        ({'seeds': [1, 1]}, 'expected different ones'),
        ({'seeds': 3}, 'wrong form'),
    ],
)
def test_a_study_file_that_cannot_be_meant_is_refused(tmp_path, changes, message):
    with pytest.raises((StudyError, ConfigError), match=message):
        load_study(write_study(tmp_path, **changes))


def test_what_a_run_cannot_have_is_found_before_the_first_cell(tmp_path):
    run = {'data': [{'name': 'made', 'root': 'nowhere'}], 'optimizer': {'step': 3}}
    with pytest.raises(ConfigError, match=r"cell .*Key 'step'"):
        plan(load_study(write_study(tmp_path, run=run)))


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.yaml')), ids=lambda path: path.stem)
def test_every_study_of_ours_can_be_planned(path):
    study = load_study(path)
    cells = plan(study)
    assert {cell.model.sharing for cell in cells} >= {'single', 'hard'}
    assert len({cell.config().optimizer.steps for cell in cells}) == 1


CHILD = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
with (folder / 'begun').open('a') as file:
    file.write(os.environ.get('CUDA_VISIBLE_DEVICES', 'none') + '\\n')
what = sys.argv[2]
if what == 'fail':
    sys.exit('error: out of luck')
if what == 'die':
    os.kill(os.getpid(), 9)
if what == 'wait':
    time.sleep(60)
(folder / 'status.json').write_text(json.dumps({'state': 'finished'}))
"""


def children(monkeypatch, what):
    """Children that take no time; what: part of a cell's id -> what becomes of it."""

    def command(cell):
        said = [word for name, word in what.items() if name in cell.id]
        return [sys.executable, '-S', '-c', CHILD, str(cell.folder), *said, 'finish']

    monkeypatch.setattr(runner, 'command_of', command)


def test_a_crash_is_recorded_and_the_rest_goes_on(study, monkeypatch):
    cells, said = plan(study), []
    children(monkeypatch, {'semantic': 'fail', 'drivable': 'die'})
    assert not run_cells(study, cells, say=said.append)
    assert [cell.state() for cell in cells] == ['failed', 'failed', 'finished']
    assert cells[0].status()['error'] == 'exit code 1: error: out of luck'
    assert 'killed by signal 9' in cells[1].status()['error']
    assert any(line.startswith(f'failed: {cells[0].id}') for line in said)
    assert 'out of luck' in (cells[0].folder / LOG).read_text()


def test_finished_cells_are_never_repeated_and_failed_ones_only_when_asked(study, monkeypatch):
    cells = plan(study)
    children(monkeypatch, {'semantic': 'fail'})
    run_cells(study, cells)
    children(monkeypatch, {})
    assert not run_cells(study, cells)
    assert cells[0].state() == 'failed'
    assert run_cells(study, cells, retry=True)
    counts = [(cell.folder / 'begun').read_text().count('\n') for cell in cells]
    assert counts == [2, 1, 1]


def test_what_primary_comparisons_need_runs_first_and_patterns_choose(tmp_path, monkeypatch):
    primary = {'effect_percent': 5, 'deviation_percent': 3, 'comparisons': [{'against': 'single'}]}
    study = load_study(
        write_study(
            tmp_path, run={'data': [{'name': 'made', 'root': 'nowhere'}]}, primary=primary,
            trunks={'a': {'trunk': 'resnet10t'}, 'b': {'trunk': 'resnet18'}},
            tasks={'all': ['semantic', 'drivable']}, sharing=['hard', 'mtan'], reference=None,
            exclude=None, seeds=[0, 1],
        )
    )  # fmt: skip
    children(monkeypatch, {})
    said: list[str] = []
    with pytest.raises(StudyError, match=r'--only \*\.s7: no cell of this study matches'):
        run_cells(study, plan(study), only=['*.s1', '*.s7'])
    assert run_cells(study, plan(study), say=said.append, only=['*.s1'])
    order = [line.split()[1].rstrip(':') for line in said if 'min left' in line]
    assert all(name.endswith('.s1') for name in order) and len(order) == len(plan(study)) / 2
    assert {name.removesuffix('.equal.s1') for name in order[:3]} == {
        'a.scratch.semantic.single', 'a.scratch.drivable.single', 'a.scratch.all.hard',
    }  # fmt: skip


def test_cells_share_gpus_and_cores_out(study, monkeypatch):
    children(monkeypatch, {})
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,6')
    assert run_cells(study, plan(study), jobs=2)
    used = [(cell.folder / 'begun').read_text().strip() for cell in plan(study)]
    assert set(used) == {'4', '6'}
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr(runner, 'cores', lambda: 8)
    assert child_environment(1, 4, [])['OMP_NUM_THREADS'] == '2'
    assert 'OMP_NUM_THREADS' not in child_environment(0, 1, [])


def test_a_runner_that_is_killed_is_begun_anew(study, monkeypatch):
    """SIGKILL to the runner alone: what was done stays done, the rest is done."""
    cells = plan(study)
    script = (
        'import sys; sys.path[:0] = ["test/training", "test/support", "."]\n'
        'import test_study as t\n'
        'class Patch:\n    setattr = staticmethod(setattr)\n'
        't.children(Patch, {"drivable": "wait"})\n'
        f's = t.load_study({str(study.output.parent / "study.yaml")!r})\n'
        't.run_cells(s, t.plan(s))\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', script], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 60
    while not (cells[1].folder / 'begun').exists() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.wait()
    os.killpg(process.pid, signal.SIGKILL)  # the child that it left, which waits
    assert [cell.state() for cell in cells] == ['finished', 'new', 'new']
    children(monkeypatch, {})
    assert run_cells(study, cells)
    assert (cells[0].folder / 'begun').read_text().count('\n') == 1


def test_a_cell_whose_study_file_was_changed_is_refused(study, tmp_path, monkeypatch):
    children(monkeypatch, {})
    run_cells(study, plan(study)[:1])
    changed = yaml.safe_load((tmp_path / 'study.yaml').read_text())
    changed['run']['optimizer']['steps'] = 7
    (tmp_path / 'study.yaml').write_text(yaml.safe_dump(changed))
    study = load_study(tmp_path / 'study.yaml')
    cells = plan(study)
    for refuse, given in (
        (Cell.prepare, [cells[0]]),
        (run_cells, [study, cells]),
        (write_study_report, [study]),
    ):
        with pytest.raises(StudyError, match='says something else now'):
            refuse(*given)
    cells[1].prepare()
    assert load_config(cells[1].folder / CELL).optimizer.steps == 7


def test_a_second_process_waits_for_the_first_and_finds_the_work_done(study):
    cell = plan(study)[0]
    cell.prepare()
    done = []
    with (cell.folder / '.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: done.append(run_cell(cell.folder, 'val', 'best')))
        thread.start()
        thread.join(0.2)
        assert not done
        (cell.folder / STATUS).write_text(json.dumps({'state': 'finished'}))
    thread.join(10)
    assert done == [0] and not (cell.folder / RUN).exists()


def test_a_begun_cell_is_seen_by_its_checkpoint(study):
    cell = plan(study)[0]
    cell.prepare()
    assert cell.state() == 'new'
    folder = cell.folder / RUN / 'checkpoint'
    folder.mkdir(parents=True)
    (folder / 'state.json').write_text('{"step": 1}')
    assert cell.state() == 'begun'
    assert summary(['new', 'begun', 'new']) == '3 cells: 1 begun, 2 new'


def test_the_peak_of_a_forward_pass_is_what_it_holds_at_once():
    class Holds(torch.nn.Module):
        def forward(self, image):
            first = torch.ones(1_000_000, dtype=torch.uint8)
            second = first.clone()
            del first
            third = torch.ones(3_000_000, dtype=torch.uint8)
            return second, third

    assert peak_bytes(Holds(), torch.zeros(1)) == pytest.approx(4_000_000, rel=0.01)


def test_a_study_from_training_to_report(tmp_path):
    """The smoke study with one seed, its cells in this process."""
    data = tiny_scenes(tmp_path / 'scenes', 4, 2)
    values = yaml.safe_load((CONFIGS / 'smoke.yaml').read_text())
    values |= {'output': str(tmp_path / 'study'), 'seeds': [0], 'balancing': ['UW']}
    values['run']['data'][0]['root'] = str(data)
    values['run']['optimizer']['steps'] = values['run']['validate_every'] = 2
    path = tmp_path / 'study.yaml'
    path.write_text(yaml.safe_dump(values))
    study = load_study(path)
    cells = plan(study)
    for cell in cells:
        cell.prepare()
        assert run_cell(cell.folder, study.split, study.keep) == 0
        assert cell.state() == 'finished'
    record = json.loads((cells[-1].folder / EVALUATION).read_text())
    assert record['split'] == 'val' and record['weights'] == 'best'
    assert not (cells[-1].folder / RUN / 'checkpoint').exists()
    assert run_cell(cells[0].folder, study.split, study.keep) == 0  # nothing to do

    assert outdated(study, cells)
    models = measure_costs(study, cells)['models']
    assert not outdated(study, cells) and (study.output / COST).is_file()
    assert len(models) == 3
    multi = models['mobilenetv3_small_050.scratch.all.hard']
    single = models['mobilenetv3_small_050.scratch.semantic.single']
    assert multi['parameters'] > single['parameters'] and multi['gflop'] > single['gflop']
    assert multi['memory_mb'] > 4e-6 * multi['parameters'] and len(multi['frame_ms']) == 3

    page = write_study_report(study)
    assert 'Task affinity' in page.read_text() and 'Cost' in page.read_text()
    assert Path(page.parent / 'report.json').is_file()
