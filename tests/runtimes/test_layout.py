"""Channels-last, and weights that are not stored row by row."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from burnish.bundle import Artifact
from burnish.bundle._program import Program
from burnish.errors import InvalidInput, Unsupported
from burnish.graph import Traced, trace
from burnish.runtimes import available, export, load, strided_weights


class Viewed(nn.Module):
    """A `view` behind a convolution: channels-last does not allow it, a reshape does it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8 * 36, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.conv(x)
        return self.head(x.view(x.shape[0], -1)), x


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(batch))


@pytest.fixture(scope="module")
def model() -> Traced:
    torch.manual_seed(0)
    return trace(Viewed().eval(), (images(2),))


@pytest.fixture(scope="module")
def artifact(model: Traced, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(model, "eager", tmp_path_factory.mktemp("eager"))


def test_channels_last_computes_the_same(model: Traced, artifact: Artifact) -> None:
    program = Program(artifact.with_options(layout="channels_last"))
    (image,) = program.leaves([images(3).numpy()])
    assert image.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        results, wanted = program.module(image), model(images(3))
    assert not results[1].is_contiguous()
    for mine, right in zip(program.arrays(results), wanted, strict=True):
        assert mine.flags.c_contiguous
        np.testing.assert_allclose(mine, right.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["eager", "inductor"])
def test_a_worker_runs_channels_last(runtime: str, model: Traced, tmp_path: Path) -> None:
    if available()[runtime] is not None:
        pytest.skip(str(available()[runtime]))
    last = export(model, runtime, tmp_path).with_options(layout="channels_last")
    with load(last) as worker:
        given = worker.run({"x": images(3).numpy()})
        times = worker.op_times({"x": images(3).numpy()}, repeats=4)
    with torch.no_grad():
        np.testing.assert_allclose(given[0], model(images(3))[0].numpy(), rtol=1e-4, atol=1e-5)
    assert any("conv" in item.kind for item in times)


def test_the_layout_is_kept_with_the_artifact(artifact: Artifact) -> None:
    last = artifact.with_options(layout="channels_last")
    assert Artifact.from_json(last.folder, last.to_json(), "here") == last


def test_records_from_before_layouts_still_open(artifact: Artifact) -> None:
    record = artifact.to_json()
    del record["options"]["layout"]
    assert Artifact.from_json(artifact.folder, record, "here") == artifact


def test_layouts_that_make_no_sense_are_refused(artifact: Artifact) -> None:
    with pytest.raises(InvalidInput, match="layout is 'nhwc'"):
        artifact.with_options(layout="nhwc")
    last = artifact.with_options(layout="channels_last")
    with pytest.raises(InvalidInput, match="onnxruntime arranges tensors in memory itself"):
        dataclasses.replace(last, runtime="onnxruntime")


def test_a_layout_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    flat = export(trace(nn.Linear(4, 3).eval(), (torch.randn(2, 4),)), "eager", tmp_path)
    with pytest.raises(Unsupported, match="changes nothing here"):
        Program(flat.with_options(layout="channels_last"))


def test_strided_weights_are_found_and_stored_contiguous(tmp_path: Path) -> None:
    """Transposed, channels-last, and a slice of something larger."""
    net: Any = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 6), nn.Linear(6, 2)
    )
    net.to(memory_format=torch.channels_last).eval()
    net[2].weight = nn.Parameter(torch.randn(8 * 16, 6).t())
    net[3].weight = nn.Parameter(torch.randn(4, 6)[::2])
    model = trace(net, (images(2),))
    found = ("0.weight", "2.weight", "3.weight")
    assert strided_weights(net) == found
    kept = {name: tensor.stride() for name, tensor in model.graph_module.named_parameters()}
    artifact = export(model, "eager", tmp_path)
    again = {name: tensor.stride() for name, tensor in model.graph_module.named_parameters()}
    assert again == kept
    stored = torch.export.load(tmp_path / "model.pt2").state_dict
    assert all(tensor.is_contiguous() for tensor in stored.values())
    assert sum(t.untyped_storage().nbytes() for t in stored.values()) < artifact.size_bytes()
    with torch.no_grad():
        right = net(images(2))
        np.testing.assert_allclose(
            torch.export.load(tmp_path / "model.pt2").module()(images(2))[0], right, rtol=1e-5
        )
