"""Tracing, the quantize and dequantize operators, and editing of exported graphs."""

from __future__ import annotations

from burnish.graph._block_ops import DEQUANTIZE_BLOCKS
from burnish.graph._call import describe_call, flatten_call
from burnish.graph._channels.flow import source_line
from burnish.graph._channels.groups import ChannelGroup, Channels, Member, channel_groups
from burnish.graph._channels.mask import mask_channels
from burnish.graph._channels.shrink import shrink_channels
from burnish.graph._dynamic_ops import (
    DYNAMIC,
    DYNAMIC_CONV,
    DYNAMIC_LINEAR,
    DYNAMIC_LSTM,
    LOOKUP,
    STATIC_LSTM,
    STORED_GRU,
)
from burnish.graph._edit import (
    add_tensor,
    finish,
    fold_batch_norm,
    operator,
    operator_names,
    scale_outputs,
    set_weight,
    tensor_of,
)
from burnish.graph._fake_quantize import (
    FAKE,
    FAKE_BIAS,
    FAKE_QUANTIZE,
    LEARNED_SCALE,
    OBSERVED_SCALE,
    PROGRESS,
    set_progress,
)
from burnish.graph._inverse_factor import inverse_factor
from burnish.graph._matching import matching
from burnish.graph._mode import set_mode
from burnish.graph._ops import DEQUANTIZE, PER_TENSOR, QUANTIZE
from burnish.graph._patches import Window, num_patches, patches, window_of
from burnish.graph._trace import Slot, Traced, retrace, trace
from burnish.graph._tree import Record, flatten, unflatten
from burnish.graph._walk import Walk

__all__ = [
    "DEQUANTIZE",
    "DEQUANTIZE_BLOCKS",
    "DYNAMIC",
    "DYNAMIC_CONV",
    "DYNAMIC_LINEAR",
    "DYNAMIC_LSTM",
    "FAKE",
    "FAKE_BIAS",
    "FAKE_QUANTIZE",
    "LEARNED_SCALE",
    "LOOKUP",
    "OBSERVED_SCALE",
    "PER_TENSOR",
    "PROGRESS",
    "QUANTIZE",
    "STATIC_LSTM",
    "STORED_GRU",
    "ChannelGroup",
    "Channels",
    "Member",
    "Record",
    "Slot",
    "Traced",
    "Walk",
    "Window",
    "add_tensor",
    "channel_groups",
    "describe_call",
    "finish",
    "flatten",
    "flatten_call",
    "fold_batch_norm",
    "inverse_factor",
    "mask_channels",
    "matching",
    "num_patches",
    "operator",
    "operator_names",
    "patches",
    "retrace",
    "scale_outputs",
    "set_mode",
    "set_progress",
    "set_weight",
    "shrink_channels",
    "source_line",
    "tensor_of",
    "trace",
    "unflatten",
    "window_of",
]
