"""The profile's page: what it says, that folding loses nothing, and that a browser draws it."""

from __future__ import annotations

import copy
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.errors import Damaged, InvalidInput
from burnish.report import profile_page
from burnish.report._module_table import besides, rows
from burnish.report._profile_page import switchable
from burnish.report._profile_record import Operator, Profile, read
from burnish.report._profile_sentences import busiest
from burnish.report._roofline import drawable
from burnish.report._spent import Spent
from burnish.report._tree import tree
from tests.report import profiles, sweeps
from tests.report.browser import EVIL, Loads, browse, overflow, words

Json = dict[str, Any]


def page(record: Json, folder: Path) -> str:
    return profile_page(profiles.write(record, folder)).read_text(encoding="utf-8")


def parsed(record: Json, folder: Path) -> Profile:
    return read(profiles.write(record, folder))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return profile_page(profiles.write(profiles.good(), tmp_path_factory.mktemp("good")))


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return parsed(profiles.good(), tmp_path_factory.mktemp("profile"))


def test_the_first_thing_said_is_the_fastest_runtime_and_where_its_time_goes(good: Path) -> None:
    told = words(good.read_text(encoding="utf-8"))
    first = told[: told.index("Where the time goes")]
    assert "onnxruntime is the fastest: " in first
    assert re.search(r"Against onnxruntime, openvino takes 1\.\d+ times as long", first)
    assert "Unreliable: the time of eager." in first
    assert re.search(r"In onnxruntime the time goes to _blocks\.\d+ \(\d+ %\)", first)
    assert "the time is bound by compute" in first
    assert "385 M" in first, "the multiply-accumulates of an EfficientNet-Lite0"


def test_every_section_is_there_and_honest(good: Path) -> None:
    told = words(good.read_text(encoding="utf-8"))
    assert "rounds disagree (27.3 ms to 41.0 ms): the machine was busy" in told
    assert "failed: inductor needs a C++ compiler" in told
    assert "kernels of no operator" in told
    assert "✗ does not fit" in told
    assert "? cannot tell" in told
    assert "18.6 MB of unknown" in told
    assert "Preflight: what is worth trying To try first: int8 in openvino" in told
    assert "reading from L3 ≈ 78.0 GB/s up to 33.6 MB unreliable" in told
    assert "refused" in told
    assert "Two weights were not contiguous" in told


def test_the_table_adds_up(profile: Profile) -> None:
    whole = tree(profile.operators)
    runtimes = switchable(profile, whole)
    assert [one.name for one in runtimes] == ["onnxruntime", "openvino", "eager"]
    table = rows(whole, runtimes)
    leaves = [row for row in table if not row.opens]
    assert len(leaves) == len(profile.operators)
    for index, runtime in enumerate(runtimes):
        times = [row.times[index][0] for row in leaves]
        shown = sum(float(text) for text in times if text not in ("–", "fused"))
        assert shown == pytest.approx(runtime.attributed, rel=0.01)
        spent = Spent.of(whole, runtime)
        parts = spent.operators + spent.unowned + spent.uncounted
        assert parts == pytest.approx(spent.total, rel=0.002)
        assert 1e3 * spent.total == pytest.approx(runtime.p50)
    assert [one.name for one in besides(whole, runtimes)] == [
        "kernels of no operator",
        "outside the kernels",
    ]


def test_the_counted_runs_are_divided_and_not_the_race(tmp_path: Path) -> None:
    """On a busy machine both differ; the counters belong to the runs beside them."""
    record = profiles.good()
    slow, fast = record["runtimes"][1], record["runtimes"][2]
    slow["latency"] = {"p50_ms": 80.0, "low_ms": 50.0, "high_ms": 110.0}
    fast["share"] = 1.4
    profile = parsed(record, tmp_path)
    whole = tree(profile.operators)
    counted = {name: profile.timed(name) for name in ("onnxruntime", "openvino")}
    found = {name: Spent.of(whole, one) for name, one in counted.items() if one}
    assert found["onnxruntime"].uncounted == pytest.approx(
        0.02 * found["onnxruntime"].total, rel=0.1
    )
    assert found["openvino"].uncounted == 0.0, "the counters saw more than the runs took"
    assert found["openvino"].total == pytest.approx(fast["counted_ms"] / 1e3)


def test_the_table_opens_with_a_screen_of_rows_and_knows_its_tree(profile: Profile) -> None:
    table = rows(tree(profile.operators), [])
    shown = [row for row in table if not row.hidden]
    assert 15 <= len(shown) <= 40
    by_number = {row.number: row for row in table}
    for row in table[1:]:
        above = by_number[row.up]
        assert above.depth == row.depth - 1
        assert above.opens
        assert row.hidden == (not above.open)


def test_a_module_with_one_thing_in_it_is_one_row(profile: Profile) -> None:
    names = {row.name for row in rows(tree(profile.operators), [])}
    assert {"_conv_stem:conv2d", "_fc:linear", "_depthwise_conv:conv2d", "_blocks", "3"} <= names
    assert "_conv_stem" not in names


NAMES = st.lists(st.sampled_from(["a", "b", "layer", "0", "1", ""]), max_size=6).map(".".join)


@given(st.lists(NAMES, min_size=1, max_size=30))
def test_folding_loses_no_operator(modules: list[str]) -> None:
    operators = [
        Operator(f"{module}:op#{n}", module, "op", 1, 1, 4, 4, 4, {"r": 1.0}, {}, {}, {})
        for n, module in enumerate(modules)
    ]
    whole = tree(operators)
    leaves = [part.operators[0] for _, part in whole.walk() if not part.parts]
    assert sorted(one.name for one in leaves) == sorted(one.name for one in operators)
    for _, part in whole.walk():
        if part.parts:
            assert part.seconds("r") == sum(one.seconds("r") or 0.0 for one in part.parts)
            assert all(part.name and one.path for one in part.parts)


def test_a_module_nested_without_end_is_folded_all_the_same() -> None:
    deep = ".".join(["a"] * 5000)
    found = [
        Operator(f"{deep}:{n}", deep, "op", None, None, None, None, None, {}, {}, {}, {})
        for n in range(2)
    ]
    assert max(depth for depth, _ in tree(found).walk()) < 60


def test_the_parts_named_are_no_overwhelming_ones(profile: Profile) -> None:
    whole = tree(profile.operators)
    found = busiest(whole, "onnxruntime")
    total = whole.seconds("onnxruntime") or 0.0
    assert sum(seconds for _, seconds in found) == pytest.approx(total)
    assert all(seconds <= 0.3 * total or not part.parts for part, seconds in found)


def test_only_what_multiplies_and_was_timed_has_a_place_under_the_roof(profile: Profile) -> None:
    kinds = {one.operator.kind for one in drawable(profile.operators, "openvino")}
    assert kinds == {"conv2d", "linear"}
    assert drawable(profile.operators, "inductor") == []


def test_runtimes_that_cannot_be_told_apart_are_not_called_faster(tmp_path: Path) -> None:
    record = profiles.good()
    best, other = record["runtimes"][1]["latency"], record["runtimes"][2]["latency"]
    other |= {"p50_ms": 1.01 * best["p50_ms"], "low_ms": best["p50_ms"]}
    assert "onnxruntime and openvino are as fast as can be told" in words(page(record, tmp_path))


def test_operators_that_nobody_can_count_are_named(tmp_path: Path) -> None:
    record = profiles.good()
    record["operators"][0] |= {"macs": None, "kind": "fancy_op"}
    told = words(page(record, tmp_path))
    assert "Not counted, since nobody has told how: 1 × fancy_op" in told
    assert "≥ 3" in told
    assert "1 operator not counted" in told


def test_nothing_known_is_shown_as_unknown(tmp_path: Path) -> None:
    html = page(profiles.sad(), tmp_path)
    told = words(html)
    assert "No runtime could be timed" in told
    assert "there is nothing to draw" in told
    assert "cannot tell" in told
    assert not re.search(r"\b(None|nan|null|Undefined|inf)\b", told)
    assert len(html) < 60_000, "plotly.js is not needed where there is no figure"


def test_an_empty_record_gives_a_page(tmp_path: Path) -> None:
    told = words(page({"schema": 1}, tmp_path))
    assert "No operator was recorded." in told
    assert "The machine was not probed" in told


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in the record, but only the first of each list."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value[:1])
    for key, one in inner:
        yield (*path, key)
        yield from _places(one, (*path, key))


NEEDED: set[tuple[Any, ...]] = {("schema",), ("peaks", "schema")}
NEEDED |= {(many, 0, "name") for many in ("operators", "runtimes", "devices")}
NEEDED |= {("peaks", "peaks", 0, key) for key in ("runtime", "dtype")}
NEEDED |= {("peaks", "capabilities", 0, key) for key in ("runtime", "dtype")}
NEEDED |= {("peaks", "dispatch", 0, "runtime"), ("peaks", "bandwidth", 0, "level")}
NEEDED |= {("preflight", "answers", 0, "move")}


def _small() -> Json:
    """A few operators, so that a hundred pages take seconds."""
    record = profiles.good()
    record["operators"] = record["operators"][:4]
    record["memory"]["timeline"] = record["memory"]["timeline"][:2]
    record["preflight"] = profiles.followed()
    return record


def _at(record: Json, path: tuple[Any, ...]) -> Any:
    inside: Any = record
    for key in path:
        inside = inside[key]
    return inside


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_any_value_may_be_unknown_or_beyond_measure(
    tmp_path: Path, value: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every place of a full record is emptied, an eighth of them at a time."""
    monkeypatch.setattr("burnish.report._render.plotly_js", lambda: "")
    whole = _small()
    places = [path for path in _places(whole) if path not in NEEDED and isinstance(path[-1], str)]
    leaves = [path for path in places if not isinstance(_at(whole, path), dict | list)]
    if value is not None:
        leaves = [path for path in leaves if _number(_at(whole, path))]
    assert len(leaves) > 35
    random.Random(0).shuffle(leaves)
    groups = [leaves[start::8] for start in range(8)]
    if value is None:
        groups += [[path] for path in places if len(path) == 1]
    for group in groups:
        record = copy.deepcopy(whole)
        for path in group:
            _at(record, path[:-1])[path[-1]] = value
        told = words(page(json.loads(json.dumps(record)), tmp_path))
        assert not re.search(r"\b(None|nan|Undefined)\b", told), group


def test_wrong_types_are_damage_and_their_place_is_told(tmp_path: Path) -> None:
    for change, place in (
        ({"operators": {}}, r"profile\.json\.operators is"),
        ({"operators": [{"name": 3}]}, r"operators\[0\]\.name is 3"),
        ({"operators": [{"name": "a", "seconds": {"eager": "1"}}]}, r"seconds\.eager is '1'"),
        ({"runtimes": [{"name": "a", "reliable": 1}]}, r"runtimes\[0\]\.reliable"),
        ({"devices": [{"name": "a", "fits": "yes"}]}, r"devices\[0\]\.fits"),
        ({"peaks": {"peaks": [{}]}}, r"peaks\[0\] lacks 'runtime'"),
        ({"memory": []}, r"memory is \[\]"),
        ({"schema": None}, "does not say its schema"),
    ):
        with pytest.raises(Damaged, match=place):
            page(profiles.good() | change, tmp_path)
    with pytest.raises(InvalidInput, match="later version"):
        page(profiles.good() | {"schema": 2}, tmp_path)
    (tmp_path / "profile.json").write_text("{", encoding="utf-8")
    with pytest.raises(Damaged, match="not whole JSON"):
        profile_page(tmp_path)


def test_the_page_goes_where_it_is_told(tmp_path: Path) -> None:
    folder = profiles.write(profiles.sad(), tmp_path / "profile")
    assert profile_page(folder) == folder / "profile.html"
    assert profile_page(folder / "profile.json") == folder / "profile.html"
    assert profile_page(folder, tmp_path / "a.html") == tmp_path / "a.html"
    with pytest.raises(InvalidInput, match="no folder"):
        profile_page(folder, tmp_path / "no" / "a.html")
    with pytest.raises(InvalidInput, match="burnish profile"):
        profile_page(tmp_path / "nowhere")


def hostile() -> Json:
    """Every text of the record is a piece of HTML, and so are the names of its mappings."""
    fixed = {"how", "bound", "created"}

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            named = key in ("seconds", "fused_into", "roofline", "measured_bytes", "masks")
            return {f"{k}{EVIL}" if named else k: spoil(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [spoil(one, key) for one in value]
        return f"{value}{EVIL}" if isinstance(value, str) and key not in fixed else value

    record: Json = spoil(profiles.good())
    record["peaks"]["masks"] = {EVIL: EVIL}
    record["environment"][EVIL] = EVIL
    return record


def test_whatever_a_model_is_called_it_stays_text(tmp_path: Path, good: Path) -> None:
    html = page(hostile(), tmp_path)
    assert "<script>alert" not in html
    assert "<img" not in html
    assert html.count("<script") == good.read_text(encoding="utf-8").count("<script")
    assert EVIL in words(html)


def test_the_page_loads_nothing_from_anywhere(good: Path) -> None:
    html = good.read_text(encoding="utf-8")
    loads = Loads()
    loads.feed(html)
    assert loads.found == []
    assert len(html.encode()) < 5_600_000


def test_no_torch_and_no_model_is_loaded(tmp_path: Path) -> None:
    folder = profiles.write(profiles.good(), tmp_path)
    profiles.write(sweeps.sweep(), tmp_path, "sweep.json")
    code = (
        "import sys; from pathlib import Path; "
        "from burnish.report import profile_page, sweep_page; "
        f"profile_page(Path({str(folder)!r})); sweep_page(Path({str(folder)!r})); "
        "print([m for m in ('torch', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_browser_draws_what_the_buttons_choose_and_opens_rows(
    good: Path, chromium: list[str], tmp_path: Path
) -> None:
    pressed = tmp_path / "pressed.html"
    script = (
        "<script>document.querySelector('[data-show=\"2\"]').click();"
        "document.querySelector('.fold[aria-expanded=\"false\"]').click();</script></body>"
    )
    html = good.read_text(encoding="utf-8")
    pressed.write_text(html.replace("</body>", script), encoding="utf-8")
    dom = browse(chromium, pressed, tmp_path / "profile", "--dump-dom")
    dom = re.sub(r"<script\b.*?</script>", "", dom, flags=re.DOTALL)
    assert len(re.findall(r'<g class="slice', dom)) > 20, "boxes of the icicle"
    assert "eager · 36.0 ms" in dom
    assert len(re.findall(r'<path class="point"', dom)) == 50, "49 convolutions and a layer"
    assert "float32 peak 88.0" in dom
    assert "float32 peak 96.0" not in dom, "that is another runtime's"
    of = {which: re.findall(rf'<[^>]*data-of="{which}"[^>]*>', dom) for which in "012"}
    assert len(of["0"]) == len(of["2"]) > 100
    assert all("hidden" in tag for tag in (*of["0"], *of["1"]))
    assert not any("hidden" in tag for tag in of["2"])
    assert len(re.findall(r"<tr[^>]* hidden", dom)) < len(re.findall(r"<tr[^>]* hidden", html))


@pytest.mark.parametrize("width", [1280, pytest.param(500, marks=pytest.mark.slow)])
def test_nothing_is_wider_than_the_window(width: int, chromium: list[str], tmp_path: Path) -> None:
    record = profiles.good()
    long = "a_name_without_any_space_in_it_" * 4
    for operator in record["operators"]:
        operator["module"] = f"{long}.{operator['module']}"
        operator["name"] = f"{long}.{operator['name']}"
    record["title"] = record["notes"][0] = record["runtimes"][0]["note"] = long
    record["devices"][0]["name"] = record["devices"][0]["reason"] = long
    record["preflight"]["first_move"] = record["preflight"]["answers"][0]["move"] = long
    record["preflight"]["answers"][0]["basis"] = record["memory"]["peak_at"] = long
    record["environment"][long] = long
    made = profile_page(profiles.write(record, tmp_path))
    assert overflow(chromium, made, tmp_path, width) <= 0
