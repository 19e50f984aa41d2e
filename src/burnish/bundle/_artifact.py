"""An artifact: model files in a folder, and a small record that says how to load and feed them.

The record, `artifact.json`, holds everything a process needs that has never seen the model: which
runtime, which file to load, the names, types and dimensions of what goes in and comes out, and the
options it is to be run with. A dynamic dimension is written as its name: two dimensions of one
name have one size in one call. The artifact is a value; `with_options` gives another artifact on
the same files.

Left out: anything about quality or speed (that is measured, and lives in a bundle's manifest), and
any opinion on `tree`, which tells how flat outputs nest in what the user's model returned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from burnish.bundle._record import Json, inside, only, port_name, read_json, take, write_json
from burnish.errors import Damaged, InvalidInput

SCHEMA = 1
RECORD = "artifact.json"
RUNTIMES = ("eager", "inductor", "onnxruntime", "openvino")
EXECUTIONS = ("float32", "bfloat16")
LAYOUTS = ("contiguous", "channels_last")
TAKES_LAYOUT = ("eager", "inductor")  # the others arrange tensors in memory themselves


@dataclass(frozen=True)
class Port:
    """One input or output: its name, numpy dtype name and shape (a string is a dynamic size)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        port_name(self.name, "Port")
        try:
            numbers = np.dtype(self.dtype).kind in "biufc"
        except TypeError:
            numbers = False
        if not numbers:
            raise InvalidInput(
                f"port {self.name!r} has dtype {self.dtype!r}; "
                "use a numpy name of numbers, such as 'float32' or 'int64'"
            )
        for size in self.shape:
            named = isinstance(size, str) and size != ""
            fixed = isinstance(size, int) and not isinstance(size, bool) and size >= 0
            if not (named or fixed):
                raise InvalidInput(
                    f"port {self.name!r} has dimension {size!r}; use a size or a dynamic name"
                )

    def to_json(self) -> dict[str, Json]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, record: Json, where: str) -> Port:
        if not isinstance(record, dict):
            raise Damaged(f"{where}: a port is a {type(record).__name__}, not an object")
        only(record, ("name", "dtype", "shape"), where)
        name, dtype = take(record, "name", str, where), take(record, "dtype", str, where)
        try:
            return cls(name, dtype, tuple(take(record, "shape", list, where)))
        except InvalidInput as error:
            raise Damaged(f"{where}: {error}") from None


@dataclass(frozen=True)
class Options:
    """How an artifact is run.

    `device` is "cpu" or a device the runtime lists ("cuda", "gpu", "npu"); `threads` is a number of
    threads within one operator (None: every core this process may use); `execution` is the number
    format of what the file leaves in float ("bfloat16" is OpenVINO's hint; always set explicitly);
    `layout` is how torch keeps tensors of four axes in memory: as they are written (NCHW), or with
    the channels of one place beside each other ("channels_last", NHWC).
    """

    device: str = "cpu"
    threads: int | None = None
    execution: str = "float32"
    layout: str = "contiguous"

    def __post_init__(self) -> None:
        if not self.device:
            raise InvalidInput("device is empty; use 'cpu' or a device the runtime lists")
        if self.threads is not None and (isinstance(self.threads, bool) or self.threads < 1):
            raise InvalidInput(f"threads is {self.threads!r}; use None or a number from 1 up")
        if self.execution not in EXECUTIONS:
            raise InvalidInput(f"execution is {self.execution!r}; use one of {EXECUTIONS}")
        if self.layout not in LAYOUTS:
            raise InvalidInput(f"layout is {self.layout!r}; use one of {LAYOUTS}")

    @classmethod
    def from_json(cls, record: dict[str, Json], where: str) -> Options:
        record = {"layout": "contiguous", **record}  # older records have none
        only(record, ("device", "threads", "execution", "layout"), where)
        threads = None if record["threads"] is None else take(record, "threads", int, where)
        device, execution, layout = (
            take(record, name, str, where) for name in ("device", "execution", "layout")
        )
        try:
            return cls(device, threads, execution, layout)
        except InvalidInput as error:
            raise Damaged(f"{where}: {error}") from None


@dataclass(frozen=True)
class OpTime:
    """Time of one kernel: its name and kind in the runtime's words, mean seconds per run.

    `members` are the names in the file of the operators it computes, one or several fused. A
    kernel that computes none of them but moves data for one (a change of layout, a copy) has
    those it moves it for in `feeds`.
    """

    name: str
    kind: str
    seconds: float
    members: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """A folder holding `artifact.json` and the model's files; `files[0]` is the one to load."""

    folder: Path
    runtime: str
    precision: str
    files: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    tree: Json = None
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise InvalidInput(f"runtime is {self.runtime!r}; use one of {RUNTIMES}")
        if not self.files or not self.outputs:
            raise InvalidInput("an artifact has at least one file and one output")
        for name in self.files:
            inside(self.folder, name, "the artifact", InvalidInput)
        names = [port.name for port in self.inputs]
        if len(set(names)) != len(names):
            raise InvalidInput(f"two inputs share a name: {names}")
        if self.options.layout != "contiguous" and self.runtime not in TAKES_LAYOUT:
            raise InvalidInput(
                f"{self.runtime} arranges tensors in memory itself; layout {self.options.layout!r} "
                f"is for {' and '.join(TAKES_LAYOUT)}"
            )

    def with_options(self, **changes: Any) -> Artifact:
        """The same files, run otherwise: `with_options(threads=1)`."""
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **changes))

    def size_bytes(self) -> int:
        """Bytes of the model's files together. Raises `Damaged` naming one that is missing."""
        try:
            return sum((self.folder / name).stat().st_size for name in self.files)
        except FileNotFoundError as error:
            raise Damaged(f"{error.filename}, a file of this artifact, is missing") from None

    def to_json(self) -> dict[str, Json]:
        return {
            "runtime": self.runtime,
            "precision": self.precision,
            "files": list(self.files),
            "inputs": [port.to_json() for port in self.inputs],
            "outputs": [port.to_json() for port in self.outputs],
            "tree": self.tree,
            "options": dataclasses.asdict(self.options),
        }

    @classmethod
    def from_json(cls, folder: Path, record: dict[str, Json], where: str) -> Artifact:
        """Read strictly. Raises `Damaged` naming `where` and what is wrong."""
        keys = tuple(item.name for item in dataclasses.fields(cls) if item.name != "folder")
        only(record, keys, where)
        files = take(record, "files", list, where)
        for name in files:
            if not isinstance(name, str):
                raise Damaged(f"{where}: a file name is a {type(name).__name__}")
            if not inside(folder, name, where).is_file():
                raise Damaged(f"{where} names {name!r}, which is missing in {folder}")
        ports = {
            side: tuple(
                Port.from_json(port, f"{where}, {side}") for port in take(record, side, list, where)
            )
            for side in ("inputs", "outputs")
        }
        try:
            return cls(
                folder=folder,
                runtime=take(record, "runtime", str, where),
                precision=take(record, "precision", str, where),
                files=tuple(files),
                inputs=ports["inputs"],
                outputs=ports["outputs"],
                tree=record["tree"],
                options=Options.from_json(take(record, "options", dict, where), where),
            )
        except InvalidInput as error:
            raise Damaged(f"{where}: {error}") from None

    def save(self) -> None:
        """Write `artifact.json` into the folder, whole or not at all."""
        write_json(self.folder / RECORD, {"schema": SCHEMA, **self.to_json()})

    @classmethod
    def open(cls, folder: Path) -> Artifact:
        """Read `folder/artifact.json`. Raises `Damaged` naming what is wrong with it."""
        path = Path(folder) / RECORD
        record = read_json(path)
        schema = take(record, "schema", int, str(path))
        if schema != SCHEMA:
            raise Damaged(f"{path} has schema {schema}; this version reads schema {SCHEMA}")
        rest = {key: value for key, value in record.items() if key != "schema"}
        return cls.from_json(Path(folder), rest, str(path))


def check_inputs(
    ports: Sequence[Port], inputs: Mapping[str, np.ndarray[Any, Any]]
) -> list[np.ndarray[Any, Any]]:
    """The arrays in the ports' order, contiguous.

    Raises `InvalidInput` naming the port, what it takes and what it got: a missing or unknown name,
    another dtype, another number of dimensions, another fixed size, or one dynamic name with two
    sizes.
    """
    names = [port.name for port in ports]
    if set(names) != set(inputs):
        raise InvalidInput(f"the artifact takes the inputs {names}; got {sorted(inputs)}")
    sizes: dict[str, tuple[int, str]] = {}
    arrays = []
    for port in ports:
        array = inputs[port.name]
        if not isinstance(array, np.ndarray):
            raise InvalidInput(
                f"input {port.name!r} is a {type(array).__name__}; pass a numpy array"
            )
        wanted = f"input {port.name!r} takes {port.dtype} {list(port.shape)}"
        got = f"got {array.dtype.name} {list(array.shape)}"
        fits = array.dtype == np.dtype(port.dtype) and array.ndim == len(port.shape)
        if not fits or any(
            isinstance(size, int) and size != found
            for size, found in zip(port.shape, array.shape, strict=True)
        ):
            raise InvalidInput(f"{wanted}; {got}")
        for size, found in zip(port.shape, array.shape, strict=True):
            if isinstance(size, str):
                first, owner = sizes.setdefault(size, (found, port.name))
                if first != found:
                    raise InvalidInput(
                        f"{wanted}; {got}, but {size!r} is {first} in input {owner!r}"
                    )
        arrays.append(np.ascontiguousarray(array).reshape(array.shape))
    return arrays
