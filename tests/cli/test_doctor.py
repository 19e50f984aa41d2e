"""The doctor says what follows, and how to get what is missing."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from burnish.cli import _doctor
from burnish.hardware import Machine

SERVER = Machine(
    "Xeon [gold]",
    4,
    16_000_000_000,
    frozenset({"avx2", "avx512_vnni", "amx_int8", "amx_bf16"}),
    "Linux x86_64",
    "3.11.7",
)


def told(machine: Machine) -> str:
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as captured:
        console.print(_doctor.diagnosis(machine))
    return " ".join(captured.get().split())


def test_a_server_with_everything() -> None:
    said = told(SERVER)
    assert "Xeon [gold]" in said
    assert "int8 dot products yes" in said
    assert "VNNI yes" in said
    assert "AMX yes" in said
    assert "bfloat16 yes" in said
    assert "16 GB" in said


def test_an_old_machine_is_told_what_follows() -> None:
    said = told(replace(SERVER, isa=frozenset({"avx2", "fma"})))
    assert "int8 dot products no" in said
    assert "may be no faster than float32" in said
    assert "may saturate" in said
    assert "bfloat16 is not tried" in said


def test_an_arm_machine_is_not_asked_for_amx() -> None:
    said = told(replace(SERVER, isa=frozenset({"neon", "neon_dotprod", "neon_bf16"})))
    assert "int8 dot products yes" in said
    assert "AMX" not in said
    assert "bfloat16 yes" in said


def test_unknown_instructions_are_not_taken_for_absent_ones() -> None:
    said = told(replace(SERVER, isa=frozenset(), memory_bytes=0))
    assert "instructions unknown" in said
    assert "VNNI" not in said
    assert "memory unknown" in said


def test_a_missing_package_comes_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = {"torch": "2.13.0"}
    monkeypatch.setattr(_doctor, "version", there.get)
    said = told(SERVER)
    assert "torch 2.13.0" in said
    assert "openvino missing the openvino runtime: pip install openvino" in said
    assert _doctor.version("openvino") is None
