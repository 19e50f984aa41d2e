"""The model in int8 before anybody has calibrated it: what it will take, not what it will answer.

How long integers take to multiply does not depend on what they say. So the model is quantized as
`QuantizeStatic` would for each runtime, operator by operator the same, with the ranges of a single
call, and is raced whole beside its float forms: what a runtime fuses, converts and leaves in float
is in the time that is measured.

Left out: corrections and learned rounding, which change numbers and no operator; ladders that put
operators back into float because of their error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from burnish.errors import BurnishError
from burnish.graph import Traced
from burnish.quantize import QuantizeStatic, calibrate, fold


def in_int8(
    traced: Traced, call: tuple[torch.Tensor, ...], runtimes: Sequence[str], refused: dict[str, str]
) -> Iterator[tuple[str, Traced]]:
    """The model quantized for each of `runtimes`; why it cannot be goes to `refused`, by runtime.

    Args:
        traced: in float; left as it was.
        call: the tensors of one call, in the order of `traced.inputs`.
        runtimes: whose kernels to quantize for.
        refused: is filled.
    """
    try:
        folded = fold(traced)
        statistics = calibrate(folded, [call])
    except BurnishError as error:
        refused |= dict.fromkeys(runtimes, str(error))
        return
    for name in runtimes:
        step = QuantizeStatic(name, ranges="min-max", bias_correction="none", equalize=False)
        try:
            graph = step.rewrite(folded, step.choose_from(folded, statistics))
        except BurnishError as error:
            refused[name] = str(error)
        else:
            assert isinstance(graph, Traced)
            yield name, graph
