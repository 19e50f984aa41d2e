"""A traced graph to ONNX, the file that onnxruntime runs and OpenVINO converts.

torch's exporter writes the float operators; our quantize and dequantize become QuantizeLinear and
DequantizeLinear, with int8 weights as initializers (`_dynamic_onnx` has the dynamic operators,
`_block_onnx` weights stored in blocks, of which every runtime makes its own). Every dynamic axis
keeps its name. Each ONNX node is called as our plans call it ("layer1.0.conv1:conv2d"; with "+"
between them where the exporter fused several, with "~2" and so on where it made several nodes of
one), for the runtime's counters to be read back: the name travels through torch's decompositions in
the place of the stack trace, which is the one note they keep. What else torch writes about a node
(the user's source lines and paths) is dropped: an artifact ships.

Left out: files above 2 GB (external data).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from burnish.errors import Unsupported
from burnish.graph import DEQUANTIZE, QUANTIZE, Traced
from burnish.runtimes._block_onnx import block_translations
from burnish.runtimes._dynamic_onnx import dynamic_translations
from burnish.runtimes._exported import JOINED, NAME_KEY, Remembered, exported

Edit = Callable[[Any], None]
OPSET = 21
_MARK = "burnish operator: "
_TRACE_KEY = "pkg.torch.onnx.stack_trace"
_TWO_GB = 2_000_000_000


@dataclass(frozen=True)
class Written:
    """A node of a file: its name, and those of the values it reads and gives."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def to_onnx(model: Traced, path: Path, edits: Sequence[Edit] = ()) -> list[Written]:
    """Write the graph to `path`, after a runtime's own edits of it.

    The exporter runs once for a graph, however many files are written of it. Returns the nodes.

    Raises:
        Unsupported: an operator the exporter has no translation for (torch's reason is kept).
    """
    import onnx_ir as ir

    size = sum(t.numel() * t.element_size() for t in model.graph_module.state_dict().values())
    if size > _TWO_GB:
        raise Unsupported(
            f"the model holds {size / 1e9:.1f} GB; ONNX files above 2 GB are not done"
        )
    translated = _translated(model).clone()
    for edit in edits:
        edit(translated.graph)
    _rename_dims(translated.graph, model)
    ir.save(translated, path)
    return [
        Written(
            str(node.name),
            tuple(str(value.name) for value in node.inputs if value is not None),
            tuple(str(value.name) for value in node.outputs),
        )
        for node in translated.graph
    ]


def _translate(model: Traced) -> Any:
    """The graph as torch's exporter writes it, with our names: an `onnx_ir.Model`."""
    _keep_signatures()
    try:
        with _quiet(), torch.no_grad():
            made = exported(model)
            for node in made.program.graph.nodes:
                name = made.names.get(node.name)
                node.meta["stack_trace"] = "" if name is None else _MARK + name
            program = torch.onnx.export(
                made.program,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=_translations(),
                input_names=[slot.name for slot in model.inputs],
                output_names=[slot.name for slot in model.outputs],
                optimize=False,
                verbose=False,
            )
            assert program is not None
            graph = program.model.graph
            _note_operators(graph)
            program.optimize()
    except Exception as error:
        raise Unsupported(
            f"torch's ONNX exporter refuses this graph: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0][:400]}"
        ) from error
    _name_nodes(program.model.graph, list(dict.fromkeys(made.names.values())))
    return program.model


_translated: Remembered[Any] = Remembered(_translate)


@functools.cache
def _keep_signatures() -> None:
    """Let onnxscript parse each of its 500 translations once, not once for every export.

    torch's exporter asks each of them for its signature whenever it begins, and onnxscript (0.7)
    parses its source for the answer: the better part of a second, half of exporting a small model.
    """
    from onnxscript._internal import values

    asked = vars(values.TracedOnnxFunction).get("function_ir")
    if isinstance(asked, property) and asked.fget is not None:
        setattr(values.TracedOnnxFunction, "function_ir", property(functools.cache(asked.fget)))  # noqa: B010


def _note_operators(graph: Any) -> None:
    """Note each node's operator under a key of its own: the exporter's optimizer, which fuses some
    (batch-norms, pads), gives a fused node the notes of all it was made of."""
    for node in graph:
        note = node.metadata_props.get(_TRACE_KEY, "")
        node.metadata_props.clear()
        if note.startswith(_MARK):
            name = note.removeprefix(_MARK).splitlines()[0]
            node.metadata_props[f"{NAME_KEY} {name}"] = name


def _name_nodes(graph: Any, order: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for node in graph:
        noted = {node.metadata_props[k] for k in node.metadata_props if k.startswith(NAME_KEY)}
        node.metadata_props.clear()
        if not noted:
            continue
        name = JOINED.join(sorted(noted, key=order.index))
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}~{seen[name]}"
        for index, value in enumerate(node.outputs):
            # onnxruntime calls the nodes it makes after the values they give.
            if value not in graph.outputs:
                value.name = f"{node.name}:{index}"


def _rename_dims(graph: Any, model: Traced) -> None:
    import onnx_ir as ir

    for value, slot in [
        # Behind the model's own inputs an edit may have put some for a converter.
        *zip(graph.inputs[: len(model.inputs)], model.inputs, strict=True),
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

    ours = {QUANTIZE: quantize, DEQUANTIZE: dequantize}
    return {**ours, **dynamic_translations(), **block_translations()}
