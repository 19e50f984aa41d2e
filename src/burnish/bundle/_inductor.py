"""PyTorch programs compiled by inductor: torch.compile, frozen, on the processor they run on.

The archive is the very one eager runs, loaded as safely; what is compiled ships as that program and
is compiled again where it is loaded. *Frozen* means that weights are constants: batch-norms fold,
convolutions and matrix products get weights packed for oneDNN, and what can be computed ahead is.
Inductor lays convolutions out channels-last by itself; `layout` decides about the inputs alone.

Compiling takes from seconds to minutes. It happens when sizes are met for the first time
(`prepare`), never within a timing. The first sizes are compiled for as they are; when others
follow, torch compiles once more with the sizes that differ left open, and once for a size of 1.

Kernels are kept by the hash of their source in `inductor` in the cache folder (BURNISH_CACHE): the
C++ compiler is not called twice for one. What a killed process left unfinished there is removed by
the next. Torch's caches of whole graphs are off: they are pickles.

Left out: autotuning (max-autotune), which would time kernels while another artifact is timed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from burnish.bundle._artifact import Artifact, OpTime
from burnish.bundle._inductor_kernels import Counted
from burnish.bundle._program import Program, use_threads
from burnish.errors import BurnishError, MissingExtra, Unsupported
from burnish.files import cache_folder

_RECOMPILES = 64
_EVERY = 0.5  # seconds between signs of life
_PATIENCE = 900.0  # seconds that compiling may take before it counts as silence
_LINES = 12  # of a compiler's complaint
_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_BUSY = "compiling-"
Sizes = tuple[tuple[int, ...], ...]


class InductorSession:
    """See `Preparing`. Inputs are the program's flat user inputs in order."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        import torch

        self._torch = torch
        self._program = Program(artifact)
        use_threads(threads)
        # Not as options of torch.compile: tracing, which turns weights into constants, has none.
        torch._inductor.config.freezing = True
        torch._inductor.config.fx_graph_cache = False
        torch._functorch.config.enable_autograd_cache = False
        torch._dynamo.config.automatic_dynamic_local_pgo = False
        torch._dynamo.config.recompile_limit = _RECOMPILES
        torch._inductor.config.compile_threads = threads
        self._compiled: Any = torch.compile(self._program.module, fullgraph=True)
        self._met: set[Sizes] = set()
        self._counted: dict[Sizes, Counted] = {}
        self._alive: Callable[[], None] = lambda: None

    def prepare(self, inputs: list[np.ndarray[Any, Any]], alive: Callable[[], None]) -> None:
        """Compile for the sizes of `inputs`.

        Raises `Unsupported` with the compiler's first words, `MissingExtra` for want of one.
        """
        self._alive = alive
        sizes = tuple(array.shape for array in inputs)
        if sizes in self._met:
            return
        with called_while_busy(alive), compiling():
            self.run(inputs)
        self._met.add(sizes)

    def run(self, inputs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        with self._torch.inference_mode():
            return self._program.arrays(self._compiled(*self._program.leaves(inputs)))

    @contextlib.contextmanager
    def counting(self, inputs: list[np.ndarray[Any, Any]]) -> Iterator[InductorCounter]:
        """Compiles once more, quickly: the kernels are there."""
        sizes = tuple(array.shape for array in inputs)
        with self._torch.inference_mode():
            leaves = self._program.leaves(inputs)
            if sizes not in self._counted:
                with called_while_busy(self._alive), compiling():
                    self._counted[sizes] = Counted(self._program, leaves)
        yield InductorCounter(self._program, self._counted[sizes], inputs)


class InductorCounter:
    """See `Counter`."""

    def __init__(
        self, program: Program, counted: Counted, inputs: list[np.ndarray[Any, Any]]
    ) -> None:
        self._program = program
        self._counted = counted
        self._inputs = inputs
        self._runs: list[list[float]] = []

    def run(self, *, counted: bool) -> None:
        import torch

        with torch.inference_mode():
            results, seconds = self._counted.run(self._program.leaves(self._inputs))
            self._program.arrays(results)
        if counted:
            self._runs.append(seconds)

    def times(self) -> list[OpTime]:
        return self._counted.times(self._runs)


@contextlib.contextmanager
def called_while_busy(alive: Callable[[], None]) -> Iterator[None]:
    """Call `alive` from a thread while the block is busy: a compiler does not call back."""
    done = threading.Event()

    def tell() -> None:
        for _ in range(int(_PATIENCE / _EVERY)):
            if done.wait(_EVERY):
                return
            alive()

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """What goes wrong while torch compiles, in few words; and a marker for as long as it lasts."""
    marker = Path(os.environ[_CACHE]) / f"{_BUSY}{os.getpid()}"
    marker.touch()
    try:
        yield
    except BurnishError:
        raise
    except Exception as error:
        cause = getattr(error, "inner_exception", error)
        if type(cause).__name__ == "InvalidCxxCompiler":
            raise MissingExtra(f"inductor found no C++ compiler: {_INSTALL}") from None
        said = [line for line in str(cause).splitlines() if line.strip()]
        wrong = [line for line in said if "error" in line.lower()]
        told = "\n  ".join((wrong or said)[:_LINES])
        raise Unsupported(
            f"inductor could not compile it: {type(cause).__name__}: {told}"
        ) from None
    finally:
        marker.unlink(missing_ok=True)


_INSTALL = (
    "install Xcode's command line tools: xcode-select --install"
    if sys.platform == "darwin"
    else "install Visual Studio's build tools and call from their prompt"
    if sys.platform == "win32"
    else "install one: apt install g++"
)


def without_compiler() -> str | None:
    """What inductor lacks here to compile, with the line that installs it; None for nothing.

    It calls what CXX names, by default g++ (clang++ on a Mac, cl on Windows), and its kernels
    include Python's headers.
    """
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", usual)
    if shutil.which(compiler) is None:
        return f"inductor compiles C++ and there is no {compiler!r} here; {_INSTALL}"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return (
            f"inductor's kernels include {header}, which is missing; install Python's headers: "
            "apt install python3-dev"
        )
    return None


def _writable_cache() -> None:
    """Have torch keep kernels in our cache folder. Raises `Unsupported` where it cannot."""
    folder = cache_folder() / "inductor"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
        drop_unfinished(folder)
    except OSError as error:
        raise Unsupported(
            f"inductor compiles into {folder}, which cannot be written ({error}): set "
            "BURNISH_CACHE to a folder that can"
        ) from None
    # A parent that used torch hands down a folder of torch's own choice, which others can foresee.
    os.environ[_CACHE] = str(folder)
    os.environ.setdefault("TORCH_WARM_POOL", "0")  # processes for kernels of GPUs


def drop_unfinished(folder: Path) -> None:
    """Remove what was being compiled when a process was killed: torch takes any file for whole.

    Half a kernel cannot be loaded; half a probe of the instruction set is worse: torch then takes
    the instructions for absent, and says nothing.
    """
    for marker in folder.glob(f"{_BUSY}*"):
        if _runs(int(marker.name.removeprefix(_BUSY))):
            continue
        with contextlib.suppress(FileNotFoundError):  # another process may do the same
            began = marker.stat().st_mtime
            for path in folder.rglob("*.so"):
                if path.stat().st_mtime >= began:
                    path.unlink()
            marker.unlink()


def _runs(pid: int) -> bool:
    if os.name != "posix" or pid == os.getpid():
        return os.name != "posix"  # elsewhere a signal of 0 would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def load(artifact: Artifact, threads: int) -> InductorSession:
    """Load `artifact`. Raises `Damaged` for an archive that is not safe, `MissingExtra` without a
    C++ compiler, `Unsupported` for a device, layout or execution that torch does not have here, or
    a cache folder that cannot be written."""
    if artifact.options.execution != "float32":
        raise Unsupported(
            f"inductor has no {artifact.options.execution} execution: what it computes in is in "
            "the file; use 'float32'"
        )
    lacking = without_compiler()
    if lacking is not None:
        raise MissingExtra(lacking)
    _writable_cache()
    return InductorSession(artifact, threads)
