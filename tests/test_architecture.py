"""The design's table of rooms as data, and the numbers every file is held to.

A limit is raised here and nowhere else: in a commit of its own, with the reason beside the number
and a file in docs/decisions. The checks themselves are in tests/architecture, and are tried on bad
sources in tests/test_architecture_rules.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.architecture import edges, shape
from tests.architecture.source import Source, Violation, read_files, read_package

ROOT = Path(__file__).resolve().parent.parent

# room: the rooms it may import. Every row but the first has `errors` too; "*" is every room above.
ROWS = {
    "errors": "",
    "files": "",
    "metrics": "",
    "goal": "metrics",
    "core": "goal metrics",
    "graph": "",
    "hardware": "",
    "bundle": "",
    "runtimes": "core goal graph bundle",
    "bench": "core goal metrics hardware runtimes",
    "train": "core goal metrics graph",
    "quantize": "core goal graph",
    "prune": "core goal graph",
    "distill": "core goal graph train",
    "search": "core goal graph train",
    "profile": "core goal graph hardware runtimes bench",
    "recipe": "core goal metrics bench",
    "report": "core",
    "auto": "*",
    "demo": "auto train",
    "testing": "core goal runtimes search",
    "cli": "* demo testing",
}

# Where practice went past the design's table: (room, the room it imports besides): why.
AMENDED = {
    ("bench", "bundle"): "races the very workers that ship; they live with the artifact",
    ("bundle", "files"): "manifests and programs are written whole or not at all",
    ("bench", "files"): "a sweep is written whole or not at all",
    ("profile", "files"): "and so are profiles, probes and latency tables",
    ("profile", "quantize"): "a preflight races the model in int8; an imitation misjudged it",
    ("recipe", "files"): "so are histories and run records",
    ("report", "files"): "and pages",
    ("train", "files"): "and checkpoints",
    ("distill", "files"): "and cached outputs",
    ("bundle", "graph"): "a worker whose program uses our operators registers them (eager only)",
    ("demo", "goal"): "a task cannot be stated without Task and Budget",
    ("demo", "metrics"): "nor without its metric",
    ("testing", "graph"): "a runtime's contract compares artifacts with traced graphs",
    ("testing", "metrics"): "a tiny model's task needs a metric",
}

TECHNIQUES = ("quantize", "prune", "distill", "search")

FILE_LINES = 400
FUNCTION_LINES = 60
STEP_SETTINGS = 7
INHERITANCE = 2
PUBLIC_NAMES = 6

# room: (its limit of public names, why).
MORE_NAMES = {
    "errors": (10, "one class for each thing a caller may want to catch"),
    "goal": (8, "a batch taken apart is what objectives are handed; what tells samples apart"),
    "runtimes": (9, "export and load by name, the artifact, and where a run's time goes"),
    "bundle": (12, "an artifact's parts, its worker, the proof: what rooms build on without torch"),
    "core": (11, "Applied is what a history is made of; hashes and settings are its identity"),
    "graph": (48, "the toolbox of the technique rooms: trace, name, edit; their coupled channels"),
    "metrics": (8, "three metrics to start from, beside Metric, scores and the two verdicts"),
    "bench": (10, "a race, a sweep, their parts, and the measurements made of them"),
    "profile": (17, "five questions to a model or machine, and the values they are answered with"),
    "train": (22, "the loop's settings, record and objective, the step, two repairs by formula"),
    "distill": (48, "a value and a loss for each signal; teachers, students, taps"),
    "prune": (
        24,
        "ways to prune: a step, a function, a table each; masks' end; a penalty; a target's cost",
    ),
    "auto": (14, "three searches with their results: optimize, recover, mix; two steps of rooms"),
    "quantize": (42, "nine steps and their functions, tensors, observers, ways to look"),
}

# Torch may be missing, or costs a second: these never import it, those only inside a function.
NEVER_TORCH = ("errors", "files", "report", "cli", "")
LATE_TORCH = ("bundle", "hardware")  # hardware: which GPUs torch sees, where it is installed


def table() -> dict[str, frozenset[str]]:
    """The rows written out, amendments included."""
    names = list(ROWS)
    full = {}
    for room, row in ROWS.items():
        above = names[: names.index(room)] if "*" in row.split() else []
        extra = [other for (one, other) in AMENDED if one == room]
        allowed = {"errors", *above, *row.split(), *extra} - {"*", room}
        full[room] = frozenset(allowed)
    return full


@pytest.fixture(scope="module")
def package() -> tuple[Source, ...]:
    return read_package(ROOT)


@pytest.fixture(scope="module")
def everything(package: tuple[Source, ...]) -> tuple[Source, ...]:
    """The package and what stands beside it: tests, examples, benchmarks."""
    beside = [
        file for name in ("tests", "examples", "benchmarks") for file in (ROOT / name).rglob("*.py")
    ]
    return package + read_files(ROOT, beside)


def _none(violations: Iterable[Violation]) -> None:
    found = [str(violation) for violation in violations]
    assert not found, "\n" + "\n".join(found)


def test_the_package_was_read(package: tuple[Source, ...], everything: tuple[Source, ...]) -> None:
    assert {"errors", "goal", "core"} <= {source.room for source in package}
    assert "tests/test_architecture.py" in {source.path for source in everything}


def test_the_table_has_no_circle_and_techniques_stay_apart() -> None:
    full = table()
    order = list(full)
    for room, allowed in full.items():
        if room == "cli":
            continue
        below = [other for other in allowed if order.index(other) > order.index(room)]
        assert not below, f"'{room}' stands above {below}: imports would go both ways"
    for one in TECHNIQUES:
        assert not full[one] & set(TECHNIQUES), f"technique '{one}' may import another"


def test_every_amendment_is_used(package: tuple[Source, ...]) -> None:
    """An edge that nobody needs any more leaves the table again."""
    there = {source.room for source in package}
    without = {key: table()[key[0]] - {key[1]} for key in AMENDED if set(key) <= there}
    for (room, other), allowed in without.items():
        narrower = {**table(), room: allowed}
        mine = [source for source in package if source.room == room or source.is_door]
        assert list(edges.forbidden_imports(mine, narrower)), f"{room} -> {other} is not used"


def test_imports_follow_the_table(package: tuple[Source, ...]) -> None:
    _none(edges.forbidden_imports(package, table()))


def test_no_import_goes_round_in_a_circle(package: tuple[Source, ...]) -> None:
    _none(edges.knots(package))


def test_torch_is_not_imported_where_it_may_be_missing(package: tuple[Source, ...]) -> None:
    _none(edges.early_imports(package, "torch", NEVER_TORCH, LATE_TORCH))


def test_files_are_short(everything: tuple[Source, ...]) -> None:
    _none(shape.long_files(everything, FILE_LINES))


def test_functions_are_short(everything: tuple[Source, ...]) -> None:
    _none(shape.long_functions(everything, FUNCTION_LINES))


def test_files_say_what_they_are_about(everything: tuple[Source, ...]) -> None:
    _none(shape.missing_docstrings(everything))


def test_no_file_is_an_attic(everything: tuple[Source, ...]) -> None:
    _none(shape.attics(everything))


def test_no_default_is_mutable(everything: tuple[Source, ...]) -> None:
    _none(shape.mutable_defaults(everything))


def test_steps_have_few_settings(package: tuple[Source, ...]) -> None:
    _none(shape.many_settings(package, STEP_SETTINGS))


def test_inheritance_is_flat(package: tuple[Source, ...]) -> None:
    _none(shape.deep_inheritance(package, INHERITANCE))


def test_doors_are_small_and_in_order(package: tuple[Source, ...]) -> None:
    raised = {room: limit for room, (limit, _) in MORE_NAMES.items()}
    _none(shape.doors(package, PUBLIC_NAMES, raised))
