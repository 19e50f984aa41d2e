"""A traced graph to ONNX, the file that onnxruntime runs and OpenVINO converts.

torch's exporter writes the float operators; our quantize and dequantize become QuantizeLinear and
DequantizeLinear, with int8 weights as initializers (`_dynamic_onnx` has the dynamic operators).
Every dynamic axis keeps its name. Each ONNX node is called as our plans call it
("layer1.0.conv1:conv2d"), for the runtime's counters to be read back: the name travels through
torch's decompositions in the place of the stack trace, which is the one note they keep. What else
torch writes about a node (the user's source lines and paths) is dropped: an artifact ships.

Left out: files above 2 GB (external data).
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from burnish.errors import Unsupported
from burnish.graph import DEQUANTIZE, QUANTIZE, Traced, operator_names
from burnish.runtimes._dynamic_onnx import dynamic_translations

Edit = Callable[[Any], None]
OPSET = 21
NAME_KEY = "burnish"
_MARK = "burnish operator: "
_TRACE_KEY = "pkg.torch.onnx.stack_trace"
_TWO_GB = 2_000_000_000


def to_onnx(model: Traced, path: Path, edits: Sequence[Edit] = ()) -> None:
    """Write the graph to `path`, after a runtime's own edits of it.

    Raises:
        Unsupported: an operator the exporter has no translation for (torch's reason is kept).
    """
    size = sum(t.numel() * t.element_size() for t in model.graph_module.state_dict().values())
    if size > _TWO_GB:
        raise Unsupported(
            f"the model holds {size / 1e9:.1f} GB; ONNX files above 2 GB are not done"
        )
    exported = _export(model)
    graph = exported.model.graph
    _name_nodes(graph)
    for edit in edits:
        edit(graph)
    _rename_dims(graph, model)
    exported.save(str(path), include_initializers=True, external_data=False)


def _export(model: Traced) -> Any:
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                model.graph_module, model.example(), dynamic_shapes=model.dynamic_shapes()
            )
            _mark_nodes(program, model)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=_translations(),
                input_names=[slot.name for slot in model.inputs],
                output_names=[slot.name for slot in model.outputs],
                verbose=False,
            )
    except Exception as error:
        raise Unsupported(
            f"torch's ONNX exporter refuses this graph: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0][:400]}"
        ) from error
    assert exported is not None
    return exported


def _mark_nodes(program: torch.export.ExportedProgram, model: Traced) -> None:
    """Note on each node of the exported program what our plans call the node it came from."""
    ours = {
        node.name: str(node.meta.get(NAME_KEY, name))
        for node, name in operator_names(model.graph_module).items()
        if node.target not in (QUANTIZE, DEQUANTIZE)
    }
    for node in program.graph.nodes:
        source = node.meta.get("from_node")
        name = ours.get(source[0].name) if source else None
        node.meta["stack_trace"] = "" if name is None else _MARK + name


def _name_nodes(graph: Any) -> None:
    seen: dict[str, int] = {}
    for node in graph:
        note = node.metadata_props.get(_TRACE_KEY, "")
        node.metadata_props.clear()
        if not note.startswith(_MARK):
            continue
        name = note.removeprefix(_MARK).splitlines()[0]
        node.metadata_props[NAME_KEY] = name
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}~{seen[name]}"
        for index, value in enumerate(node.outputs):
            # onnxruntime calls the nodes it makes after the values they give.
            if value not in graph.outputs:
                value.name = f"{node.name}:{index}"


def _rename_dims(graph: Any, model: Traced) -> None:
    import onnx_ir as ir

    for value, slot in [
        *zip(graph.inputs, model.inputs, strict=True),
        *zip(graph.outputs, model.outputs, strict=True),
    ]:
        value.shape = ir.Shape(slot.shape)
    # Shapes in between were written with the exporter's own symbols; they say nothing now.
    for node in graph:
        for output in node.outputs:
            if output not in graph.outputs:
                output.shape = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's warnings are about its own versions; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _translations() -> dict[Any, Any]:
    from onnxscript import opset21 as op

    def quantize(x: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.QuantizeLinear(x, scale, zero_point, axis=axis)

    def dequantize(q: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.DequantizeLinear(q, scale, zero_point, axis=axis)

    return {QUANTIZE: quantize, DEQUANTIZE: dequantize, **dynamic_translations()}
