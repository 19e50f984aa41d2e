"""Latency tables built from a clock that makes times up: prices, predictions, files, bad input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import Damaged, InvalidInput, Unsupported
from burnish.graph import Traced
from burnish.hardware import Machine
from burnish.profile._latency import LatencyTable
from burnish.profile._latency_family import place, resized
from burnish.profile._shape import OpShape, shapes
from tests.profile.latency_nets import MadeUp, small

WIDEST = (64, 96)


@pytest.fixture(scope="module")
def whole() -> Traced:
    return small(*WIDEST)


@pytest.fixture(scope="module")
def anchors(whole: Traced) -> list[Traced]:
    return [whole, small(32, 48), small(19, 41), small(50, 90)]


@pytest.fixture(scope="module")
def held_out() -> list[Traced]:
    return [small(40, 64), small(21, 77), small(64, 31)]


def build(anchors: list[Traced], clock: MadeUp, **settings: Any) -> LatencyTable:
    return LatencyTable.build("onnxruntime", [], anchors=anchors, clock=clock, **settings)


@pytest.fixture(scope="module")
def table(anchors: list[Traced]) -> LatencyTable:
    return build(anchors, MadeUp(noise=0.02))


def conv(whole: Traced, *widths: int) -> OpShape:
    return resized(shapes(whole, 1)["conv2:conv2d"], widths)


def test_prices_are_near_the_truth_at_any_width(whole: Traced, anchors: list[Traced]) -> None:
    clock = MadeUp()
    exact = build(anchors, clock)
    for name, shape in shapes(whole, 1).items():
        assert exact.seconds(shape) == pytest.approx(clock.price(shape), rel=0.02), name
    for widths in ((16, 16), (48, 80), (33, 70), (17, 95)):
        shape = conv(whole, *widths)
        assert exact.seconds(shape) == pytest.approx(clock.price(shape), rel=0.06), widths


def test_prices_never_fall_with_a_width_of_one_class(whole: Traced, table: LatencyTable) -> None:
    for kind in (range(16, 65, 16), [w for w in range(17, 64) if w % 16]):
        prices = [table.seconds(conv(whole, width, 96)) for width in kind]
        assert prices == sorted(prices)


def test_odd_widths_keep_their_own_price(whole: Traced, table: LatencyTable) -> None:
    assert table.seconds(conv(whole, 47, 96)) > 1.2 * table.seconds(conv(whole, 48, 96))


def test_widths_that_were_never_seen_are_predicted(
    table: LatencyTable, held_out: list[Traced]
) -> None:
    clock = MadeUp()
    for model in held_out:
        found = table.predict(model)
        assert found.seconds == pytest.approx(clock.truth(model), rel=0.05)
        assert found.low < clock.truth(model) < found.high
        assert found.extrapolated == ()


def test_a_prediction_tells_its_operators(table: LatencyTable, held_out: list[Traced]) -> None:
    found = table.predict(held_out[0])
    truth = MadeUp().in_place(held_out[0])
    assert set(found.operators) == set(truth)
    assert found.operators["bn1:batch_norm"] == 0.0
    for name in ("conv1:conv2d", "conv2:conv2d", "depthwise:conv2d"):
        assert found.operators[name] == pytest.approx(truth[name], rel=0.1)
    assert sum(found.operators.values()) < found.seconds


def test_without_anchors_a_prediction_is_the_sum_of_prices(whole: Traced) -> None:
    found = shapes(whole, 1)
    plain = LatencyTable.build("openvino", found.values(), clock=MadeUp())
    predicted = plain.predict(whole)
    assert predicted.seconds == pytest.approx(sum(map(plain.seconds, found.values())))
    assert predicted.low < 0.85 * predicted.seconds < 1.2 * predicted.seconds < predicted.high


def test_the_interval_widens_with_the_noise(anchors: list[Traced], whole: Traced) -> None:
    quiet = build(anchors, MadeUp(noise=0.005)).predict(whole)
    noisy = build(anchors, MadeUp(noise=0.1)).predict(whole)
    assert noisy.high / noisy.low > 2 * quiet.high / quiet.low


def test_nothing_is_measured_twice_nor_what_costs_nothing(anchors: list[Traced]) -> None:
    clock = MadeUp()
    told: list[float] = []
    table = build(anchors, clock, progress=told.append)
    assert len(clock.asked) == len(set(clock.asked)) == table.num_measured
    assert "view" not in {shape.kind for shape in clock.asked}
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)


def test_the_same_clock_gives_the_same_table(anchors: list[Traced], whole: Traced) -> None:
    first, second = (build(anchors, MadeUp(noise=0.05)) for _ in range(2))
    assert first.predict(whole) == second.predict(whole)


def test_a_table_is_saved_and_opened(table: LatencyTable, whole: Traced, tmp_path: Path) -> None:
    table.save(tmp_path / "table.json")
    opened = LatencyTable.open(tmp_path / "table.json")
    assert opened.predict(whole) == table.predict(whole)
    assert opened.header == table.header


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda machine: dataclasses.replace(machine, cpu="another", cores=96), "96 cores"),
        (lambda machine: dataclasses.replace(machine, isa=frozenset()), "its own machine only"),
    ],
)
def test_a_table_of_another_machine_is_refused(
    table: LatencyTable, tmp_path: Path, change, words: str
) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    record = json.loads(path.read_text())
    machine = Machine.from_json(record["header"]["environment"]["machine"])
    record["header"]["environment"]["machine"] = change(machine).to_json()
    path.write_text(json.dumps(record))
    with pytest.raises(InvalidInput, match=words):
        LatencyTable.open(path)


def test_a_table_of_another_version_of_the_runtime_is_refused(
    table: LatencyTable, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    record = json.loads(path.read_text())
    record["header"]["environment"]["versions"]["onnxruntime"] = "0.1"
    path.write_text(json.dumps(record))
    with pytest.raises(InvalidInput, match=r"onnxruntime 0\.1"):
        LatencyTable.open(path)


def test_a_table_of_a_machine_with_instructions_hidden_is_refused(
    table: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.save(tmp_path / "table.json")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    with pytest.raises(InvalidInput, match=r"ONEDNN_MAX_CPU_ISA|its own machine only"):
        LatencyTable.open(tmp_path / "table.json")


@pytest.mark.parametrize("key", ["header", "correction", "grids", "curves"])
def test_a_file_with_a_part_missing_is_damaged(
    table: LatencyTable, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({name: item for name, item in record.items() if name != key}))
    with pytest.raises(Damaged, match=r"table\.json"):
        LatencyTable.open(path)
    path.write_text(json.dumps({**record, key: 3}))
    with pytest.raises(Damaged, match=r"table\.json"):
        LatencyTable.open(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ('{"what": "something else"}', "no latency table"),
        ('{"what": "burnish latency table", "schema": 99}', "schema 99"),
        ("[1, 2]", "no latency table"),
    ],
)
def test_a_file_that_is_none_is_damaged(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(Damaged, match=words):
        LatencyTable.open(path)


def test_a_file_cut_off_is_damaged_and_one_that_is_absent_named(
    table: LatencyTable, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    path.write_text(path.read_text()[:-200])
    with pytest.raises(Damaged, match="cannot be read"):
        LatencyTable.open(path)
    with pytest.raises(InvalidInput, match=r"absent\.json"):
        LatencyTable.open(tmp_path / "absent.json")


def test_a_layer_beyond_what_was_measured_is_refused_alone_and_marked_in_a_model(
    table: LatencyTable, whole: Traced
) -> None:
    for widths in ((640, 96), (64, 2)):
        with pytest.raises(InvalidInput, match="measured were 4 to 64 and 10 to 96"):
            table.seconds(conv(whole, *widths))
    wider = small(72, 96)
    found = table.predict(wider)
    assert set(found.extrapolated) == {"conv1:conv2d", "conv2:conv2d"}


def test_a_family_that_was_not_measured_is_refused_by_name(
    table: LatencyTable, whole: Traced
) -> None:
    shape = shapes(whole, 1)["conv2:conv2d"]
    elsewhere = dataclasses.replace(shape, inputs=((1, 64, 99, 99),))
    with pytest.raises(Unsupported, match="conv2d of 1×·×99×99"):
        table.seconds(elsewhere)
    unknown = dataclasses.replace(shape, kind="tanh")
    with pytest.raises(Unsupported, match="tanh"):
        table.seconds(unknown)


def test_a_model_of_unknown_operators_names_them_all(whole: Traced) -> None:
    found = shapes(whole, 1).values()
    some = [shape for shape in found if shape.kind not in ("relu6", "mean")]
    table = LatencyTable.build("onnxruntime", some, clock=MadeUp())
    with pytest.raises(Unsupported, match=r"relu6.*mean"):
        table.predict(whole)


def test_another_batch_another_precision_and_no_shapes_are_refused(
    table: LatencyTable, whole: Traced
) -> None:
    with pytest.raises(InvalidInput, match="batch=4"):
        table.predict(whole, batch=4)
    with pytest.raises(Unsupported, match="int8"):
        LatencyTable.build("onnxruntime", [], precision="int8", clock=MadeUp())
    with pytest.raises(InvalidInput, match="no operator to measure"):
        LatencyTable.build("onnxruntime", [], clock=MadeUp())


def test_a_family_knows_the_place_of_every_member(whole: Traced) -> None:
    shape = shapes(whole, 1)["depthwise:conv2d"]
    assert place(shape).family == place(resized(shape, (7,))).family
