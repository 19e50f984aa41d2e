"""A bundle that can be timed, as a run leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from burnish.bundle import Bundle
from tests.bundle import models


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    inputs = models.samples(4)
    Bundle.write(
        folder / "digits" / "bundle",
        models.onnx_artifact(folder / "model"),
        check_inputs=inputs,
        check_outputs=[models.expected(inputs).astype(np.float32)],
        expected={},
        history=None,
        environment=None,
    )
    return folder / "digits" / "bundle"
