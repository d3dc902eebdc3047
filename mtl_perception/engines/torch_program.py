# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The program of `model.pt2`, made ready to be built: batch, outputs and precision fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mtl_perception.engines.base import EngineError
from mtl_perception.engines.built import Plan
from mtl_perception.engines.torch_archive import load_program

_TYPES = {'fp16': torch.float16, 'bf16': torch.bfloat16}
_aten = torch.ops.aten
_HEAVY = {
    _aten.conv2d.default, _aten.conv_transpose2d.input, _aten.linear.default, _aten.matmul.default,
    _aten.mm.default, _aten.bmm.default, _aten.addmm.default,
    _aten.scaled_dot_product_attention.default,
}  # fmt: skip


def program(plan: Plan) -> torch.export.ExportedProgram:
    """The bundle's program for one batch size, with the outputs wanted, at the precision asked for.

    Weights that are stored in half precision are made what the graph computes with, once. Raises
    EngineError.
    """
    module = load_program(plan.bundle.read('model.pt2')).module(check_guards=False)
    _fold_casts(module)
    if plan.precision in _TYPES:
        lower(module, _TYPES[plan.precision])
    module.to(plan.device)
    example = torch.zeros(plan.shape, dtype=torch.uint8, device=plan.device)
    with torch.no_grad():
        traced = torch.export.export(_Wanted(module, plan.outputs), (example,))
        return traced.run_decompositions({})


class _Wanted(torch.nn.Module):
    """Some outputs of a program, as a tuple; what nobody wants is dead code."""

    def __init__(self, module: torch.nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.outputs = list(outputs)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.module(image)
        missing = [name for name in self.outputs if name not in found]
        if missing:
            raise EngineError(
                f'model.pt2 has no output {missing[0]!r} that the manifest names; it has '
                f'{list(found)}. Export the bundle again.'
            )
        return tuple(found[name] for name in self.outputs)


def lower(module: torch.fx.GraphModule, dtype: torch.dtype) -> None:
    """Let convolutions and matrix products compute in `dtype`, in place; all else stays float32.

    Compilers fuse the casts into their neighbours, so that what lies between is stored in `dtype`;
    and what follows the last of them, boxes and scores, is computed in single precision.
    """
    graph = module.graph
    for node in [node for node in graph.nodes if node.target in _HEAVY]:
        for given in node.all_input_nodes:
            if given.op == 'get_attr':
                node.replace_input_with(given, _attribute(module, given, dtype))
                continue
            with graph.inserting_before(node):
                cast_in = graph.call_function(_aten.to.dtype, (given, dtype))
            node.replace_input_with(given, cast_in)
        with graph.inserting_after(node):
            cast_out = graph.call_function(_aten.to.dtype, (node, torch.float32))
        node.replace_all_uses_with(cast_out, lambda user, made=cast_out: user is not made)
    graph.eliminate_dead_code()
    module.recompile()


def _fold_casts(module: torch.fx.GraphModule) -> None:
    """Cast stored tensors once instead of in every run, in place."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is _aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.target is _aten.to.dtype and node.args[0].op == 'get_attr':
            node.replace_all_uses_with(_attribute(module, node.args[0], node.args[1]))
            graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()


def _attribute(
    module: torch.fx.GraphModule, node: torch.fx.Node, dtype: torch.dtype
) -> torch.fx.Node:
    """A node for the stored tensor of another node, cast."""
    tensor: Any = module
    for part in str(node.target).split('.'):
        tensor = getattr(tensor, part)
    name = f'{str(node.target).replace(".", "_")}_{str(dtype).removeprefix("torch.")}'
    if not hasattr(module, name):
        module.register_buffer(name, tensor.detach().to(dtype))
    with module.graph.inserting_before(node):
        return module.graph.get_attr(name)
