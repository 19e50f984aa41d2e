"""Casting: how exact it is, what keeps float32 and why, what is stored, what is refused."""

from __future__ import annotations

import functools
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.errors import InvalidInput, NoEffect, Unsupported
from burnish.goal import Goal, Inputs, Target, Task
from burnish.graph import Traced, flatten, flatten_call, operator, operator_names
from burnish.metrics import top1
from burnish.quantize import Cast, cast, coverage, quantize_static
from burnish.testing import Tiny, catalogue
from tests import once
from tests.quantize.quick import folded

TO = torch.ops.aten._to_copy.default
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
FEW = ("separable", "encoder", "attention_split", "gru", "nested_output", "tied_weights")
TINIES = [
    pytest.param(tiny, id=tiny.name, marks=() if tiny.name in FEW else pytest.mark.slow)
    for tiny in catalogue()
]


def cast_of(model: nn.Module, *calls: torch.Tensor, dtype: str = "float16", **settings):
    """The cast graph, its choices and its reasons by operator."""
    step = Cast(dtype, **settings)
    plain = folded(model, calls[0])
    choices = step.choose_from(plain, [(call,) for call in calls])
    result = step.rewrite(plain, choices)
    assert isinstance(result, Traced)
    return result, choices, {row.operator: (row.state, row.reason) for row in coverage(choices)}


@functools.cache
def cast_tiny(tiny: Tiny, dtype: str) -> tuple[Traced, Traced]:
    calls = [tiny.inputs(4, seed=seed) for seed in range(2)]
    flat = [flatten_call(call.args, call.kwargs) for call in calls]
    plain = once.folded(tiny)
    result = Cast(dtype).rewrite(plain, Cast(dtype).choose_from(plain, flat))
    assert isinstance(result, Traced)
    return plain, result


def exact(tiny: Tiny, inputs: Inputs) -> list[torch.Tensor]:
    """The outputs of the user's model in float64."""

    def wide(value: torch.Tensor) -> torch.Tensor:
        return value.double() if value.is_floating_point() else value

    model = tiny.build().double()
    args = tuple(wide(value) for value in inputs.args)
    kwargs = {name: wide(value) for name, value in inputs.kwargs.items()}
    with torch.no_grad():
        return flatten(model(*args, **kwargs))[0]


def num_bytes(model: Traced) -> int:
    return sum(t.nbytes for t in {id(t): t for t in model.state_dict().values()}.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tiny", TINIES)
def test_errs_by_the_type_s_epsilon_and_halves_what_is_stored(tiny: Tiny, dtype: str) -> None:
    """Against float64: independent rounding errors add up like the root of their number."""
    before, after = cast_tiny(tiny, dtype)
    layers = sum(
        operator(n) in ("conv2d", "linear", "matmul") for n in operator_names(before.graph_module)
    )
    bound = torch.finfo(DTYPES[dtype]).eps * max(1.0, layers) ** 0.5
    inputs = tiny.inputs(4, seed=9)
    outputs = flatten(tiny.call(after, inputs))[0]
    for given, wanted in zip(outputs, exact(tiny, inputs), strict=True):
        assert given.dtype == torch.float32
        assert float((given.double() - wanted).abs().max() / wanted.abs().max()) < bound
    assert num_bytes(after) <= 0.52 * num_bytes(before)


@pytest.mark.parametrize("tiny", TINIES)
def test_places_as_many_conversions_as_the_plan_says_and_none_behind_another(tiny: Tiny) -> None:
    graph = cast_tiny(tiny, "float16")[1].graph_module.graph
    conversions = [node for node in graph.nodes if node.target is TO]
    assert not any(node.args[0].target is TO for node in conversions)
    assert max(Counter(node.args[0] for node in conversions).values()) == 1


class Overflow(nn.Module):
    """Values of 10^6 in the middle, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.wide, self.down = (nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 3)
        with torch.no_grad():
            self.wide.weight.mul_(1e6)
            self.down.weight.mul_(1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(torch.tanh(self.down(F.relu(self.wide(self.up(x))))))
        return y


def test_what_leaves_the_range_stays_in_float32_and_finite() -> None:
    torch.manual_seed(0)
    model, x = Overflow().eval(), torch.randn(16, 8)
    naive = model(x).detach()
    assert not torch.isfinite(Overflow().half().wide(torch.full((1, 8), 9.0).half())).all()
    result, _, table = cast_of(model, x)
    assert table["up:linear"][0] == "float16"
    assert table["wide:linear"][0] == "float32"
    reason = table["wide:linear"][1]
    assert reason == "its values reach 7.38e+05 in calibration, float16 ends at 65504"
    assert table["relu"] == ("float32", table["relu"][1])
    assert table["down:linear"][1].startswith("what it reads (relu)")
    assert table["head:linear"][0] == "float16"
    with torch.no_grad():
        given = result(x)
    assert torch.isfinite(given).all()
    torch.testing.assert_close(given, naive, rtol=0.0, atol=4 * 2**-10 * float(naive.abs().max()))
    assert cast_of(model, x, dtype="bfloat16")[2]["wide:linear"][0] == "bfloat16"


class Masked(nn.Module):
    """Scores with a mask of `fill`."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.fill = fill
        self.embed, self.head = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.embed(x)
        y: torch.Tensor = self.head(scores.masked_fill(x < 0, self.fill).softmax(-1))
        return y


@pytest.mark.parametrize(
    ("fill", "state"),
    [
        (float("-inf"), "float16"),
        (-1e4, "float16"),
        (torch.finfo(torch.float32).min, "float32"),
    ],
)
def test_masks_keep_their_meaning(fill: float, state: str) -> None:
    """Minus infinity is float16's too; the least float32 is not, and would become it."""
    torch.manual_seed(1)
    model, x = Masked(fill).eval(), torch.randn(8, 6)
    x[:, 0] = 1.0
    result, _, table = cast_of(model, x)
    assert table["masked_fill"][0] == state
    if state == "float32":
        assert table["masked_fill"][1].startswith("its values reach 3.4e+38")
    with torch.no_grad():
        torch.testing.assert_close(result(x), model(x), rtol=0.0, atol=2e-3)


def test_a_row_that_is_masked_whole_stays_finite() -> None:
    """In float16 the mask would be minus infinity, and its softmax not a number."""
    model, x = Masked(torch.finfo(torch.float32).min).eval(), torch.full((4, 6), -1.0)
    with torch.no_grad():
        assert torch.isfinite(cast_of(model, x)[0](x)).all()


class Constants(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = F.linear(x, self.weight) + 1e-9
        return y / (x.abs() + 1e-5) * 1e5

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4) * 0.3)


def test_constants_without_a_place_are_named() -> None:
    table = cast_of(Constants().eval(), torch.rand(4, 4) + 0.5)[2]
    assert table["add"] == ("float32", "its constant 1e-09 is 0 in float16")
    assert table["add#2"] == ("float32", "its constant 1e-05 has few digits in float16")
    assert table["mul"][1] == "its constant 1e+05 is beyond float16, which ends at 65504"


def test_weights_that_have_no_place_are_named() -> None:
    """Too large; so small that their digits go; and dead channels, which do not matter."""
    layers = [nn.Linear(4, 4) for _ in range(4)]
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.eye(4) * 0.5)
            layer.bias.zero_()
        layers[0].weight[0, 1] = 1e5
        layers[1].weight.mul_(4e-6)
        layers[2].weight.mul_(2e5)
        layers[3].weight[2] = 1e-9
    x = torch.ones(8, 4) * 100
    x[:, 1] = 1e-3
    table = cast_of(model, x)[2]
    assert table["0:linear"][1] == "its weights reach 1e+05, float16 ends at 65504"
    assert "subnormals of float16" in table["1:linear"][1]
    assert table["3:linear"][0] == "float16"


def test_kept_operators_stay_and_a_name_that_matches_nothing_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    result, _, table = cast_of(model, torch.randn(4, 4), keep=("2",))
    assert table["2:linear"] == ("float32", "kept in float32, as asked")
    kinds = Counter(str(t.dtype) for t in result.state_dict().values())
    assert kinds == {"torch.float16": 2, "torch.float32": 2}
    with pytest.raises(InvalidInput, match="keep='nothing' matches nothing"):
        cast_of(model, torch.randn(4, 4), keep=("nothing",))
    with pytest.raises(InvalidInput, match=r"keep='2'.*tuple"):
        Cast(keep="2")  # type: ignore[arg-type]


def test_tied_weights_stay_one_tensor() -> None:
    tiny = next(t for t in catalogue() if t.name == "tied_weights")
    after = cast_tiny(tiny, "float16")[1]
    shapes = Counter(tuple(t.shape) for t in after.state_dict().values())
    assert shapes[40, 12] == 1


def test_sums_of_many_terms_and_normalisations_stay() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.AvgPool2d(2), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1)
    )
    table = cast_of(model.eval(), torch.randn(2, 3, 16, 16))[2]
    assert table["1:avg_pool2d"][0] == "float16"
    assert table["2:group_norm"][1].startswith("normalisation")
    assert table["3:adaptive_avg_pool2d"][1] == "adds up 64 terms"


def test_an_operator_nobody_knows_is_left_and_said() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = torch.special.i1e(self.layer(x))
            return y

    table = cast_of(Odd(), torch.randn(4, 4))[2]
    assert table["special_i1e"] == ("float32", "no rule says that special_i1e is safe in float16")


def test_what_cannot_be_cast_is_refused() -> None:
    model, data = nn.Sequential(nn.Linear(4, 4)).eval(), [torch.randn(8, 4)]
    with pytest.raises(InvalidInput, match=r"Cast\(dtype='int8'\)"):
        cast(model, "int8", data)
    with pytest.raises(InvalidInput, match="quantized already"):
        cast(quantize_static(model, data), "float16", data)
    with pytest.raises(InvalidInput, match="holds float16 already"):
        cast(cast(model, "float16", data), "float16", data)
    with pytest.raises(InvalidInput, match="calibration data is empty"):
        cast(model, "float16", [])
    with pytest.raises(InvalidInput, match="holds NaN or infinity"):
        cast(model, "float16", [*data, torch.full((8, 4), float("inf"))])
    with pytest.raises(NoEffect, match="nothing can be stored or computed in float16"):
        cast(nn.LayerNorm(4).eval(), "float16", data)


def test_writing_into_what_others_see_is_refused_by_name() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(x)
            y[:, 0] = 1.0
            return y

    with pytest.raises(Unsupported, match=r"Cast: \S*(fill|copy)_\S* writes into a tensor"):
        cast(Writes().eval(), "float16", [torch.randn(4, 4)])


def test_a_target_that_cannot_load_the_type_is_refused_before_any_work() -> None:
    def never() -> torch.Tensor:
        raise AssertionError("calibration was read")

    class Never(list):
        def __iter__(self):
            never()
            return iter(())

    task = Task(inputs=Inputs(torch.randn(2, 4)), metric=top1, calibration=Never())
    goal = Goal(task, Target(runtimes=("onnxruntime",)))
    with pytest.raises(Unsupported, match="onnxruntime cannot load a bfloat16 graph"):
        Cast("bfloat16").choose(nn.Linear(4, 4).eval(), goal)


def test_a_plan_of_another_model_is_refused() -> None:
    plain = folded(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4))
    choices = Cast().choose_from(plain, [(torch.randn(2, 4),)])
    other = folded(nn.Sequential(nn.Conv1d(4, 4, 1)), torch.randn(2, 4, 4))
    with pytest.raises(InvalidInput, match="belongs to another model"):
        Cast().rewrite(other, choices)
