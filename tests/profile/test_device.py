"""What fits where, and a user's own table of devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from burnish.errors import Damaged, InvalidInput
from burnish.profile._device import Device, Fit, devices, fit

KIB, MIB = 1024, 1024**2
BOARD = Device("board", "microcontroller", MIB, 256 * KIB)
COMPUTER = Device("computer", "single-board computer", 8 * MIB, MIB)


def test_the_known_devices_go_from_small_to_large_within_each_kind() -> None:
    known = devices()
    assert {device.kind for device in known} == {
        *("microcontroller", "phone", "single-board computer", "server")
    }
    assert len({device.name for device in known}) == len(known) >= 10
    assert all(device.flash_bytes and device.ram_bytes for device in known)


def test_a_microcontroller_reads_weights_from_flash() -> None:
    found = fit(900 * KIB, 200 * KIB, 225 * KIB, BOARD)
    assert found.fits
    assert (found.flash_needs, found.ram_needs) == (900 * KIB, 200 * KIB)
    assert found.reason == "922 KB of flash, 205 KB of memory"


def test_elsewhere_weights_are_loaded_into_memory() -> None:
    found = fit(900 * KIB, 200 * KIB, 225 * KIB, COMPUTER)
    assert found.fits is False
    assert found.ram_needs == 1100 * KIB
    assert found.reason == (
        "weights and activations take 1.13 MB, it has 1.05 MB of memory; in int8 it would fit"
    )


@pytest.mark.parametrize(
    ("weights", "peak", "words"),
    [
        (2 * MIB, 100 * KIB, "the weights take 2.10 MB, it has 1.05 MB of flash; in int8 it would"),
        (100 * KIB, MIB, "the activations take 1.05 MB, it has 262 KB of memory; in int8 it would"),
        (8 * MIB, 100 * KIB, "nor would it in int8"),
    ],
)
def test_the_reason_names_what_is_short_and_whether_int8_would_help(
    weights: int, peak: int, words: str
) -> None:
    found = fit(weights, peak, weights // 4, BOARD)
    assert found.fits is False
    assert words in found.reason


def test_a_model_that_is_small_already_gets_no_advice_about_int8() -> None:
    assert "int8" not in fit(2 * MIB, 1, 2 * MIB // 16, BOARD).reason


def test_a_limit_is_enough_and_a_byte_more_is_not() -> None:
    assert fit(MIB, 256 * KIB, 0, BOARD).fits
    assert fit(MIB + 1, 256 * KIB, 0, BOARD).fits is False
    assert fit(MIB, 256 * KIB + 1, 0, BOARD).fits is False


def test_what_a_device_does_not_say_cannot_be_told() -> None:
    silent = Device("silent", "phone", 8 * MIB, None)
    assert fit(MIB, MIB, 0, silent).fits is None
    assert "memory it has is not said" in fit(MIB, MIB, 0, silent).reason
    assert fit(9 * MIB, MIB, 0, silent).fits is False


def test_a_file_adds_devices_and_replaces_those_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    mine = {"name": "mine", "kind": "phone", "flash_bytes": None, "ram_bytes": 5}
    path.write_text(json.dumps([mine, {**mine, "name": "server", "kind": "server"}]))
    found = {device.name: device for device in devices(path)}
    assert len(found) == len(devices()) + 1
    assert found["mine"] == Device("mine", "phone", None, 5)
    assert found["server"].ram_bytes == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "cannot be read as JSON"),
        ("{}", "a list of objects"),
        ('[{"name": "x", "kind": "phone", "flash_bytes": 1}]', "lacks ['ram_bytes']"),
        ('[{"name": "x", "kind": "phone", "flash_bytes": 1, "ram_bytes": 1, "cpu": 2}]', "cpu"),
        ('[{"name": "x", "kind": "toaster", "flash_bytes": 1, "ram_bytes": 1}]', "toaster"),
        ('[{"name": "x", "kind": "phone", "flash_bytes": 0, "ram_bytes": 1}]', "flash_bytes=0"),
        ('[{"name": "x", "kind": "phone", "flash_bytes": true, "ram_bytes": 1}]', "flash_bytes"),
        ('[{"name": "", "kind": "phone", "flash_bytes": 1, "ram_bytes": 1}]', "give it a name"),
    ],
)
def test_a_table_that_is_none_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        devices(path)
    assert words in str(caught.value)
    assert "mine.json" in str(caught.value)


def test_a_missing_table_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.json"):
        devices(tmp_path / "nowhere.json")


def test_json_and_back_is_the_same_value() -> None:
    for device in devices():
        found = fit(3 * MIB, MIB, 0, device)
        assert Fit.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(Damaged, match="device"):
        Fit.from_json({"name": "x"})
