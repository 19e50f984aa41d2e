"""Which operators may compute in float16 or bfloat16: knowledge about arithmetic, as data.

*Small* operators are what a cast is for: they hold the weights or do the products, and their
kernels add in float32 and round once. *Free* operators lose no more than the rounding of their
result and compute where that needs the fewest conversions. All others stay in float32: those that
add many terms, divide by a sum of squares or stretch a small error (the names below, each with its
reason), and those nobody has looked at.

The split is that of mixed-precision training (Micikevicius et al. 2018) and of torch's autocast
lists, except that free operators are placed by counting conversions instead of by "the widest
input wins", and that fused attention stays whole in float32: ONNX takes it apart, and its softmax
would be in the small type.

Left out: kernels that compute a whole normalisation on float16 with float32 inside (they would
save two conversions; no CPU runtime here has them).
"""

from __future__ import annotations

from burnish.quantize._graphs.policy import LOOKUPS, MOVES, RECTIFIERS, SMOOTH, WEIGHTED

SMALL = WEIGHTED | {
    "matmul",
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "einsum",
    "embedding",
}

FREE = (
    MOVES
    | RECTIFIERS
    | LOOKUPS
    | SMOOTH
    | {
        "abs",
        "add",
        "alias",
        "amax",
        "amin",
        "cat",
        "celu",
        "channel_shuffle",
        "clamp_max",
        "concat",
        "detach",
        "detach_",
        "div",
        "dropout",
        "expand_as",
        "flip",
        "gather",
        "glu",
        "hardtanh",
        "index",
        "index_select",
        "lift_fresh_copy",
        "masked_fill",
        "max_pool2d_with_indices",
        "maximum",
        "minimum",
        "mul",
        "neg",
        "pixel_unshuffle",
        "prelu",
        "repeat",
        "repeat_interleave",
        "reshape_as",
        "roll",
        "rsub",
        "selu",
        "stack",
        "sub",
        "tile",
        "upsample_bilinear2d",
        "view_as",
        "where",
    }
)

# Free where they add few terms, float32 where they add many.
AVERAGES = frozenset(
    {
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "mean",
        "sum",
    }
)
MOST_TERMS = 16

RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})

_NORMALISES = "normalisation: divides by a root of summed squares"
_SOFTMAX = "softmax: exponentials and their sum"
_STRETCHES = "stretches a relative error of its input"
_ADDS = "adds up along an axis"
_RECURRENT = "recurrent: every step's rounding would go into the next"

_REASONS = {
    _NORMALISES: "layer_norm native_layer_norm batch_norm group_norm native_group_norm "
    "instance_norm rms_norm local_response_norm norm linalg_vector_norm cosine_similarity "
    "_native_batch_norm_legit_no_training",
    _SOFTMAX: "softmax _softmax log_softmax _log_softmax",
    _STRETCHES: "exp expm1 exp2 log log1p log2 log10 pow rsqrt sqrt reciprocal square sin cos tan "
    "erf erfinv logit sinh cosh",
    _ADDS: "cumsum cumprod prod var std var_mean std_mean logsumexp logcumsumexp trace dist cdist",
    _RECURRENT: " ".join(sorted(RECURRENT)),
    "attention with its softmax inside": "scaled_dot_product_attention",
    "makes float32 by its own argument": "zeros ones full arange linspace eye empty scalar_tensor "
    "to _to_copy zeros_like ones_like full_like new_zeros new_ones new_full",
}
FLOAT32 = {name: reason for reason, names in _REASONS.items() for name in names.split()}
