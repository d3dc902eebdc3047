# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`compile --rate`: what is measured, what is chosen of it, and what the node takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle

from mtl_perception import rate_choice, rate_search
from mtl_perception.bundle import Bundle
from mtl_perception.cli import main
from mtl_perception.engines import EngineError, Options
from mtl_perception.engines.fake import FakeEngine, Step
from mtl_perception.pipeline import Pipeline
from mtl_perception.rate_choice import Choice, Measured, choose, load, pareto, save, this_machine

SIZES = [(256, 384), (192, 320), (128, 192)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_tiny_bundle(tmp_path / 'any', *SIZES[0], name='any', any_size=True))


def measured(
    height: int, width: int, p99_ms: float, precision: str = 'fp32', **accuracy: float
) -> Measured:
    return Measured(
        height,
        width,
        'openvino',
        precision,
        'auto',
        0,
        p99_ms * 0.9,
        p99_ms,
        1e3 / p99_ms,
        accuracy,
    )


FOUND = [
    measured(544, 960, 80.0, semantic=60.0),
    measured(544, 960, 50.0, 'bf16', semantic=59.8),
    measured(384, 640, 40.0, semantic=55.0),
    measured(384, 640, 24.0, 'bf16', semantic=54.9),
    measured(288, 512, 14.0, 'bf16', semantic=50.0),
    measured(192, 320, 18.0, semantic=40.0),
    measured(192, 320, 15.0, 'bf16', semantic=41.0),
]


@pytest.mark.parametrize(
    ('rate_hz', 'label'),
    [
        (9, '544x960 openvino fp32'),
        (15, '544x960 openvino bf16'),
        (18, '384x640 openvino fp32'),
        (30, '384x640 openvino bf16'),
        (50, '288x512 openvino bf16'),
    ],
)
def test_the_most_accurate_that_keeps_the_rate_is_chosen(rate_hz: float, label: str) -> None:
    assert choose(FOUND, rate_hz, 0.25)[0].label == label


def test_headroom_is_part_of_the_bargain() -> None:
    assert choose(FOUND, 25, 0.0)[0].label == '384x640 openvino fp32'
    assert choose(FOUND, 25, 0.3)[0].label == '384x640 openvino bf16'


def test_steps_are_smaller_faster_and_of_the_same_engine() -> None:
    steps = choose(FOUND, 15, 0.25)
    # 192x320 is slower than 288x512 in this measurement, so that it is no step.
    assert [step.label for step in steps] == [
        '544x960 openvino bf16', '384x640 openvino bf16', '288x512 openvino bf16',
    ]  # fmt: skip


def test_without_accuracy_the_larger_then_the_finer_counts_as_better() -> None:
    found = [replace(each, accuracy={}) for each in FOUND]
    assert choose(found, 9, 0.25)[0].label == '544x960 openvino fp32'
    assert choose(found, 15, 0.25)[0].label == '544x960 openvino bf16'


def test_a_rate_that_nothing_reaches_names_the_fastest() -> None:
    with pytest.raises(EngineError) as caught:
        choose(FOUND, 120, 0.25)
    assert 'nothing keeps 120 Hz on this machine: the fastest, 288x512 openvino bf16' in str(
        caught.value
    )
    assert 'takes 14.0 ms' in str(caught.value) and '--rate 53.6' in str(caught.value)


def test_what_is_beaten_in_both_is_not_on_the_front() -> None:
    assert pareto(FOUND) == {0, 1, 2, 3, 4}


def test_sizes_have_the_cameras_aspect(bundle: Bundle, tiny_bundle: Path) -> None:
    wide = rate_search.sizes_for(bundle, (1280, 720))
    assert wide[0] == (544, 960) and wide[-1] == (192, 320)
    assert SIZES[0] in wide and (384, 640) in wide
    assert all(side % 32 == 0 for size in wide for side in size)
    assert (480, 640) in rate_search.sizes_for(bundle, (640, 480))
    assert rate_search.sizes_for(Bundle.open(tiny_bundle), (1280, 720)) == [(64, 96)]


def test_of_each_precision_the_fastest_goes_to_every_size(bundle: Bundle) -> None:
    opened: list[str] = []

    def opening(at: Bundle, name: str, options: Options) -> Pipeline:
        spec = at.manifest.input
        opened.append(f'{spec.height}x{spec.width} {name} {options.precision}')
        if name == 'broken':
            raise EngineError('out of memory')
        wait_s = {'slow': 0.02, 'fast': 0.0}[name]
        return Pipeline(at, FakeEngine(at, [Step(latency_s=wait_s)]))

    plans = [(name, Options(precision='fp32')) for name in ('slow', 'broken', 'fast')]
    frames = rate_search.made_frames((192, 128), 2)

    found = rate_search.search(bundle, plans, SIZES, frames, 4, None, opening)

    assert [each.label for each in found] == [
        f'{height}x{width} fast fp32' for height, width in SIZES
    ]
    assert '192x320 slow fp32' not in opened
    assert all(each.p99_ms >= each.p50_ms > 0 for each in found)


def test_accuracy_is_measured_of_what_is_opened_at_each_size(bundle: Bundle) -> None:
    def accuracy(pipelines: list[Pipeline]) -> list[dict[str, float]]:
        return [{'semantic miou': each.bundle.manifest.input.height / 10} for each in pipelines]

    def opening(at: Bundle, name: str, options: Options) -> Pipeline:
        return Pipeline(at, FakeEngine(at))

    frames = rate_search.made_frames((192, 128), 2)
    plans = [('fake', Options(precision='fp32'))]
    found = rate_search.search(bundle, plans, SIZES, frames, 2, accuracy, opening)

    assert [each.accuracy['semantic miou'] for each in found] == [25.6, 19.2, 12.8]


def test_the_command_measures_prints_and_stores_the_choice(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ','.join(f'{height}x{width}' for height, width in SIZES[:2])
    code = main([
        'compile', str(bundle.path), '--rate', '0.5,0.4', '--engine', 'onnxruntime', '--sizes',
        sizes, '--timed', '3', '--camera', '192x128', '--json', str(tmp_path / 'rate.json'),
    ])  # fmt: skip

    assert code == 0
    printed = capsys.readouterr().out
    assert '* 0.5,0.4 Hz' in printed
    assert 'target_rate_hz:=0.5' in printed and 'target_rate_hz:=0.4' in printed
    assert load(bundle, 0.4).rate_hz == 0.4
    choice = load(bundle, 0.5)
    assert choice.chosen.label == '256x384 onnxruntime fp32'
    assert [each.size for each in choice.steps][:1] == ['256x384']
    report = json.loads((tmp_path / 'rate.json').read_text())
    assert len(report['measured']) == 2 and [each['rate_hz'] for each in report['choices']] == [
        0.5,
        0.4,
    ]


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['--rate', '1000', '--timed', '2'], 'nothing keeps 1000 Hz on this machine: the fastest'),
        (['--rate', '0.5,1000', '--timed', '2'], 'nothing keeps 1000 Hz on this machine'),
        (['--rate', '0'], 'expected 0.1 to 1000 Hz'),
        (['--rate', '10', '--headroom', '1'], 'a share of at least 0 and below 1'),
        (['--rate', '10', '--sizes', '100x192'], 'both sides must be multiples of 32'),
        (['--rate', '10', '--batch', '2'], 'leave out --outputs, --batch'),
        (['--rate', '10', '--data', 'nowhere'], 'nowhere'),
    ],
)
def test_bad_input_is_one_clear_error(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    engine = ['--engine', 'onnxruntime']
    if '--sizes' not in arguments:
        engine += ['--sizes', '128x192']
    assert main(['compile', str(bundle.path), *engine, *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert expected in error and error.startswith('mtl-perception: ')


def test_a_choice_of_another_machine_bundle_or_rate_is_refused(bundle: Bundle) -> None:
    steps = (measured(256, 384, 10.0),)
    choice = Choice(bundle.hash, 30.0, 0.25, (1280, 720), this_machine(), steps)
    save(bundle, choice)
    assert load(bundle, 30.0) == choice
    with pytest.raises(EngineError, match=r'no input size was chosen for 15 Hz .*measured are 30'):
        load(bundle, 15.0)
    save(bundle, replace(choice, machine='Another CPU #0, 64 cores'))
    with pytest.raises(EngineError, match=r'on another machine \(Another CPU #0, 64 cores\)'):
        load(bundle, 30.0)
    save(bundle, replace(choice, bundle_hash='0' * 64))
    with pytest.raises(EngineError, match="chosen for another bundle named 'any'"):
        load(bundle, 30.0)
    path = save(bundle, choice)
    path.write_text('{"steps": [{}]}')
    with pytest.raises(EngineError, match='cannot be read'):
        load(bundle, 30.0)


def test_steps_that_are_not_built_are_left_out(bundle: Bundle) -> None:
    steps = tuple(
        replace(measured(*size, 10.0 - index), engine='onnxruntime')
        for index, size in enumerate(SIZES)
    )
    save(bundle, Choice(bundle.hash, 30.0, 0.25, (1280, 720), this_machine(), steps))
    rate_search.build_and_open(bundle.at_size(*SIZES[2]), 'onnxruntime', steps[2].options).close()

    assert [step.size for step in rate_choice.steps_for(bundle.path, 30.0)] == [
        '256x384', '128x192',
    ]  # fmt: skip
    assert len(rate_choice.steps_for(bundle.path, 30.0, build=True)) == 3
