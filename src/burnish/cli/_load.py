"""`FILE.py:FUNCTION` to the model and the goal it returns.

The file is run as Python runs a script (its folder first on the path), under a name of its own, so
that `json.py` of a user does not take the place of the library's. Whatever goes wrong in it is the
file's business and is told as such: the exception, and the line of that file it came from.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from burnish.errors import InvalidInput

if TYPE_CHECKING:
    from burnish.goal import Goal

USAGE = "say FILE.py:FUNCTION, where FUNCTION() returns (model, goal)"


def load(source: str) -> tuple[Any, Goal]:
    """The model and the goal that the function named by `source` returns.

    Raises:
        InvalidInput: no such file or function, an exception in it, or another thing returned.
    """
    return _checked(*_called(source))


def load_example(source: str) -> tuple[Any, Any]:
    """The model and what says how it is called: a goal, a task, inputs, or example tensors.

    Raises like `load`.
    """
    returned, where = _called(source)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise InvalidInput(
            f"{where} returned a {type(returned).__name__}; it must return a tuple (model, how to "
            "call it): burnish.Inputs(x), a task or a goal"
        )
    return returned


def _called(source: str) -> tuple[Any, str]:
    """What the named function returns, and what to call it."""
    path, name = split(source)
    with _blamed_on(path, "loading it"):
        module = _import(path)
    function = _function(module, name, path)
    with _blamed_on(path, f"{name}()"):
        returned = function()
    return returned, f"{path}:{name}()"


def split(source: str) -> tuple[Path, str]:
    """The file and the function's name."""
    file, colon, name = source.rpartition(":")
    if not colon or not name.isidentifier() or not file:
        raise InvalidInput(f"{source!r} does not name a function: {USAGE}")
    path = Path(file)
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}: {USAGE}")
    if path.suffix != ".py":
        raise InvalidInput(f"{path} is not a .py file: {USAGE}")
    return path.resolve(), name


def _import(path: Path) -> ModuleType:
    module_name = f"_burnish_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def _function(module: ModuleType, name: str, path: Path) -> Callable[[], Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]  # what a user's file holds has no type
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    raise InvalidInput(
        f"{path} has no function {name!r}; it has: {', '.join(own) or 'none of its own'}"
    )


def _checked(returned: Any, where: str) -> tuple[Any, Goal]:
    from burnish.goal import Goal, Task

    if not isinstance(returned, tuple) or len(returned) != 2:
        kind = type(returned).__name__
        raise InvalidInput(f"{where} returned a {kind}; it must return a tuple (model, goal)")
    model, goal = returned
    if isinstance(goal, Task):
        goal = Goal(goal)
    if not isinstance(goal, Goal):
        raise InvalidInput(
            f"{where} returned ({type(model).__name__}, {type(goal).__name__}); the second must "
            "be a burnish.Goal (or a burnish.Task, for the default target and budget)"
        )
    return model, goal


@contextmanager
def _blamed_on(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except SystemExit as error:
        raise InvalidInput(
            f"{path} ends the program ({doing}, exit {error.code}): "
            "put what it does as a script under `if __name__ == '__main__':`"
        ) from error
    except Exception as error:
        told = str(error) or "no message"
        raise InvalidInput(
            f"{path}, line {_line(error, path)} ({doing}): {type(error).__name__}: {told}"
        ) from error


def _line(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return str(error.lineno)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [str(frame.lineno) for frame in frames if frame.filename == str(path)]
    return lines[-1] if lines else "unknown"
