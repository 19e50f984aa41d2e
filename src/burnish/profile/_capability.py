"""What a runtime really computes, judged by the kernels it names and by how fast they are.

A version, a flag of the processor and a graph that loads prove nothing: runtimes widen what they
have no kernel for, and libraries emulate what the processor lacks. So a tiny graph is run, the
runtime's own counters say which kernels ran, and the clock says whether they were of use.

onnxruntime's kernels are told by their names (`QGemm`); those that exist in several types are told
apart by the casts it had to put in. OpenVINO writes the type into the kernel's name
(`brgemm_avx512_I8`), eager is told by oneDNN (`_onednn`) and never changes the graph's type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from burnish.bench import Ratio
from burnish.hardware import Machine
from burnish.profile._probe import Capability, State

_SUFFIXES = {
    **dict.fromkeys(("fp32", "f32"), "float32"),
    **dict.fromkeys(("fp16", "f16"), "float16"),
    "bf16": "bfloat16",
    **dict.fromkeys(("i8", "u8", "int8"), "int8"),
}
_INTEGER_KERNELS = ("QGemm", "QLinear", "MatMulInteger", "DynamicQuantize")
_PRODUCTS = ("Gemm", "MatMul", "FusedMatMul", "FusedGemm", "FullyConnected", *_INTEGER_KERNELS)
_GAIN = 1.1  # a type that gains less than this is of no use
_ROUNDING = 0.1  # an answer further off than this was not merely rounded otherwise
_OUR_CASTS = 2  # of the bfloat16 graph: in front of the chain and behind it


def product_kernels(kinds: Sequence[str]) -> tuple[str, ...]:
    """Those of a runtime's kernels that multiply matrices, each once."""
    return tuple(dict.fromkeys(kind for kind in kinds if kind.startswith(_PRODUCTS)))


def computed_in(runtime: str, dtype: str, kinds: Sequence[str]) -> str | None:
    """The type a runtime computed products in, from the kinds of its kernels; None: untold.

    Args:
        runtime: its name.
        dtype: the type of the graph it was given.
        kinds: one entry for each kernel of a run.
    """
    if runtime == "eager":
        return dtype
    products = product_kernels(kinds)
    if not products:
        return None
    if runtime == "openvino":
        types = {_SUFFIXES.get(kind.rpartition("_")[2].lower()) for kind in products}
        return types.pop() if len(types) == 1 else None
    if runtime == "onnxruntime":
        integer = [kind.startswith(_INTEGER_KERNELS) for kind in products]
        if any(integer):
            return "int8" if all(integer) else None
        widened = sum(kind == "Cast" for kind in kinds) > _OUR_CASTS
        return "float32" if dtype == "int8" or widened else dtype
    return None


@dataclass(frozen=True)
class Ran:
    """What was seen of a graph that ran.

    `how` names the kernels; `computed` is the type they computed in (None where they do not tell
    it); `speed` the time of float32 over the time of this type (None where it was not measured);
    `error` how far the answer was from torch's, relative.
    """

    how: str
    computed: str | None
    speed: Ratio | None
    error: float


def judge(machine: Machine, runtime: str, dtype: str, ran: Ran) -> Capability:
    """The verdict on a graph that ran. See `Capability` for the states.

    `machine` is for the reason: what its instructions and masks explain. Noise that leaves open
    whether a type gains anything is no reason to call it emulated.
    """
    state: State = "native"
    reasons = []
    speed = None if dtype == "float32" else ran.speed
    if ran.computed is not None and ran.computed != dtype:
        state = "converted"
        reasons.append(f"computed in {ran.computed}: it chose no {dtype} kernel")
    elif speed is not None and speed.high < _GAIN:
        state = "emulated"
        reasons.append(f"no faster than float32: {_why_slow(machine, dtype)}")
    elif speed is not None and speed.low <= 1:
        reasons.append("the machine was too busy to tell whether it is faster than float32")
    elif ran.computed is None:
        reasons.append("the kernels' names do not tell the type; judged by speed alone")
    if ran.error > _ROUNDING:
        reasons.append(f"its answer is off by {ran.error:.0%} of the output{_why_off(dtype)}")
    value = ran.speed.value if ran.speed else None
    return Capability(runtime, dtype, state, ran.how, value, "; ".join(reasons) or None)


def refused(runtime: str, dtype: str, reason: str) -> Capability:
    """The verdict on a graph that did not run."""
    return Capability(runtime, dtype, "refused", "", None, reason)


def _why_off(dtype: str) -> str:
    if dtype != "int8":
        return ""
    return (
        ": sums of two products of 8 bits saturate in 16 (kernels without VNNI); quantize weights "
        "to half of their range and check for saturation"
    )


def _why_slow(machine: Machine, dtype: str) -> str:
    if not machine.isa:
        return "this system does not tell the processor's instructions"
    fast = machine.supports_bfloat16 if dtype == "bfloat16" else machine.supports_int8
    if not fast:
        return f"the processor has no instructions for products in {dtype}"
    if machine.masks:
        hidden = ", ".join(f"{name}={value}" for name, value in machine.masks.items())
        return f"the processor has the instructions, but {hidden} hides them"
    return "the processor has the instructions, but the runtime makes no use of them"
