"""torch.compile among a search's runtimes: where it is named, with bfloat16 as a cast graph."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from burnish.auto import optimize
from burnish.auto._optimize import _runtimes
from burnish.auto._recipes import Maker
from burnish.auto._trial import Variant
from burnish.bundle import verify
from burnish.errors import MissingExtra
from burnish.goal import Budget, Goal, Target
from burnish.graph import trace
from burnish.hardware import detect
from burnish.quantize import fold
from burnish.runtimes import available
from tests.auto.made_up import MadeUp, data, task, trained


def wanted(*runtimes: str) -> Goal:
    return Goal(task(n=100), Target(runtimes=runtimes, threads=1), Budget(max_drop=0.05))


def test_it_is_tried_only_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "inductor" not in _runtimes(wanted())
    if available()["inductor"] is None:
        assert _runtimes(wanted("inductor", "eager")) == ["inductor", "eager"]
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingExtra, match=r"names inductor: .*install"):
        _runtimes(wanted("inductor"))


def test_its_bfloat16_is_cast_and_openvinos_is_a_hint() -> None:
    images, _ = data("calibration", 64)
    folded = fold(trace(trained(), (images[:2],)))
    maker = Maker(folded, lambda: [(images,)], seed=0)
    cast = Variant("inductor", "bfloat16")
    maker.prepare(cast)
    made = maker.make(cast)
    dtypes = {tensor.dtype for tensor in made.graph.graph_module.state_dict().values()}
    assert torch.bfloat16 in dtypes
    assert [applied.step for applied in made.history] == ["Cast"]
    assert maker.make(Variant("openvino", "bfloat16")).graph is folded


@pytest.mark.slow
@pytest.mark.skipif(available()["inductor"] is not None, reason=str(available()["inductor"]))
def test_the_whole_job_with_it(tmp_path: Path) -> None:
    """Real exports, real workers, made-up times: compiled bfloat16 wins and ships."""

    def seconds(key: str, threads: int) -> float:
        return {"inductor-bfloat16": 1e-3, "inductor-float32": 2e-3}.get(key, 3e-3)

    result = optimize(
        trained(),
        wanted("onnxruntime", "inductor"),
        bench=MadeUp(seconds),
        run_folder=tmp_path / "run",
        console=Console(file=io.StringIO()),
    )
    record = result.report
    assert record["failures"] == []
    small = detect().supports_bfloat16
    assert record["pick"]["label"].startswith("inductor bfloat16" if small else "inductor float32")
    assert record["reference"] == "inductor float32, 1 thread"
    assert record["pick"]["state"] == "verified"
    assert verify(result.bundle).ok
    assert "inductor" in result.page.read_text()
