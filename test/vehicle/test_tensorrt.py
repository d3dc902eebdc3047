# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""TensorRT without a GPU: graphs built by TensorRT for RTX, a run against imitated libraries."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mtl_perception.bundle import Bundle
from mtl_perception.engines import Calibration, EngineError, Options, cuda
from mtl_perception.engines.onnx_graph import changed_graph
from mtl_perception.engines.tensorrt import TensorRtEngine, build_plan

pytest.importorskip('onnx')
MODEL = Path(__file__).parents[2] / 'models' / 'hydranet_lite0'
GPUS = (86, 89, 120)


@pytest.fixture
def bundle(tiny_bundle, monkeypatch):
    """The tiny bundle on a machine that says it has a GPU and TensorRT."""
    monkeypatch.setattr(cuda, 'gpu', lambda: ('a GPU', 89))
    monkeypatch.setitem(sys.modules, 'tensorrt', SimpleNamespace(__version__='10.3'))
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope='module')
def rtx():
    return pytest.importorskip(
        'tensorrt_rtx_bindings',
        reason='TensorRT for RTX is not installed: pip install -r requirements/tensorrt-rtx.in',
    )


def plan_for(bundle, precision):
    spec = bundle.manifest.input
    shape = (2, spec.height, spec.width, 3)
    frames = list(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    calibration = Calibration(frames, 'noise') if precision == 'int8' else None
    return TensorRtEngine.plan(bundle, Options(precision=precision), calibration)


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'int8'])
def test_rtx_builds_for_gpus_that_are_not_there(bundle, rtx, precision):
    assert len(build_plan(rtx, plan_for(bundle, precision), GPUS)) > 1000


@pytest.mark.slow
@pytest.mark.parametrize('precision', ['fp16', 'int8'])
def test_rtx_builds_the_model(bundle, rtx, precision):
    assert len(build_plan(rtx, plan_for(Bundle.open(MODEL), precision), GPUS)) > 1_000_000


def test_half_precision_is_of_the_heavy_operations_only(bundle):
    reference = pytest.importorskip('onnx.reference')  # ONNX Runtime undoes casts on a CPU
    plan = plan_for(bundle, 'fp16')
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    graphs = (str(plan.graph), changed_graph(plan, fp16=True))

    exact, half = (reference.ReferenceEvaluator(g).run(None, {'image': image}) for g in graphs)

    answers = dict(zip(plan.outputs, zip(exact, half, strict=True), strict=True))
    for name in ('boxes', 'scores', 'labels', 'weather'):
        np.testing.assert_array_equal(*answers[name])
    assert 0 < np.abs(np.subtract(*answers['semantic'])).max() < 1e-3


def test_without_a_gpu_it_says_so(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorrt', SimpleNamespace(__version__='10.3'))
    monkeypatch.setattr(cuda, 'gpu', lambda: None)

    with pytest.raises(EngineError, match='no NVIDIA GPU or driver'):
        TensorRtEngine.plan(Bundle.open(tiny_bundle))


class Runtime:
    """libcudart by name, on host memory: what is captured runs when the graph is launched."""

    def __init__(self):
        self.kept, self.freed, self.recording, self.recorded = [], [], False, []

    def __getattr__(self, name):
        return lambda *arguments: self.call(name, *arguments)

    def call(self, name, *arguments):
        if name in ('cudaMalloc', 'cudaMallocHost'):
            self.kept.append(ctypes.create_string_buffer(arguments[1].value))
            arguments[0]._obj.value = ctypes.addressof(self.kept[-1])
        elif name == 'cudaMemcpyAsync':
            target, source, size = (argument.value for argument in arguments[:3])
            self.queue(lambda: ctypes.memmove(target, source, size))
        elif name == 'cudaStreamBeginCapture':
            self.recording = True
        elif name == 'cudaStreamEndCapture':
            self.recording = False
        elif name == 'cudaGraphLaunch':
            for work in self.recorded:
                work()
        elif name.startswith(('cudaFree', 'cudaGraphDestroy', 'cudaGraphExecDestroy')):
            self.freed.append(name)
        return 0

    def queue(self, work):
        self.recorded.append(work) if self.recording else work()


class Context:
    """An execution context whose network answers the mean of the image, in every output."""

    def __init__(self, bundle, runtime):
        self.specs = {spec.name: spec for spec in bundle.manifest.outputs}
        self.size, self.runtime, self.addresses = 64 * 96 * 3, runtime, {}

    def set_input_shape(self, name, shape):
        assert (name, shape) == ('image', (1, 64, 96, 3))

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def get_tensor_shape(self, name):
        return (1, *self.specs[name].shape)

    def execute_async_v3(self, stream):
        self.runtime.queue(self.network)
        return True

    def network(self):
        block = (ctypes.c_uint8 * self.size).from_address(self.addresses['image'])
        mean = np.ctypeslib.as_array(block).mean()
        for name, spec in self.specs.items():
            values = np.full(spec.shape, mean, spec.dtype)
            ctypes.memmove(self.addresses[name], values.ctypes.data, values.nbytes)
        return True


def test_a_run_copies_in_computes_and_copies_out(bundle, tmp_path, monkeypatch):
    runtime = Runtime()
    context = Context(bundle, runtime)
    engine = SimpleNamespace(
        create_execution_context=lambda: context,
        get_tensor_dtype=lambda name: context.specs[name].dtype,
    )
    trt = SimpleNamespace(
        __version__='10.3',
        Logger=type('Logger', (), {'ERROR': 0, '__init__': lambda self, level: None}),
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda blob: engine),
        nptype=np.dtype,
    )
    monkeypatch.setitem(sys.modules, 'tensorrt', trt)
    monkeypatch.setattr(cuda, '_library', lambda: runtime)
    (tmp_path / 'plan').write_bytes(b'')

    opened = TensorRtEngine(plan_for(bundle, 'fp32'), tmp_path / 'plan')
    bright = opened.run(np.full((1, 64, 96, 3), 200, np.uint8))
    opened.input[:] = 10
    dark = opened.run(opened.input)
    opened.close()

    assert opened.info.detail['cuda_graph'] == 'yes'
    assert (bright['scores'] == 200).all() and (dark['scores'] == 10).all()
    assert bright['semantic'].shape == (1, 19, 16, 24) and bright['labels'].dtype == np.int64
    assert len(runtime.freed) == len(runtime.kept) + 2
    with pytest.raises(EngineError, match='after close'):
        opened.run(opened.input)
