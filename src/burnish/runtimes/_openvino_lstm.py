"""Integers for OpenVINO's LSTM kernel.

The converter reorders an LSTM's gates, and what it folds on the way are floats. Here the weights of
an LSTM between quantizers become int8 constants again, in the one form in which the CPU plugin
(2026.4) takes them: a constant, converted, times a scale. They lie on the grid of a single scale
for both matrices, whose largest integer is 127, so that the largest value tells the scale.

One scale, because the plugin reorders the gates' weights for its kernel and leaves scales per row
in the old order, and because the kernel scales both matrices by the input matrix's: with a scale
for each, or for each row, outputs were off by up to 0.3 (seen, on random weights). And one zero
point, 128, for input and hidden state: 0 gives wrong numbers.

Left out: GRU. The kernel with int8 has no form with the reset gate behind the product, which is
torch's; asking for it fails when the model is compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_W, _R = 4, 5


def store_lstm_weights(model: Any) -> int:
    """Make int8 constants of the weights of LSTMs between quantizers. Returns how many."""
    from openvino import opset13 as ops

    changed = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "LSTMSequence":
            continue
        matrices = [_constant(node.input_value(index)) for index in (_W, _R)]
        if not _is_quantized(node.input_value(0)) or any(m is None for m in matrices):
            continue
        scale = np.float32(max(np.abs(matrix).max() for matrix in matrices) / 127)
        for index, matrix in zip((_W, _R), matrices, strict=True):
            integers = np.round(matrix / scale)
            assert np.allclose(integers * scale, matrix, rtol=1e-4, atol=1e-3 * scale)
            stored = ops.convert(ops.constant(integers.astype(np.int8)), np.float32)
            scales = np.full((1, matrix.shape[1], 1), scale)
            product = ops.multiply(stored, ops.constant(scales))
            node.input(index).replace_source_output(product.output(0))
        changed += 1
    if changed:
        model.validate_nodes_and_infer_types()
    return changed


def _constant(output: Any) -> Any:
    """The value of an output that no input of the model reaches; None for any other."""
    from openvino import Tensor

    node = output.get_node()
    if node.get_type_name() == "Constant":
        return node.get_data()
    if node.get_type_name() == "Parameter":
        return None
    inputs = [_constant(source) for source in node.input_values()]
    if not inputs or any(value is None for value in inputs):
        return None
    tensors = [Tensor(np.array(value, order="C")) for value in inputs]
    results = [Tensor(o.get_element_type(), o.get_shape()) for o in node.outputs()]
    assert node.evaluate(results, tensors), f"{node.get_type_name()} cannot be evaluated"
    return results[output.get_index()].data.copy()


def _is_quantized(output: Any) -> bool:
    """Whether a FakeQuantize gives the value, moved about or not."""
    node = output.get_node()
    while node.get_type_name() in ("Transpose", "Reshape", "Squeeze", "Unsqueeze"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "FakeQuantize")
