"""einsum: axes that share a letter meet; a letter that does not come out is summed over."""

from __future__ import annotations

from torch import fx

from burnish.graph._channels.axis import ONE, Axis, Value
from burnish.graph._channels.flow import Flow
from burnish.graph._channels.layers import along


def letters(node: fx.Node) -> tuple[list[str], str, list[fx.Node]] | None:
    """The letters of each operand and of the result; None where the equation holds dots."""
    equation, operands = node.args[0], node.args[1]
    assert isinstance(equation, str) and isinstance(operands, list | tuple)
    left, arrow, right = equation.replace(" ", "").partition("->")
    if "." in equation:
        return None
    terms = left.split(",")
    if not arrow:
        joined = "".join(terms)
        right = "".join(sorted(letter for letter in set(joined) if joined.count(letter) == 1))
    return terms, right, [operand for operand in operands if isinstance(operand, fx.Node)]


def einsum(flow: Flow, node: fx.Node) -> Value | None:
    """Labels of the result; None where the equation is not understood."""
    known = letters(node)
    if known is None:
        return None
    terms, result, operands = known
    found: dict[str, Axis] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, axis in zip(term, flow.of(operand), strict=True):
            found[letter] = along(flow, found.get(letter, ONE), axis)
    for operand, term in zip(operands, terms, strict=True):
        if operand.op == "get_attr":
            for place, letter in enumerate(term):
                if letter in result:
                    flow.make(node, flow.of(operand)[place])
    return tuple(found[letter] for letter in result)


def summed(node: fx.Node) -> list[tuple[fx.Node, int]]:
    """The operands and axes that are summed over."""
    known = letters(node)
    if known is None:
        return []
    terms, result, operands = known
    return [
        (operand, place)
        for term, operand in zip(terms, operands, strict=True)
        for place, letter in enumerate(term)
        if letter not in result
    ]
