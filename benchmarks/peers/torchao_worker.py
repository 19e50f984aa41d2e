"""Times torchao's model, compiled by inductor, one JSON line a request: `WORK OUT` as arguments.

{"do": "time", "batch": b, "repeats": r} -> {"seconds": [...]}; {"do": "classes", "start": s,
"stop": e, "batch": b} -> {"classes": [...]}. Weights are frozen, each batch size is compiled for
itself, which is the best inductor does. The file is this benchmark's own, written minutes before.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401  (its operators)
from handover import Given


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # compilers talk; what they say is not an answer
    given, out = Given.open(Path(sys.argv[1])), Path(sys.argv[2])
    torch.set_num_threads(given.threads)
    torch._inductor.config.freezing = True
    module = torch.export.load(out / "model.pt2").module()
    compiled = torch.compile(module, dynamic=False)
    with torch.inference_mode():
        for line in sys.stdin:
            answer = respond(compiled, given, json.loads(line))
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def respond(compiled: Any, given: Given, request: dict[str, Any]) -> dict[str, Any]:
    batch = request["batch"]
    if request["do"] == "time":
        images = torch.from_numpy(given.only(0, batch))
        return {"seconds": [seconds(compiled, images) for _ in range(request["repeats"])]}
    classes: list[int] = []
    for start in range(request["start"], request["stop"], batch):
        images = torch.from_numpy(given.only(start, start + batch))
        classes += compiled(images).argmax(1).tolist()
    return {"classes": classes}


def seconds(compiled: Any, images: torch.Tensor) -> float:
    start = time.perf_counter()
    compiled(images)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
