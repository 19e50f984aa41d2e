"""GPUs as torch tells of them, on machines we do not have here."""

from __future__ import annotations

import sys
import types
from types import SimpleNamespace

import pytest

from burnish.errors import MissingExtra
from burnish.hardware import Gpu, gpus


def fake(monkeypatch: pytest.MonkeyPatch, cuda: list[str], xpu: list[str], mps: bool) -> None:
    def kind(names: list[str]) -> SimpleNamespace:
        return SimpleNamespace(
            is_available=lambda: bool(names),
            device_count=lambda: len(names),
            get_device_properties=lambda index: SimpleNamespace(
                name=names[index], total_memory=16_000_000_000
            ),
        )

    torch = types.ModuleType("torch")
    vars(torch).update(
        cuda=kind(cuda),
        xpu=kind(xpu),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_each_device_is_listed_by_the_name_torch_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, ["L4", "T4"], ["Arc"], True)
    assert gpus() == (
        Gpu("cuda:0", "L4", 16_000_000_000),
        Gpu("cuda:1", "T4", 16_000_000_000),
        Gpu("xpu:0", "Arc", 16_000_000_000),
        Gpu("mps", "Apple GPU", 0),
    )


def test_without_a_gpu_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, [], [], False)
    assert gpus() == ()


def test_without_torch_its_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match="pip install torch"):
        gpus()


def test_the_torch_installed_here_is_asked() -> None:
    assert isinstance(gpus(), tuple)
