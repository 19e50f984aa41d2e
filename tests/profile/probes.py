"""A probe made up for tests: no clock, no runtime."""

from __future__ import annotations

from burnish.profile._probe import Bandwidth, Capability, Dispatch, Peak, Probe


def made_up(environment: str = "0123456789ab", threads: int = 2) -> Probe:
    """Two runtimes, one of them without bfloat16; three levels of memory."""
    return Probe(
        environment=environment,
        created="2026-01-02T03:04:05+00:00",
        threads=threads,
        masks={},
        peaks=(
            Peak("eager", "float32", 90.0, 85.0, 95.0, True, None),
            Peak("eager", "int8", None, None, None, False, "eager has no int8"),
            Peak("openvino", "float32", 100.0, 98.0, 102.0, True, None),
            Peak("openvino", "bfloat16", 40.0, 20.0, 60.0, False, "the machine was not quiet"),
            Peak("openvino", "int8", 400.0, 390.0, 410.0, True, None),
        ),
        bandwidths=(
            Bandwidth("L1", 65_536, 300.0, True),
            Bandwidth("L2", 2_097_152, 150.0, True),
            Bandwidth("memory", 16_000_000_000, 20.0, False),
        ),
        dispatches=(Dispatch("eager", 3e-6, True), Dispatch("openvino", 1e-6, False)),
        capabilities=(
            Capability("eager", "float32", "native", "no oneDNN kernel: mkl", 1.0, None),
            Capability("eager", "int8", "refused", "", None, "eager has no int8"),
            Capability("openvino", "float32", "native", "FullyConnected:gemm_FP32", 1.0, None),
            Capability(
                "openvino", "bfloat16", "emulated", "FullyConnected:gemm_BF16", 0.4, "no faster"
            ),
            Capability("openvino", "int8", "native", "FullyConnected:gemm_I8", 4.0, None),
        ),
        notes=("L3 is not measured: no share of it",),
    )
