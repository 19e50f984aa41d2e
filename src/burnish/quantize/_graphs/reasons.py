"""Why an operator that no pass of placement decided on stays in float.

Left out: reasons that hold before placement begins; they are in `policy` and `patterns`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from burnish.graph import operator
from burnish.quantize._graphs.node import is_spatial_mean, readers
from burnish.quantize._graphs.policy import ARITHMETIC, LOOKUPS, MOVES, POOLS, Policy


def why_float(
    node: fx.Node, sources: Sequence[fx.Node], inside: bool, constant: bool, policy: Policy
) -> str:
    """The reason, for the coverage table.

    Args:
        node: the operator.
        sources: the float values it reads.
        inside: whether all of them come out of int8 operators.
        constant: whether it is arithmetic with a constant.
        policy: what the runtime wants.
    """
    kind, runtime = operator(node), policy.runtime
    if not sources:
        return "reads no floats"
    if kind in MOVES:
        return "only moves data, which is read in float" if inside else "only moves floats"
    if constant:
        return "computes with a constant, which is as fast in float"
    if kind == "mean" and not is_spatial_mean(node):
        return "a mean over other axes than all the spatial ones"
    if kind in ARITHMETIC | POOLS | LOOKUPS | {"cat"} and kind in policy.int8:
        return "what it reads is float"
    if kind not in policy.fused:
        return f"no int8 form of {kind} for {runtime}"
    if not inside:
        return "follows an operator in float"
    if len(readers(sources[0])) != 1:
        return "what it reads is read elsewhere, too"
    return f"no int8 kernel of {runtime} takes this {kind} in"
