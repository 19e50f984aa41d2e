"""A torch program in an archive: written, read back, and made ready to be called.

The file is a `.pt2`, a zip that `torch.export` writes and reads. `save_program` writes it without
example inputs, guard code and metadata, the same bytes for the same program; the names that plans
have for its nodes stand in a JSON file beside it, which counters read. Loading accepts only
what is listed in `_archive.py`: raw weights and constants, a graph of known operators, no pickle
anywhere. That list is checked with Python's zip reader and torch has one of its own, so before
torch interprets anything the two must agree on names and on the bytes of every table.

Operators called `burnish::` are registered by the room that owns them; it is imported here by name,
in the worker, when an archive uses them, because this room must load without torch.

*Channels-last* keeps tensors of four axes with the channels of one place beside each other, which
is how torch's convolutions read fastest on most processors. Weights are turned once, when they are
loaded; inputs with every run, outputs back again, and both are inside the time of a run: the caller
has and wants NCHW. A `view` that such a tensor does not allow is done as a reshape.
"""

from __future__ import annotations

import copy
import importlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from burnish.bundle._archive import GRAPH, check_archive
from burnish.bundle._artifact import Artifact
from burnish.bundle._record import Json, read_json, take, write_json
from burnish.errors import Damaged, Unsupported
from burnish.files import replacing

OPERATORS = "operators.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_REGISTERED_BY = {"burnish": "burnish.graph"}
_IMAGE_AXES = 4


def save_program(
    program: Any, path: Path, operators: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Write a `torch.export.ExportedProgram` to `path` (a `.pt2`), whole or not at all.

    The program is left as it is; example inputs, guards and metadata are not in the file. What
    plans call its nodes (`operators`, by the nodes' names) goes into a table beside it. Returns the
    names of the files written.

    Raises `Unsupported` when it holds something that could only be stored as a pickle, or an
    operator, container or name outside the list in `_archive.py`.
    """
    import torch

    bare = copy.copy(program)
    bare._example_inputs = None
    bare._guards_code = []
    buffer = io.BytesIO()
    torch.export.save(bare, buffer)
    with replacing(path) as unfinished:
        _rewrite(buffer, unfinished)
        try:
            check_archive(unfinished)
        except Damaged as error:
            raise Unsupported(f"this program cannot be stored for torch: {error}") from None
    if operators is None:
        return (path.name,)
    write_json(path.with_name(OPERATORS), {"operators": dict(operators)})
    return path.name, OPERATORS


def _rewrite(source: io.BytesIO, target: Path) -> None:
    """Copy the archive without metadata, dates and serial number: same program, same bytes."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in sorted(old.infolist(), key=lambda item: item.filename):
            name = info.filename.partition("/")[2]
            data = old.read(info)
            if name == ".data/serialization_id":
                continue
            if name == GRAPH:
                data = json.dumps(_without_metadata(json.loads(data))).encode()
            new.writestr(zipfile.ZipInfo(f"model/{name}", _EPOCH), data)


def _without_metadata(value: Json) -> Json:
    if isinstance(value, dict):
        return {
            key: {} if key == "metadata" else _without_metadata(item) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_without_metadata(item) for item in value]
    return value


def _operators(artifact: Artifact) -> dict[str, str]:
    """The table of an artifact; an older one has none. Raises `Damaged` where it is no table."""
    if OPERATORS not in artifact.files:
        return {}
    path = artifact.folder / OPERATORS
    names = take(read_json(path), "operators", dict, str(path))
    if not all(isinstance(name, str) for name in names.values()):
        raise Damaged(f"{path} holds something else than names")
    return names


class Program:
    """An artifact's program on its device and in its layout.

    `module` is a plain `GraphModule`: the flat leaves of a call in, flat results out. `operators`
    are the names that plans have for its nodes, by the nodes' names.
    """

    def __init__(self, artifact: Artifact) -> None:
        import torch
        from torch.export.graph_signature import ConstantArgument

        self._artifact = artifact
        self.operators = _operators(artifact)
        self._device = _device(artifact.options.device)
        program = _load(artifact.folder / artifact.files[0])
        user = [
            spec.arg
            for spec in program.graph_signature.input_specs
            if spec.kind.name == "USER_INPUT"
        ]
        self._constants = {
            index: arg.value for index, arg in enumerate(user) if isinstance(arg, ConstantArgument)
        }
        num_tensors = len(user) - len(self._constants)
        if num_tensors != len(artifact.inputs):
            raise Unsupported(
                f"{artifact.files[0]} takes {num_tensors} tensors, "
                f"the artifact says {len(artifact.inputs)}"
            )
        self._num_leaves = len(user)
        exported = program.module(check_guards=False)
        exported.graph.set_codegen(torch.fx.graph.CodeGen())
        self.module: Any = torch.fx.GraphModule(exported, exported.graph).to(self._device)
        self._last = artifact.options.layout == "channels_last"
        if self._last:
            self._turn()

    def _turn(self) -> None:
        """Weights to channels-last. Raises `Unsupported` where nothing has four axes."""
        import torch

        tensors = [*self.module.parameters(), *self.module.buffers()]
        axes = [len(port.shape) for port in self._artifact.inputs]
        if _IMAGE_AXES not in (*axes, *(tensor.dim() for tensor in tensors)):
            raise Unsupported("channels_last changes nothing here: no input or weight has 4 axes")
        self.module.to(memory_format=torch.channels_last)
        for node in self.module.graph.nodes:
            if node.target is torch.ops.aten.view.default:
                node.target = torch.ops.aten.reshape.default
        self.module.recompile()

    def leaves(self, inputs: list[np.ndarray[Any, Any]]) -> list[Any]:
        """The arguments of one call of `module`."""
        import torch

        arrays = iter(inputs)
        return [
            self._constants[index]
            if index in self._constants
            else self._placed(torch.as_tensor(next(arrays)))
            for index in range(self._num_leaves)
        ]

    def _placed(self, tensor: Any) -> Any:
        import torch

        if self._last and tensor.dim() == _IMAGE_AXES:
            return tensor.to(self._device, memory_format=torch.channels_last)
        return tensor.to(self._device)

    def arrays(self, results: Any) -> list[np.ndarray[Any, Any]]:
        """What `module` gave, as contiguous arrays."""
        import torch

        found = [
            item.cpu().contiguous().numpy() for item in results if isinstance(item, torch.Tensor)
        ]
        if len(found) != len(self._artifact.outputs):
            raise Unsupported(
                f"{self._artifact.files[0]} gives {len(found)} tensors, "
                f"the artifact says {len(self._artifact.outputs)}"
            )
        return found


def use_threads(threads: int) -> None:
    """For this process, once; to be called after imports, since packages change it."""
    import torch

    torch.set_num_interop_threads(1)
    torch.set_num_threads(threads)


def _device(name: str) -> Any:
    import torch

    if name == "cpu" or (name.split(":")[0] == "cuda" and torch.cuda.is_available()):
        return torch.device(name)
    raise Unsupported(f"torch has no device {name!r} here")


def _load(path: Path) -> Any:
    import torch

    texts = check_archive(path)
    for namespace, room in _REGISTERED_BY.items():
        if f"torch.ops.{namespace}.".encode() in texts[GRAPH]:
            importlib.import_module(room)
    with zipfile.ZipFile(path) as archive:
        names = sorted(name.partition("/")[2] for name in archive.namelist())
    reader = torch._C.PyTorchFileReader(str(path))
    if sorted(reader.get_all_records()) != names or any(
        reader.get_record(name) != text for name, text in texts.items()
    ):
        raise Damaged(f"{path} reads differently in torch's zip reader; refused before loading")
    return torch.export.load(path)
