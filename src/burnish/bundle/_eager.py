"""PyTorch programs, run as torch runs them: the baseline everything else is compared with.

The file is a `.pt2`, a zip that `torch.export` writes and reads. `save_program` writes it without
example inputs, guard code and metadata, the same bytes for the same program. Loading accepts only
what is listed in `_archive.py`: raw weights and constants, a graph of known operators, no pickle
anywhere. That list is checked with Python's zip reader and torch has one of its own, so before
torch interprets anything the two must agree on names and on the bytes of every table.

Operators called `burnish::` are registered by the room that owns them; it is imported here by name,
in the worker, when an archive uses them, because this room must load without torch.

Runs are under `torch.inference_mode`, with the artifact's threads (set after every import: packages
change them). Times per operator are those of the graph's nodes, run one by one.
"""

from __future__ import annotations

import copy
import importlib
import io
import json
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from burnish.bundle._archive import GRAPH, check_archive
from burnish.bundle._artifact import Artifact, OpTime
from burnish.bundle._record import Json
from burnish.errors import Damaged, Unsupported
from burnish.files import replacing

_WARMUP = 2
_EPOCH = (1980, 1, 1, 0, 0, 0)
_REGISTERED_BY = {"burnish": "burnish.graph"}


def save_program(program: Any, path: Path) -> None:
    """Write a `torch.export.ExportedProgram` to `path` (a `.pt2`), whole or not at all.

    The program is left as it is; example inputs, guards and metadata are not in the file.

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
            raise Unsupported(
                f"this program cannot be stored for the eager runtime: {error}"
            ) from None


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


class EagerSession:
    """See `Session`. Inputs are the program's flat user inputs in order."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        import torch
        from torch.export.graph_signature import ConstantArgument

        self._torch = torch
        torch.set_num_interop_threads(1)
        self._artifact = artifact
        self._device = _device(artifact.options.device)
        program = _load_program(artifact.folder / artifact.files[0])
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
        self._spec = program.call_spec.in_spec
        self._module = program.module().to(self._device)
        torch.set_num_threads(threads)

    def _leaves(self, inputs: list[np.ndarray[Any, Any]]) -> list[Any]:
        arrays = iter(inputs)
        return [
            self._constants[index]
            if index in self._constants
            else self._torch.as_tensor(next(arrays)).to(self._device)
            for index in range(self._num_leaves)
        ]

    def run(self, inputs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        torch = self._torch
        with torch.inference_mode():
            args, kwargs = torch.utils._pytree.tree_unflatten(self._leaves(inputs), self._spec)
            results = torch.utils._pytree.tree_leaves(self._module(*args, **kwargs))
            arrays = [item.cpu().numpy() for item in results if isinstance(item, torch.Tensor)]
        if len(arrays) != len(self._artifact.outputs):
            raise Unsupported(
                f"{self._artifact.files[0]} gives {len(arrays)} tensors, "
                f"the artifact says {len(self._artifact.outputs)}"
            )
        return arrays

    def op_times(
        self, inputs: list[np.ndarray[Any, Any]], repeats: int, alive: Callable[[], None]
    ) -> list[OpTime]:
        torch = self._torch
        seconds: dict[tuple[str, str], float] = defaultdict(float)

        class Timed(torch.fx.Interpreter):  # type: ignore[name-defined,misc]
            def run_node(self, node: Any) -> Any:
                start = time.perf_counter()
                result = super().run_node(node)
                if node.op in ("call_function", "call_module"):
                    seconds[node.name, str(node.target)] += time.perf_counter() - start
                return result

        with torch.inference_mode():
            leaves = self._leaves(inputs)
            for turn in range(_WARMUP + repeats):
                if turn == _WARMUP:
                    seconds.clear()
                Timed(self._module).run(*leaves, enable_io_processing=False)
                alive()
        return [OpTime(name, kind, total / repeats) for (name, kind), total in seconds.items()]


def _device(name: str) -> Any:
    import torch

    if name == "cpu" or (name.split(":")[0] == "cuda" and torch.cuda.is_available()):
        return torch.device(name)
    raise Unsupported(f"torch has no device {name!r} here")


def _load_program(path: Path) -> Any:
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


def load(artifact: Artifact, threads: int) -> EagerSession:
    """Load `artifact`. Raises `Damaged` for an archive that is not safe, `Unsupported` for a
    device or execution torch does not have here."""
    if artifact.options.execution != "float32":
        raise Unsupported(f"eager has no {artifact.options.execution} execution; use 'float32'")
    return EagerSession(artifact, threads)
