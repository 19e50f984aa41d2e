"""Walking a graph from node to node: what stands there, what is held, what was written."""

from __future__ import annotations

import torch
from torch import fx, nn

from burnish.graph import Walk, operator, tensor_of, trace


class Net(nn.Module):
    """Two inputs; the first layer's result is read again behind the second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = self.first(x)
        w = self.second(torch.relu(z)) + y
        out: torch.Tensor = w + z
        return out


NET = Net().eval()
CALLS = [(torch.randn(3, 4), torch.randn(3, 4)), (torch.randn(5, 4), torch.randn(5, 4))]


def graph() -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    module = trace(NET, CALLS[0]).graph_module
    first, second = (n for n in module.graph.nodes if operator(n) == "linear")
    relu = next(n for n in module.graph.nodes if operator(n) == "relu")
    adds = [n for n in module.graph.nodes if operator(n) == "add"]
    return module, {"first": first, "relu": relu, "second": second, "add": adds[0], "out": adds[1]}


def test_it_shows_what_a_node_reads_and_gives() -> None:
    module, nodes = graph()
    walk = Walk(module, CALLS)
    walk.advance(nodes["second"])
    read = walk.inputs(nodes["second"])
    given = walk.after(nodes["out"])
    assert given is not None
    for (x, y), seen, out in zip(CALLS, read, given, strict=True):
        torch.testing.assert_close(seen, torch.relu(NET.first(x)))
        torch.testing.assert_close(out, NET(x, y))


def test_what_is_written_between_two_stops_counts_from_there_on() -> None:
    module, nodes = graph()
    walk = Walk(module, CALLS)
    walk.advance(nodes["second"])
    bias = tensor_of(module, nodes["second"].args[2])
    assert bias is not None
    with torch.no_grad():
        bias += 10.0
    given = walk.after(nodes["out"])
    assert given is not None
    torch.testing.assert_close(given[0], NET(*CALLS[0]) + 10.0)


def test_only_what_is_still_read_is_held() -> None:
    module, nodes = graph()
    walk = Walk(module, CALLS)
    assert walk.num_bytes() == 0
    walk.advance(nodes["second"])
    rows = 3 + 5
    assert walk.num_bytes() == 4 * 4 * rows * 3, "relu's result, z, and y"
    assert walk.after(nodes["add"]) is not None
    assert walk.after(nodes["relu"]) is None, "nobody reads it any more"


def test_stops_may_come_anywhere_even_among_the_inputs() -> None:
    module, nodes = graph()
    walk = Walk(module, CALLS)
    for node in module.graph.nodes:
        walk.advance(node)
    given = walk.after(nodes["out"])
    assert given is not None
    torch.testing.assert_close(given[1], NET(*CALLS[1]))


def test_what_is_put_off_is_computed_by_its_reader() -> None:
    module, nodes = graph()
    walk = Walk(module, CALLS, late=lambda node: operator(node) == "relu")
    walk.advance(nodes["second"])
    torch.testing.assert_close(walk.inputs(nodes["second"])[0], torch.relu(NET.first(CALLS[0][0])))
    assert walk.num_bytes() == 4 * 4 * (3 + 5) * 2, "z and y alone"
