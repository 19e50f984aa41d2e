"""LSTM, GRU and plain recurrent layers: hidden channels, in all gates, steps and directions.

A gate's rows are stacked in one weight [gates * hidden, in], so a hidden channel has a row in each
gate, a column in the weight of the step before, and a place in the state. All layers and directions
of one operator share the state's tensor [layers * directions, samples, hidden], and with it their
size: the same channels go from all of them. A projection (Sak et al., 2014) gives the outputs
channels of their own.

Left out: packed sequences.
"""

from __future__ import annotations

import numpy as np
from torch import fx

from burnish.graph._channels.axis import Axis, Ids, Opaque, Value, is_ids
from burnish.graph._channels.flow import Flow, argument, kind

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(flow: Flow, node: fx.Node) -> list[Value]:
    """Labels of the outputs [.., directions * out] and of the last states."""
    name = kind(node)
    two = bool(argument(node, "bidirectional"))
    directions = 2 if two else 1
    layers = int(argument(node, "num_layers"))
    tensors = list(argument(node, "params"))
    each = len(tensors) // (layers * directions)
    x = flow.of(node.args[0])
    hidden: list[Ids] = []
    outputs: list[Ids] = []
    read: Axis = x[-1]
    for layer in range(layers):
        ends = []
        for direction in range(directions):
            start = (layer * directions + direction) * each
            inner, end = _cell(flow, tensors[start : start + each], _GATES[name], read)
            hidden.append(inner)
            outputs.append(end)
            ends.append(end)
        read = np.concatenate(ends)
    state, out = _alike(flow, hidden), _alike(flow, outputs)
    flow.make(node, state)
    flow.make(node, out)
    given = argument(node, "hx")
    for tensor, ids in zip(given if name == "lstm" else [given], (out, state), strict=False):
        flow.couple(flow.of(tensor)[-1], ids)
    assert is_ids(read)
    plain = Opaque(f"it is an axis of the state of {flow.place(node)}")
    states = [(plain, plain, out), (plain, plain, state)][: len(node.meta["val"]) - 1]
    return [(*x[:-1], read), *states]


def _cell(flow: Flow, tensors: list[fx.Node], gates: int, read: Axis) -> tuple[Ids, Ids]:
    """One layer in one direction: its hidden channels, and its outputs."""
    projected = len(tensors) in (3, 5)
    own = [
        flow.weight(t, inputs=1, outputs=0) if len(flow.of(t)) == 2 else flow.of(t) for t in tensors
    ]
    rows = own[0][0]
    assert is_ids(rows)
    hidden = flow.ledger.join_rows(rows.reshape(gates, -1).T)
    for value in own[1 : -1 if projected else None]:
        other = value[0]
        assert is_ids(other)
        flow.ledger.join(other, rows)
    flow.couple(own[0][1], read)
    if not projected:
        flow.couple(own[1][1], hidden)
        return hidden, hidden
    end, inner = own[-1]
    flow.couple(inner, hidden)
    flow.couple(own[1][1], end)
    assert is_ids(end)
    return hidden, end


def _alike(flow: Flow, several: list[Ids]) -> Ids:
    """The same channels in all of them."""
    first, *others = several
    for other in others:
        flow.ledger.join(first, other)
    return first
