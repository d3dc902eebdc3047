# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The command line: exit codes, one sentence on stderr, the next command in it."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import pytest

from mtl_perception import bundle as bundle_module
from mtl_perception import cli, extensions
from mtl_perception.engines import cache
from mtl_perception.targets import TargetError, check_target


def test_help_is_printed_without_importing_a_command():
    code = (
        'import sys; from mtl_perception.cli import main\n'
        'try: main(["--help"])\n'
        'except SystemExit as end: print("code", end.code)\n'
        'print("heavy", sorted({"numpy", "cv2", "rich", "torch", "openvino"} & set(sys.modules)))'
    )

    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)

    for command in ('compile', 'bench', 'replay', 'doctor', 'demo'):
        assert command in done.stdout
    assert 'code 0' in done.stdout and 'heavy []' in done.stdout


@pytest.mark.parametrize(
    'arguments', [[], ['nonsense'], ['compile', '--engine', 'abacus'], ['bench', '--size', '5']]
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)

    assert end.value.code == 2
    assert 'usage: mtl-perception' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['bench', 'replay', 'compare', 'bag', 'demo'])
def test_a_command_of_evaluation_says_how_to_install_it(command, monkeypatch, capsys):
    monkeypatch.setattr(extensions, 'entry_points', lambda **sought: ())

    code = cli.main([command, 'anything'])

    err = capsys.readouterr().err
    assert code == 1 and err.count('\n') == 1
    assert err.startswith(f'mtl-perception: `mtl-perception {command}` needs mtl_evaluation, which')
    assert "pip install 'mtl_perception[evaluation]'" in err and 'make setup-evaluation' in err


def test_a_missing_requirement_of_evaluation_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'mtl_evaluation.commands.bag', None)

    assert cli.main(['bag', 'info']) == 1

    err = capsys.readouterr().err
    assert '`mtl-perception bag` needs mtl_evaluation.commands.bag, which is not installed' in err


def test_a_check_without_evaluation_says_how_to_install_it(tiny_bundle, monkeypatch, capsys):
    monkeypatch.setattr(extensions, 'entry_points', lambda **sought: ())

    assert cli.main(['compile', str(tiny_bundle), '--check', '.']) == 1
    assert '`mtl-perception compile --check` needs mtl_evaluation' in capsys.readouterr().err


def test_help_tells_defaults_but_no_none(capsys):
    with pytest.raises(SystemExit):
        cli.main(['bench', '--help'])
    text = capsys.readouterr().out
    assert 'all cores (default: 0)' in text
    assert 'None' not in text


def test_compile_builds_runs_and_says_what_is_in_force(tiny_bundle, capsys):
    code = cli.main(['compile', str(tiny_bundle), '--engine', 'onnxruntime', '--force'])

    out = capsys.readouterr().out
    assert code == 0
    assert out.startswith('tiny: onnxruntime ') and 'fp32 on cpu' in out and 'ran once in' in out
    assert any(entry['engine'] == 'onnxruntime' for entry in cache.entries())


def test_the_command_an_error_names_is_one_that_works(tmp_path, capsys):
    from tiny_bundle import write_tiny_bundle

    from mtl_perception.engines import EngineError
    from mtl_perception.pipeline import Pipeline

    folder = write_tiny_bundle(tmp_path / 'fresh', width=224)
    with pytest.raises(EngineError) as caught:
        Pipeline.open(folder, engine='onnxruntime')
    command = str(caught.value).split('Build it: mtl-perception ')[1]

    assert cli.main(command.split()) == 0
    Pipeline.open(folder, engine='onnxruntime').close()


def test_a_missing_model_is_one_sentence_and_code_1(capsys):
    code = cli.main(['compile', '/no/such/model'])

    err = capsys.readouterr().err
    assert code == 1
    assert err.startswith("mtl-perception: no model '/no/such/model'")
    assert 'mtl-perception doctor' in err and 'Traceback' not in err and err.count('\n') == 1


def test_a_wrong_hash_is_one_sentence_and_code_1(tmp_path, capsys):
    from tiny_bundle import write_tiny_bundle

    folder = write_tiny_bundle(tmp_path / 'bad')
    (folder / 'card.md').write_text('changed')

    code = cli.main(['compile', str(folder)])

    assert code == 1
    assert 'card.md is not the file the manifest names' in capsys.readouterr().err


def test_an_error_that_is_not_ours_is_not_hidden(monkeypatch):
    command = types.ModuleType('broken')
    command.add_arguments = lambda parser: None

    def run(args):
        raise KeyError('a defect')

    command.run = run
    monkeypatch.setitem(sys.modules, 'broken', command)
    monkeypatch.setitem(cli.COMMANDS, 'doctor', ('broken', 'x'))

    with pytest.raises(KeyError):
        cli.main(['doctor'])


def test_a_package_that_is_missing_is_one_sentence(monkeypatch, capsys):
    command = types.ModuleType('needy')
    command.add_arguments = lambda parser: None

    def run(args):
        raise ModuleNotFoundError("No module named 'rosbags'", name='rosbags')

    command.run = run
    monkeypatch.setitem(sys.modules, 'needy', command)
    monkeypatch.setitem(cli.COMMANDS, 'replay', ('needy', 'x'))

    assert cli.main(['replay']) == 1
    assert "the package 'rosbags' is not installed" in capsys.readouterr().err


def test_doctor_lists_engines_models_and_cache(tiny_bundle, monkeypatch, capsys):
    monkeypatch.setattr(bundle_module, 'model_folders', lambda: [tiny_bundle.parent])
    cli.main(['compile', str(tiny_bundle), '--engine', 'onnxruntime'])

    code = cli.main(['doctor'])

    out = capsys.readouterr().out
    assert code == 0, out
    for word in ('python', 'engine openvino', 'engine onnxruntime', 'ros', 'model tiny', 'gpu'):
        assert word in out
    assert 'built engine' in out and str(cache.cache_root()) in out


def test_doctor_finds_a_damaged_model(tmp_path, monkeypatch, capsys):
    from tiny_bundle import write_tiny_bundle

    folder = write_tiny_bundle(tmp_path / 'models' / 'bad')
    (folder / 'card.md').write_text('changed')
    monkeypatch.setattr(bundle_module, 'model_folders', lambda: [folder.parent])

    code = cli.main(['doctor'])

    out = capsys.readouterr().out
    assert code == 1
    assert 'problem model bad is not intact' in out and 'training.export' in out


def test_compile_of_a_batch_says_whether_several_cameras_will_use_it(tiny_bundle, caplog):
    """Measured once: the second time it is read from the cache."""
    for _ in range(2):
        assert (
            cli.main(['compile', str(tiny_bundle), '--engine', 'onnxruntime', '--batch', '2']) == 0
        )

    said = [
        r.getMessage() for r in caplog.records if 'of the time of single runs' in r.getMessage()
    ]
    assert len(said) == 2
    assert said[0] == said[1]


def test_bench_times_engines_in_turn_and_writes_json(tiny_bundle, tmp_path, capsys):
    file = tmp_path / 'new' / 'bench.json'
    arguments = ['bench', str(tiny_bundle), '--frames', '4', '--size', '192x108']

    code = cli.main([*arguments, '--engine', 'onnxruntime', '--json', str(file)])

    report = json.loads(file.read_text())
    assert code == 0 and 'onnxruntime fp32' in capsys.readouterr().out
    assert report['source'] == [192, 108] and report['frames'] == 4
    assert report['machine']['cores'] >= 1 and 'numpy' in report['machine']['packages']
    stages = report['engines']['onnxruntime fp32']['stages_ms']
    assert set(stages) == {'letterbox', 'engine', 'decode', 'total'}
    for figures in stages.values():
        assert 0 < figures['min'] <= figures['median'] <= figures['p90'] <= figures['p99']


def test_a_target_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'folder').mkdir()

    check_target(tmp_path / 'new' / 'deep.json', '--json')
    check_target(tmp_path / 'file', '--json')
    check_target(tmp_path / 'folder', '--output', is_folder=True)
    for path, is_folder, says in (
        (tmp_path / 'folder', False, '--x .*folder: expected a file, found a folder'),
        (tmp_path / 'file', True, 'expected a folder, found a file'),
        (tmp_path / 'file' / 'deep.json', False, 'file is not a folder'),
    ):
        with pytest.raises(TargetError, match=says):
            check_target(path, '--x', is_folder)


@pytest.mark.parametrize('arguments', ['doctor', '--help', '--version', 'compile --help'])
@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_a_full_disk_and_a_closed_pipe_are_no_tracebacks(arguments, unbuffered, monkeypatch):
    monkeypatch.setenv('PYTHONUNBUFFERED', unbuffered)
    command = f'{sys.executable} -m mtl_perception.cli {arguments} > /dev/full'

    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert done.stderr.strip() == 'mtl-perception: [Errno 28] No space left on device'
