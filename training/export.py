# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Export a run as a bundle: `python -m training.export runs/demo models/hydranet_lite0`.

Weights of two and more axes are stored in half precision, in every file alike, so that the formats
hold one network; the graph computes in single precision. Metrics come from `training.evaluate`.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize

from mtl_perception.bundle import (
    MANIFEST,
    Bundle,
    BundleError,
    InputSpec,
    Manifest,
    sha256_of,
    write_manifest,
)
from mtl_perception.engines.onnx_graph import fixed_size
from mtl_perception.manifest import MIN_SIDE
from training.beliefs import apply_beliefs, believed
from training.checkpoint import (
    BEST,
    EMA,
    LAST,
    CheckpointError,
    find_checkpoint,
    load_weights,
    read_state,
)
from training.command import run
from training.config import ConfigError, RunConfig, load_config, save_config
from training.model_card import beliefs_and_terms, card, read_description, read_metrics
from training.networks.base import DeployedNetwork, MultiTaskNetwork, output_specs
from training.networks.build import build_network
from training.networks.written_for_onnx import written_for_onnx
from training.terms import joined, terms_of

log = logging.getLogger(__name__)

WEIGHTS, ONNX, PROGRAM = 'weights.safetensors', 'model.onnx', 'model.pt2'
CARD, CONFIG = 'card.md', 'training.yaml'
PARENT = 'parent.json'
"""In a run that added a task to a model: which model that was, as `training.add_task` wrote it."""
OPSET = 18
HALF_FROM_AXES = 2
MAX_BATCH = 64
SIZE_STEP = 32
"""The stride of the trunk's last level: sides are multiples of it."""
MAX_SIDE = 2048


def load_run(
    run: Path, weights: str | None = None
) -> tuple[MultiTaskNetwork, RunConfig, dict[str, Any]]:
    """The averaged network of a run folder in eval mode, its configuration and training state.

    weights: `best` or `last`; by default the best validated ones, or the last where no validation
    has been. Raises CheckpointError, ConfigError.
    """
    if weights is None:
        weights = 'best' if find_checkpoint(run / BEST) else 'last'
    found = find_checkpoint(run / {'best': BEST, 'last': LAST}[weights])
    if found is None and weights == 'best':
        raise CheckpointError(f'{run} holds no {BEST}/: nothing was validated; take the last')
    if found is None:
        raise CheckpointError(
            f'{run} holds no checkpoint; expected the output folder of `python -m training.train`'
        )
    config = load_config(run / 'config.yaml')
    network = build_network(config.network, config.task_table(), initialise=False).eval()
    load_weights(network, found / EMA)
    return network, config, read_state(found)


def round_weights(network: torch.nn.Module) -> None:
    """Round kernels and matrices to what half precision holds; norms and biases stay."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= HALF_FROM_AXES:
                parameter.copy_(parameter.half().float())


def save_weights(network: torch.nn.Module, path: Path) -> None:
    """safetensors by state-dict name; kernels and matrices as float16."""
    save_file(
        {
            name: (tensor.half() if _is_kernel(tensor) else tensor).contiguous()
            for name, tensor in network.state_dict().items()
        },
        path,
    )
    path.chmod(0o644)  # safetensors makes files for their owner only


def load_network(bundle: Bundle) -> MultiTaskNetwork:
    """The network of a bundle in eval mode, from its weights: to train on, or to compare with."""
    config = load_config(bundle.file(CONFIG))
    network = build_network(config.network, config.task_table(), initialise=False).eval()
    tensors = load_file(bundle.file(WEIGHTS))
    network.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, strict=True
    )
    apply_beliefs(network, bundle.manifest.tasks)
    return network


def save_onnx(network: MultiTaskNetwork, spec: InputSpec, path: Path) -> InputSpec:
    """The deployed graph with a free batch and size; kernels stored as float16 with a Cast.

    Returns `spec` with the `size_step` of the graph: engines are built for any size that is a
    multiple of it, or, where a network cannot be traced without its size, for this size only (0),
    which the log says.
    """
    deployed = DeployedNetwork(written_for_onnx(network)).eval()
    names = [output.name for output in output_specs(network, spec.height, spec.width)]
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    model, step = _graph(deployed, spec, names, SIZE_STEP), SIZE_STEP
    if model is None:
        model, step = _graph(deployed, spec, names, 0), 0
    assert model is not None
    onnx.save(model, path)
    return replace(spec, size_step=step)


def _graph(
    deployed: DeployedNetwork, spec: InputSpec, names: Sequence[str], step: int
) -> onnx.ModelProto | None:
    """The graph for sizes that are multiples of `step`, or with 0 for that of `spec`.

    None, and the log says why, where a network cannot be exported without its size.
    """
    height, width = spec.height, spec.width
    if step and (min(height, width) < MIN_SIDE or height % step or width % step):
        return None
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    free: dict[int, Any] = {0: torch.export.Dim('batch', min=1, max=MAX_BATCH)}
    if step:
        for axis, name in ((1, 'rows'), (2, 'columns')):
            free[axis] = step * torch.export.Dim(name, min=MIN_SIDE // step, max=MAX_SIDE // step)
    try:
        with torch.no_grad():
            traced = torch.export.export(
                deployed, (example,), dynamic_shapes={'image': free}, strict=False
            )
        program = torch.onnx.export(
            traced, (example,), dynamo=True, opset_version=OPSET, input_names=[spec.name],
            output_names=names, verbose=False,
        )  # fmt: skip
        assert program is not None
        model = program.model_proto
        # Batch norm is folded into kernels here, which float16 then cannot hold: some 5 MB more for
        # EfficientNet-Lite0. Half precision and int8 engines need it so, because the casts that
        # they put around a convolution would come between it and its batch norm.
        store_half(model.graph)
        for node in model.graph.node:  # stack traces of the exporting machine: of no use, and large
            del node.metadata_props[:]
        onnx.checker.check_model(model)
        if step:
            for size in ((height, width), (height + step, width), (MIN_SIDE, MIN_SIDE + step)):
                _run_at(model, *size)
    except Exception as error:  # of torch, onnx and ONNX Runtime, whose kinds are not public
        if not step:
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        log.warning(
            'the graph is fixed to %dx%d, since this network cannot be exported for any size: %s',
            height, width, reason[0],
        )  # fmt: skip
        return None
    return model


def _run_at(model: onnx.ModelProto, height: int, width: int) -> None:
    """Run a graph of free sizes at one, as an engine is built for it; raises what fails."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        fixed_size(model, (1, height, width, 3)).SerializeToString(), options
    )
    name = session.get_inputs()[0].name
    session.run(None, {name: np.zeros((1, height, width, 3), np.uint8)})


def save_program(network: MultiTaskNetwork, spec: InputSpec, path: Path) -> None:
    """The deployed graph as a torch.export program with a dynamic batch.

    Kernels are stored as float16 with a cast, nothing is pickled (`engines/torch_archive.py`).
    """
    deployed = DeployedNetwork(copy.deepcopy(network)).eval().requires_grad_(False)
    for module in list(deployed.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if _is_kernel(parameter):
                half = torch.nn.Parameter(parameter.half(), requires_grad=False)
                setattr(module, name, half)
                parametrize.register_parametrization(module, name, _ToFloat(), unsafe=True)
    example = torch.zeros(2, spec.height, spec.width, 3, dtype=torch.uint8)
    batch = {0: torch.export.Dim('batch', min=1, max=MAX_BATCH)}
    program = torch.export.export(deployed, (example,), dynamic_shapes={'image': batch})
    program._example_inputs = None  # they would be pickled, and are as large as the weights
    torch.export.save(program, path)


class _ToFloat(torch.nn.Module):
    def forward(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.float()


def store_half(graph: onnx.GraphProto) -> None:
    """Store what half precision holds exactly as float16, cast back when the graph is loaded."""
    casts = []
    for initializer in graph.initializer:
        if initializer.data_type != onnx.TensorProto.FLOAT or len(initializer.dims) < 2:
            continue
        values = numpy_helper.to_array(initializer)
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(half, f'{name}.half'))
        casts.append(
            onnx.helper.make_node(
                'Cast', [f'{name}.half'], [name], name=f'{name}.cast', to=onnx.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def export(
    run: Path,
    output: Path,
    metrics_json: Sequence[Path] = (),
    description: Path | None = None,
    weights: str | None = None,
    program: bool = True,
    terms_from: Path | None = None,
) -> Bundle:
    """Write a bundle folder; an existing one is replaced only when the new one is whole.

    Without `program` it has no model.pt2: smaller, and nothing for the engines of torch.
    terms_from: a configuration that states terms of sources that the run's own does not. Raises
    BundleError when `output` is something else than a bundle or an empty folder.
    """
    check_target(output)
    metrics = [metric for path in metrics_json for metric in read_metrics(path)]
    text = read_description(description)
    network, config, state = load_run(run, weights)
    parent = read_parent(run)
    round_weights(network)
    tasks = believed(network, config, parent)
    apply_beliefs(network, tasks)
    aug = config.augment
    spec = InputSpec(aug.input_height, aug.input_width, tuple(aug.letterbox_colour))
    terms = joined(terms_of(asdict(config)), parent.get('terms', {}))
    if terms_from:
        stated = terms_of(asdict(load_config(terms_from)))
        terms = joined(terms, {name: stated[name] for name in terms if name in stated})
    with tempfile.TemporaryDirectory(dir=_parent(output)) as scratch:
        folder = Path(scratch) / output.name
        folder.mkdir()
        save_weights(network, folder / WEIGHTS)
        spec = save_onnx(network, spec, folder / ONNX)
        if program:
            save_program(network, spec, folder / PROGRAM)
        save_config(config, folder / CONFIG)
        (folder / CARD).write_text(
            card(output.name, network, config, state, metrics, text, parent)
            + beliefs_and_terms(tasks, terms),
            'utf-8',
        )
        manifest = Manifest(
            name=output.name,
            tasks=tasks,
            input=spec,
            outputs=output_specs(network, spec.height, spec.width),
            files={path.name: sha256_of(path) for path in sorted(folder.iterdir())},
            licence='weights: Apache-2.0 as far as they are ours; see card.md for the data terms',
            training_data=tuple(
                dict.fromkeys(
                    [*parent.get('training_data', []), *(layout.name for layout in config.data)]
                )
            ),
            built_with={
                package: importlib.metadata.version(package)
                for package in ('torch', 'timm', 'onnx', 'onnxscript')
            },
            metrics=tuple(metrics),
            terms=terms,
            parent_run=f'{config.name} seed {config.seed} step {state["step"]}'
            + (f', on {parent["name"]}' if parent else ''),
        )
        write_manifest(folder, manifest)
        Bundle.open(folder)
        if output.exists():
            output.rename(Path(scratch) / 'old')
        folder.rename(output)
    return Bundle.open(output)


def check_target(output: Path) -> None:
    """Raises BundleError when writing a bundle there would take away what is no bundle."""
    if (output / MANIFEST).is_file() or not output.exists():
        return
    if not output.is_dir() or any(output.iterdir()):
        raise BundleError(
            f'{output} exists and is no bundle: expected a new folder, an empty one, or one with '
            f'{MANIFEST}, which is replaced. Name the bundle as well: {output / "NAME"}'
        )


def read_parent(run: Path) -> dict[str, Any]:
    """What a run added a task to; empty for one that trained everything itself."""
    path = run / PARENT
    return json.loads(path.read_text('utf-8')) if path.is_file() else {}


def _is_kernel(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim >= HALF_FROM_AXES


def _parent(output: Path) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    return output.parent


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog='python -m training.export', description=__doc__)
    parser.add_argument('run', type=Path, help='output folder of training.train')
    parser.add_argument('bundle', type=Path, help='folder to write, e.g. models/NAME')
    parser.add_argument(
        '--metrics',
        type=Path,
        nargs='*',
        default=[],
        help='JSON of training.evaluate, or of mtl-perception compile --rate HZ --data FOLDER',
    )
    parser.add_argument('--weights', choices=('best', 'last'), help='default best, if validated')
    parser.add_argument('--description', type=Path, help='Markdown that opens the card')
    parser.add_argument(
        '--no-program', action='store_true', help='leave model.pt2 out, which torch engines need'
    )
    parser.add_argument(
        '--terms', type=Path, help='configuration that states terms which the run does not'
    )
    args = parser.parse_args(argv)
    try:
        bundle = export(
            args.run, args.bundle, args.metrics, args.description, args.weights,
            not args.no_program, args.terms,
        )  # fmt: skip
    except (ConfigError, CheckpointError, BundleError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in bundle.path.iterdir()) / 1e6
    print(
        f'{bundle.path}: {bundle.manifest.parent_run}, {size:.1f} MB. '
        f'Next: mtl-perception compile {bundle.path}'
    )
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
