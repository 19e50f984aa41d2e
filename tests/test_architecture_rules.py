"""The architecture test's own checks, each tried on sources that break it and some that do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from tests.architecture import edges, shape
from tests.architecture.source import Source, Violation, read_files, read_package

TABLE = {
    "errors": frozenset[str](),
    "low": frozenset({"errors"}),
    "high": frozenset({"errors", "low"}),
    "cli": frozenset({"errors", "low", "high"}),
}
DOORS = {
    "errors/__init__.py": '__all__ = ["Bad"]\nclass Bad(Exception): ...',
    "low/__init__.py": 'from burnish.low._one import one\n__all__ = ["one"]',
    "low/_one.py": "def one(): ...",
    "high/__init__.py": "__all__ = []",
}


def tree(root: Path, files: Mapping[str, str]) -> tuple[Source, ...]:
    """A package of `files` (below src/burnish) over the doors above, parsed."""
    for name, text in {**DOORS, **files}.items():
        file = root / "src" / "burnish" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
    return read_package(root)


def lines(violations: Iterable[Violation]) -> list[str]:
    return [str(violation) for violation in violations]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("low/_bad.py", "from burnish.high import x", "'low' may not import 'high'"),
        ("low/_bad.py", "import burnish.high", "'low' may not import 'high'"),
        ("low/_bad.py", "from burnish import high", "'low' may not import 'high'"),
        ("low/_bad.py", "from .. import high", "'low' may not import 'high'"),
        ("low/_bad.py", "from ..high import x", "'low' may not import 'high'"),
        ("low/_bad.py", "def f():\n    from burnish.high import x", "_bad.py:2: 'low' may not"),
        (
            "low/_bad.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import burnish.high",
            "_bad.py:3: 'low' may not import 'high'",
        ),
        (
            "low/_bad.py",
            "import importlib\nimportlib.import_module('burnish.high')",
            "_bad.py:2: 'low' may not import 'high'",
        ),
        ("low/_bad.py", "ROOM = 'burnish.high'\nimport_module(ROOM)", "_bad.py:1: 'low' may not"),
        ("high/_bad.py", "run([python, '-m', 'burnish.low._one'])", "past its door"),
        ("low/_bad.py", "import_module(f'burnish.{x}')", "computed name"),
        ("errors/_bad.py", "import burnish.low", "it may import nothing"),
        ("high/_bad.py", "from burnish.low._one import one", "past its door"),
        ("high/_bad.py", "import burnish.low._one", "past its door"),
        ("high/_bad.py", "from burnish.low import _one", "past its door"),
        ("high/_bad.py", "from burnish.low import two", "'two' is not in the __all__ of 'low'"),
        ("high/_bad.py", "from burnish import Task", "'Task' from the front door"),
        ("high/_bad.py", "import burnish", "'burnish' from the front door"),
        ("high/_bad.py", "import burnish.atlantis", "which is no room"),
        ("stray/__init__.py", "", "room 'stray' is not in the table"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, text: str, said: str) -> None:
    found = lines(edges.forbidden_imports(tree(tmp_path, {file: text}), TABLE))
    assert len(found) == 1
    assert said in found[0]
    assert found[0].startswith(f"src/burnish/{file}:")


def test_allowed_imports_pass(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from burnish.high import x_of_high as y\nimport_module(f'burnish.{x}')",
        "high/__init__.py": '__all__ = ["x_of_high"]\nfrom burnish.high._good import x_of_high',
        "high/_good.py": """
            import numpy
            from burnish import __version__, errors, low
            from burnish.errors import Bad
            from burnish.low import one
            from burnish.high import _other
            from . import _other
            import_module(name)
            log = getLogger("burnish.atlantis")
            x_of_high = 1
            """,
        "high/_other.py": "import burnish.errors",
    }
    assert lines(edges.forbidden_imports(tree(tmp_path, files), TABLE)) == []


def test_a_circle_of_rooms_is_found(tmp_path: Path) -> None:
    files = {"low/_a.py": "def f():\n    import burnish.high", "high/_b.py": "import burnish.low"}
    found = lines(edges.knots(tree(tmp_path, files)))
    assert any("low -> high -> low" in line or "high -> low -> high" in line for line in found)


def test_a_circle_of_files_in_one_room_is_found(tmp_path: Path) -> None:
    files = {
        "low/_a.py": "from burnish.low._b import b",
        "low/_b.py": "from . import _c",
        "low/_c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ._a import a",
    }
    (found,) = lines(edges.knots(tree(tmp_path, files)))
    assert "circle" in found
    for name in ("burnish.low._a", "burnish.low._b", "burnish.low._c"):
        assert name in found


def test_a_circle_of_folders_in_one_room_is_found(tmp_path: Path) -> None:
    files = {
        "low/_one/__init__.py": "",
        "low/_two/__init__.py": "",
        "low/_one/a.py": "from burnish.low._two.b import b",
        "low/_two/b.py": "",
        "low/_two/c.py": "from burnish.low._one.d import d",
        "low/_one/d.py": "",
    }
    (found,) = lines(edges.knots(tree(tmp_path, files)))
    assert "burnish.low._one" in found
    assert "burnish.low._two" in found
    del files["low/_two/c.py"]
    assert lines(edges.knots(tree(tmp_path / "mended", files))) == []


def test_a_private_file_that_asks_its_own_door_is_a_circle(tmp_path: Path) -> None:
    files = {"low/_one.py": "from burnish.low import one"}
    assert len(lines(edges.knots(tree(tmp_path, files)))) == 1


def test_imports_in_one_direction_are_no_circle(tmp_path: Path) -> None:
    files = {"high/_b.py": "import burnish.low", "low/_a.py": "from burnish import __version__"}
    assert lines(edges.knots(tree(tmp_path, files))) == []


def test_an_early_import_of_torch_is_found(tmp_path: Path) -> None:
    files = {
        "errors/_a.py": "def f():\n    from torch import nn",
        "low/_one.py": "import torch.nn\ndef f():\n    import torch",
        "low/_b.py": "import torch\nfrom burnish.low._one import one",
        "low/_c.py": "def load():\n    from burnish.low import _b",
        "low/__init__.py": "if TYPE_CHECKING:\n    import torch\nimport burnish.low._one",
        "high/_a.py": "import torch",
    }
    found = lines(edges.early_imports(tree(tmp_path, files), "torch", ["errors"], ["low"]))
    assert [line.partition(";")[0] for line in found] == [
        "src/burnish/errors/_a.py:2: 'errors' must work where torch is not installed",
        "src/burnish/low/_one.py:1: 'low' must not load torch when it is imported",
    ]


def test_sizes_are_counted_to_the_line(tmp_path: Path) -> None:
    body = "\n".join(["def f():", '    """Doc."""', "    async def g(): ...", "    return 1"])
    source = tree(tmp_path, {"low/_a.py": f'"""Doc."""\n{body}\n'})
    assert lines(shape.long_files(source, 5)) == []
    assert "_a.py:5: 5 lines" in lines(shape.long_files(source, 4))[0]
    assert lines(shape.long_functions(source, 4)) == []
    assert "_a.py:2: f() has 4 lines" in lines(shape.long_functions(source, 3))[0]


def test_a_file_without_a_docstring_is_found(tmp_path: Path) -> None:
    files = {"low/_a.py": "x = 1", "low/_b.py": '"""Doc."""\nx = 1', "low/_empty.py": ""}
    found = [v.path for v in shape.missing_docstrings(tree(tmp_path, files))]
    assert "src/burnish/low/_a.py" in found
    assert not {"src/burnish/low/_b.py", "src/burnish/low/_empty.py"} & set(found)


@pytest.mark.parametrize("name", ["low/_utils.py", "low/helpers/_a.py", "common/__init__.py"])
def test_an_attic_is_found(tmp_path: Path, name: str) -> None:
    (found,) = shape.attics(tree(tmp_path, {name: "", "low/_commonality.py": ""}))
    assert found.path == f"src/burnish/{name}"


@pytest.mark.parametrize(
    "text",
    [
        "def f(x=[]): ...",
        "def f(*, x={}): ...",
        "async def f(x=set()): ...",
        "f = lambda x=[1]: x",
        "def f(x=collections.defaultdict(int)): ...",
        "class A:\n    x: list[int] = []",
        "def f(x=[i for i in y]): ...",
    ],
)
def test_a_mutable_default_is_found(tmp_path: Path, text: str) -> None:
    (found,) = lines(shape.mutable_defaults(tree(tmp_path, {"low/_a.py": text})))
    assert "mutable default" in found


def test_other_defaults_pass(tmp_path: Path) -> None:
    text = """
        def f(x=None, *, y=(), z=frozenset(), w="[]"): ...
        class A:
            x: list[int] = field(default_factory=list)
            table: ClassVar[dict[str, int]] = {}
        """
    assert lines(shape.mutable_defaults(tree(tmp_path, {"low/_a.py": text}))) == []


def test_settings_of_steps_are_counted(tmp_path: Path) -> None:
    text = """
        class Base:
            a: int
            b: int = 0
        class Fields(Base):
            c: int
            table: ClassVar[int] = 1
            known: int = field(init=False, default=0)
            def apply(self, candidate, goal): ...
        class Arguments:
            def __init__(self, a, b, *, c): ...
            def rewrite(self, model, choices): ...
        class NoStep:
            a: int
            b: int
            c: int
        """
    source = tree(tmp_path, {"low/_a.py": text})
    assert lines(shape.many_settings(source, 3)) == []
    found = lines(shape.many_settings(source, 2))
    assert len(found) == 2
    assert "step Fields has 3 settings" in found[0]
    assert "step Arguments has 3 settings" in found[1]


def test_depth_is_counted_over_rooms_and_not_beyond_the_package(tmp_path: Path) -> None:
    files = {
        "low/__init__.py": 'from burnish.low._one import One\n__all__ = ["One"]',
        "low/_one.py": "class One(abc.ABC, Generic[T]): ...\nclass Two(One[int]): ...",
        "high/_a.py": "from burnish import low\nfrom burnish.low import One\n"
        "class Two(One): ...\nclass Three(Two): ...",
    }
    source = tree(tmp_path, files)
    assert lines(shape.deep_inheritance(source, 3)) == []
    (found,) = lines(shape.deep_inheritance(source, 2))
    assert "high/_a.py:4: Three < Two < One is 3 deep" in found


def test_doors_are_checked(tmp_path: Path) -> None:
    files = {
        "errors/__init__.py": "class Bad(Exception): ...",
        "low/__init__.py": '__all__ = ["b", "a", "B"]',
        "high/__init__.py": '__all__ = ["TOP", "Apple", "pear", "top1", "top5", "top10"]',
        "cli/_main.py": "",
    }
    source = tree(tmp_path, files)
    found = lines(shape.doors(source, 2, {"high": 6, "low": 3}))
    assert [line.split(": ", 1)[1] for line in found] == [
        "room 'cli' has no door; write it, with an __all__",
        "the door has no __all__ written out; list the names",
        "__all__ is not in order; write B, a, b",
    ]
    found = lines(shape.doors(source, 2, {"low": 3}))
    assert any("6 public names, and 'high' has at most 2" in line for line in found)


def test_files_outside_the_package_belong_to_no_room(tmp_path: Path) -> None:
    outside = tmp_path / "tests" / "low" / "test_x.py"
    outside.parent.mkdir(parents=True)
    outside.write_text("from burnish.high import anything\n")
    (source,) = read_files(tmp_path, [outside])
    assert (source.path, source.module, source.room) == ("tests/low/test_x.py", "", "")
