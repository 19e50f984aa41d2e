"""The doctor says what follows, what was measured, and how to get what is missing."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from burnish.cli import _doctor
from burnish.cli._app import app
from burnish.cli._measured import measured
from burnish.errors import MissingExtra
from burnish.hardware import Gpu, Machine
from tests.profile.probes import made_up

SERVER = Machine(
    "Xeon [gold]",
    4,
    16_000_000_000,
    frozenset({"avx2", "avx512_vnni", "amx_int8", "amx_bf16"}),
    "Linux x86_64",
    "3.11.7",
)


def shown(what: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=160)
    with console.capture() as captured:
        console.print(what)
    return " ".join(captured.get().split())


def told(machine: Machine) -> str:
    return shown(_doctor.diagnosis(machine))


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


def test_caches_quota_and_masks_are_told() -> None:
    said = told(
        replace(
            SERVER,
            caches={"L1": 49152, "L3": 100663296},
            quota=1.5,
            cores=1,
            masks={"ONEDNN_MAX_CPU_ISA": "AVX2"},
        )
    )
    assert "caches L1 48 KiB, L3 96 MiB" in said
    assert "quota 1.5 cores a container's" in said
    assert "ONEDNN_MAX_CPU_ISA AVX2 set in the environment: hides instructions" in said
    assert "no timing here is reliable" in told(replace(SERVER, quota=0.5, cores=1))
    assert "a container" not in told(SERVER)
    assert "caches unknown" in told(SERVER)


Calls = list[dict[str, Any]]


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The room of the probe replaced by one that measures nothing; how it was called."""
    calls: Calls = []

    def probe(**given: Any) -> Any:
        given.pop("progress")("multiplying matrices", 0.5)
        calls.append(given)
        return made_up()

    room = types.ModuleType("burnish.profile")
    vars(room).update(probe=probe, last_probe=lambda: None)
    monkeypatch.setitem(sys.modules, "burnish.profile", room)
    monkeypatch.setattr("burnish.hardware.gpus", lambda: (Gpu("cuda:0", "L4 [x]", 24 * 10**9),))
    return calls


def test_what_was_measured_is_shown_with_reasons_and_doubts(profile: Calls) -> None:
    said = shown(measured(measure=True, renew=False))
    assert profile == [{"renew": False}]
    assert "cuda:0 L4 [x] 24 GB" in said
    assert "Measured with 2 threads, 2026-01-02 03:04 UTC" in said
    assert "openvino int8 400 4 × native FullyConnected:gemm_I8" in said
    assert "eager int8 – refused eager has no int8" in said
    assert "openvino bfloat16 40 ? 0.4 ? × emulated" in said
    assert "the machine was not quiet" in said
    assert "L2 150" in said
    assert "memory 20 ?" in said
    assert "eager 3 openvino 1 ?" in said
    assert "! L3 is not measured" in said


def test_measuring_can_be_left_out(profile: Calls) -> None:
    assert "leave out --no-measure" in shown(measured(measure=False, renew=False))
    assert profile == []


@pytest.fixture
def run() -> Callable[..., Any]:
    return lambda *arguments: CliRunner().invoke(app, ["doctor", *arguments])


def test_the_command_prints_the_machine_first_and_renews_when_told(
    profile: Calls, run: Callable[..., Any]
) -> None:
    done = run("--renew")
    assert done.exit_code == 0
    assert profile == [{"renew": True}]
    assert 0 < done.stdout.index("processor") < done.stdout.index("Measured with")
    assert run("--renew", "--no-measure").exit_code == 2


def test_without_torch_what_is_not_measured_is_said(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    def missing() -> Any:
        raise MissingExtra("pip install torch")

    monkeypatch.setattr("burnish.hardware.gpus", missing)
    done = run()
    assert done.exit_code == 0
    said = " ".join(done.stdout.split())
    assert "nothing missing peaks, bandwidths, dispatch" in said
    assert "pip install torch" in said
