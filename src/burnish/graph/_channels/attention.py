"""Attention in one operator, and the functions along an axis that mix all that stands on it.

Queries and keys meet in their width, keys and values in their positions, all three in their heads.
Where several heads of queries share one of keys (grouped-query attention), they go together.
"""

from __future__ import annotations

from torch import fx

from burnish.graph._channels.axis import ONE, Axis, Value, is_ids
from burnish.graph._channels.flow import Flow, argument, stretched
from burnish.graph._channels.layers import along


def attention(flow: Flow, node: fx.Node) -> Value:
    """query [..., heads, length, width], key and value [..., heads, positions, width]."""
    query, key, value = (flow.of(node.args[index]) for index in range(3))
    flow.couple(query[-1], key[-1])
    positions = along(flow, key[-2], value[-2])
    flow.keep(node, positions, "attention is spread over it")
    batch: list[Axis] = []
    for place in range(len(query) - 2):
        one, *others = (v[place] for v in (query, key, value))
        shared = place == len(query) - 3 and bool(argument(node, "enable_gqa"))
        for other in others:
            one = _sharing(flow, one, other) if shared else along(flow, one, other)
        batch.append(one)
    mask = argument(node, "attn_mask")
    if isinstance(mask, fx.Node):
        whole: Value = (*batch, query[-2], positions)
        for axis, theirs in zip(stretched(flow.of(mask), len(whole)), whole, strict=True):
            along(flow, axis, theirs)
    return (*batch, query[-2], value[-1])


def _sharing(flow: Flow, queries: Axis, heads: Axis) -> Axis:
    """Each head of keys with the heads of queries that read it."""
    if is_ids(queries) and is_ids(heads) and len(queries) != len(heads):
        flow.ledger.join(queries.reshape(len(heads), -1), heads[:, None])
        return queries
    if is_ids(queries) and heads is ONE:
        flow.ledger.join_rows(queries[None, :])
        return queries
    return along(flow, queries, heads)


def mixing(flow: Flow, node: fx.Node) -> Value:
    """softmax and its like: what stands on the axis is read together, the rest passes."""
    x = flow.of(node.args[0])
    axis = argument(node, "dim")
    assert isinstance(axis, int)
    flow.keep(node, x[axis], "all of it is mixed")
    return x
