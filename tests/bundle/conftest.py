"""The tiny model for each runtime, built once."""

from __future__ import annotations

import pytest

from burnish.bundle import Artifact
from tests.bundle import models


@pytest.fixture(scope="session")
def onnx_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return models.onnx_artifact(tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="session")
def openvino_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return models.openvino_artifact(tmp_path_factory.mktemp("openvino"))


@pytest.fixture(scope="session")
def eager_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return models.eager_artifact(tmp_path_factory.mktemp("eager"))


@pytest.fixture(scope="session")
def inductor_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return models.eager_artifact(tmp_path_factory.mktemp("inductor"), "inductor")
