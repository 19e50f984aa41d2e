"""NNCF's compress_weights in OpenVINO, by METHOD of the environment: nearest, gptq or awq.

Its defaults but for blocks of 32 and no second precision: what it would keep in 8 bits (embeddings
and the last layer) stays float, as with the other tools. NNCF has no HQQ.
"""

from __future__ import annotations

import os
from pathlib import Path

import nncf
import openvino
from handover import Done, Given, Stopwatch, run, versions

BLOCK = 32


def quantize(given: Given, out: Path) -> Done:
    method = os.environ["METHOD"]
    watch = Stopwatch()
    model = openvino.convert_model(str(given.float_file))
    watch.lap("convert")
    data = {} if method == "nearest" else {"dataset": nncf.Dataset(given.calibration(1))}
    watch.lap("read samples")
    compressed = nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        group_size=BLOCK,
        backup_mode=nncf.BackupMode.NONE,
        subset_size=given.num_calibration,
        gptq=method == "gptq" or None,
        awq=method == "awq" or None,
        **data,
    )
    watch.lap("quantize")
    stored = sum(
        node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.u4
        for node in compressed.get_ops()
    )
    openvino.save_model(compressed, str(out / "model.xml"), compress_to_fp16=False)
    watch.lap("save")
    found: dict[str, object] = {"method": method, "mode": "INT4_ASYM", "group_size": BLOCK}
    found |= {"files": {"openvino": "model.xml"}, "constants in 4 bits": stored}
    return Done(f"nncf {method}", "model.xml", watch.seconds, versions("nncf", "openvino"), found)


if __name__ == "__main__":
    run(quantize)
