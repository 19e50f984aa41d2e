"""What each runtime's int8 kernels want: knowledge about runtimes, as data.

Where quantizers stand decides whether an operator runs in int8 at all, and placement alone was
seen to be worth a factor of two. A `Policy` says, for one runtime, which operators have int8
kernels, which activations its kernels swallow, whether an operator's output must be quantized for
the kernel to be chosen, and how a residual addition is best fed.

*onnxruntime* fuses DequantizeLinear → operator → QuantizeLinear into one kernel, so both sides need
their quantizers; a linear layer may hand out floats, unless a ReLU follows (which it would rather
fuse, in float). Its concatenation rescales, so its inputs keep their own scales.
*OpenVINO* propagates scales itself and fuses activations and the residual addition into the
convolution as float post-operations: a quantizer between the two would break the fusion, and signed
activations run fastest when symmetric. Its concatenation is int8 where all inputs have one scale
and no quantizer stands behind it.

What is said here was read off the runtimes' own counters (onnxruntime 1.31, OpenVINO 2026.4), and
the tests read it again.

Left out: GPUs and NPUs of either runtime (untried; they use their CPU's policy).
"""

from __future__ import annotations

from dataclasses import dataclass

from burnish.errors import InvalidInput

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
WEIGHTED = CONVOLUTIONS | TRANSPOSED | {"linear"}
POOLS = frozenset(
    {
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "mean",
    }
)
PRODUCTS = frozenset({"matmul", "bmm"})
ARITHMETIC = frozenset({"add", "add_", "mul", "mul_"})
MOVES = frozenset(
    {
        "reshape",
        "view",
        "flatten",
        "transpose",
        "swapaxes",
        "movedim",
        "t",
        "permute",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "clone",
        "slice",
        "select",
        "expand",
        "narrow",
        "chunk",
        "split",
        "split_with_sizes",
        "unbind",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "pad",
        "constant_pad_nd",
        "channel_shuffle",
        "pixel_shuffle",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "getitem",
    }
)
RECTIFIERS = frozenset(
    {"relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_", "clamp", "clamp_min"}
)
LOOKUPS = frozenset({"leaky_relu", "leaky_relu_", "sigmoid"})
SMOOTH = frozenset(
    {
        "silu",
        "silu_",
        "hardswish",
        "hardswish_",
        "gelu",
        "sigmoid",
        "hardsigmoid",
        "tanh",
        "elu",
        "leaky_relu",
        "leaky_relu_",
        "mish",
    }
)


@dataclass(frozen=True)
class Policy:
    """How one runtime wants its quantizers placed.

    `int8` names the operators with int8 kernels; `fused` the activations its kernels swallow;
    `outputs` says that a kernel is only chosen if its output is quantized too, and that this
    quantizer is what swallows an activation; `fused_add` that a convolution hands its float
    accumulators to the addition it alone feeds; `symmetric` that signed activations get zero point
    128; `restated` that quantizers stand again behind operators that only move data; `tied` that a
    concatenation wants one scale for all its inputs, and its output's; `scores` that attention's
    queries times keys is faster in int8.
    """

    runtime: str
    int8: frozenset[str]
    fused: frozenset[str]
    outputs: bool
    fused_add: bool
    symmetric: bool
    restated: bool
    tied: bool
    scores: bool


POLICIES = {
    policy.runtime: policy
    for policy in (
        Policy(
            runtime="onnxruntime",
            int8=CONVOLUTIONS | {"linear"} | PRODUCTS | ARITHMETIC | POOLS | LOOKUPS | {"cat"},
            fused=RECTIFIERS,
            outputs=True,
            fused_add=False,
            symmetric=False,
            restated=True,
            tied=False,
            # It fuses the scaling into the float product: 0.23 ms against 0.7 ms for product in
            # int8, scaling and quantizers (6 layers of MiniLM-L6, length 64, one thread).
            scores=False,
        ),
        Policy(
            runtime="openvino",
            int8=CONVOLUTIONS | TRANSPOSED | {"linear"} | PRODUCTS | ARITHMETIC | POOLS | {"cat"},
            fused=RECTIFIERS | SMOOTH,
            outputs=False,
            fused_add=True,
            symmetric=True,
            restated=False,
            tied=True,
            # Attention is one subgraph either way: 0.54 ms against 0.70 ms in float (as above).
            scores=True,
        ),
    )
}

REASONS = {
    "lstm": "recurrent",
    "gru": "recurrent: no runtime here has an int8 kernel for the GRU that torch computes",
    "rnn_tanh": "recurrent: a plain RNN has no int8 kernel",
    "rnn_relu": "recurrent: a plain RNN has no int8 kernel",
    "embedding": "a table look-up: nothing to compute in int8",
    "softmax": "too sensitive: stays float by default",
    "_softmax": "too sensitive: stays float by default",
    "log_softmax": "too sensitive: stays float by default",
    "layer_norm": "normalisation: stays float by default",
    "group_norm": "normalisation: stays float by default",
    "instance_norm": "normalisation: stays float by default",
    "rms_norm": "normalisation: stays float by default",
    "batch_norm": "batch-norm that no convolution could take in: stays float",
    "scaled_dot_product_attention": "attention with its softmax: stays float by default",
}


def policy_for(runtime: str) -> Policy:
    """The policy of a runtime. InvalidInput where it has no int8 kernels we know how to feed."""
    if runtime not in POLICIES:
        raise InvalidInput(
            f"no int8 placement for runtime {runtime!r}: one of {', '.join(sorted(POLICIES))}"
        )
    return POLICIES[runtime]
