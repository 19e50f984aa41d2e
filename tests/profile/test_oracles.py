"""MACs against arithmetic, and against the counters that others use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from burnish.profile._count import count
from tests.profile.mac_cases import CASES, Case, others
from tests.profile.traced import traced


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_macs_are_those_of_the_arithmetic(case: Case) -> None:
    found = count(traced(case.make(), *case.args), case.args[0].shape[0])
    assert found.macs == case.macs
    assert not found.unknown


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_other_counters_agree_where_they_count_rightly_and_only_there(case: Case) -> None:
    said = others(case)
    assert {name for name, macs in said.items() if macs == case.macs} == case.right, said


def test_the_page_shows_what_the_counters_say(root: Path) -> None:
    page = (root / "docs/profile/profile.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", page, re.M)
    assert [row[0] for row in rows] == [case.name for case in CASES]
    for case, row in zip(CASES, rows, strict=True):
        said = others(case)
        wanted = (case.macs, *(said[name] for name in ("torch", "torchinfo", "fvcore")))
        assert tuple(int(figure.replace(",", "")) for figure in row[1:]) == wanted, case.name


def test_tied_and_shared_parameters_count_once() -> None:
    for name, wanted in (("tied embedding and output", 88), ("one layer called twice", 72)):
        case = next(case for case in CASES if case.name == name)
        found = count(traced(case.make(), *case.args), 2)
        assert found.num_parameters == wanted
        assert sum(item.num_parameters for item in found.operators) == wanted
        assert found.weight_bytes == wanted * 4


def test_an_operator_nobody_knows_is_listed_and_not_counted_as_nothing() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = torch.fft.rfft(x).abs()
            return result

    found = count(traced(Spectrum(), torch.zeros(2, 8)), 2)
    assert found.unknown == ("fft_rfft",)
    assert found.macs == 0
