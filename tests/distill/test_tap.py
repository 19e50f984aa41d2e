"""Taps find layers behind wrappers, record what those gave and nothing else, or say why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from burnish.distill._tap import Tap, tapped
from burnish.errors import InvalidInput, Unsupported
from burnish.graph import trace

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())
        self.head = nn.Linear(6, 2)
        self.spare = nn.Linear(6, 2).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2(self.layer1(x))
        logits: torch.Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


TAPS = (Tap("layer1"), Tap("layer2.0", "layer1.0"))


def test_it_records_what_the_layers_gave_while_used_and_leaves_nothing_behind() -> None:
    model = net()
    with tapped(model, TAPS, "student") as seen:
        assert hooks(model) == 2
        output = model(X)
    assert hooks(model) == 0
    assert torch.equal(output, model(X))
    assert list(seen) == list(TAPS)
    assert torch.equal(seen[TAPS[0]], model.layer1(X))
    assert torch.equal(seen[TAPS[1]], model.layer2[0](model.layer1(X)))
    with tapped(model, TAPS, "teacher") as seen, torch.no_grad():
        model(X)
    assert torch.equal(seen[TAPS[1]], model.layer1[0](X)), "the teacher's name was not used"


def test_gradients_flow_through_what_was_recorded() -> None:
    model = net()
    with tapped(model, TAPS, "student") as seen:
        model(X)
    seen[TAPS[1]].square().mean().backward()
    assert model.layer1[0].weight.grad is not None
    assert model.head.weight.grad is None


def test_hooks_go_when_the_model_fails() -> None:
    model = net()
    with pytest.raises(RuntimeError, match="expected input"), tapped(model, TAPS, "student"):
        model(X[:, :1])
    assert hooks(model) == 0


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    destroy_process_group()


def assert_taps_see_through(wrapped: Any, calls: int = 2) -> None:
    model = net()
    wanted = model.layer2[0](model.layer1(X))
    for _ in range(calls):
        with tapped(wrapped, TAPS, "student") as seen:
            output = wrapped(X)
        torch.testing.assert_close(seen[TAPS[1]], wanted)
        torch.testing.assert_close(output, model(X))
    (output.sum() + seen[TAPS[1]].sum()).backward()


def parallel(model: Any) -> Any:
    return DistributedDataParallel(model)


@pytest.mark.usefixtures("one_process")
def test_behind_data_parallel() -> None:
    wrapped = parallel(net())
    assert_taps_see_through(wrapped)
    assert_taps_see_through(wrapped)  # its gradients were complete, or it would refuse


class Counted:
    """A backend of torch.compile that runs the graph as it is and counts its calls."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, graph: Any, example: Any) -> Any:
        def run(*args: Any) -> Any:
            self.runs += 1
            return graph.forward(*args)

        return run


# torch.compile looks at .grad of what it is given, and warns itself where that is no leaf (2.13).
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("how", ["whole", "in place", "a part"])
@pytest.mark.parametrize("before", [False, True], ids=["fresh", "after a call"])
def test_behind_compile(how: str, before: bool) -> None:
    """The hooks of a compiled model that ran before would be passed over without a word."""
    model, backend = net(), Counted()
    wrapped: Any = model
    if how == "whole":
        wrapped = torch.compile(model, backend=backend)
    elif how == "in place":
        model.compile(backend=backend)
    else:
        model.layer2 = torch.compile(model.layer2, backend=backend)  # type: ignore[assignment]
    if before:
        wrapped(X)
        assert backend.runs == 1
    runs = backend.runs
    assert_taps_see_through(wrapped)
    assert backend.runs == runs, "it ran compiled, so that hooks may be missed"
    wrapped(X)
    assert backend.runs == runs + 1, "it stayed uncompiled"


@pytest.mark.usefixtures("one_process")
def test_behind_both() -> None:
    assert_taps_see_through(torch.compile(parallel(net()), backend="eager"))
    assert_taps_see_through(parallel(torch.compile(net(), backend="eager")))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("layr2", "the student has no layer 'layr2'; near are 'layer2', .*'layer1'"),
        ("module.layer2", "no layer 'module.layer2'; near are .*'layer2'"),
        ("0", r"no layer '0'; near are 'layer1\.0', 'layer2\.0'"),
        ("encoder", "no layer 'encoder'; its layers are 'layer1', 'layer2', 'head', 'spare'"),
    ],
)
def test_a_name_that_is_no_layer_lists_near_ones(name: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words), tapped(net(), [Tap(name)], "student"):
        pass


def test_the_side_is_named() -> None:
    tap = Tap("layer1", "nowhere")
    with pytest.raises(InvalidInput, match="the teacher has no layer 'nowhere'"):  # noqa: SIM117
        with tapped(net(), [tap], "teacher"):
            pass
    assert str(tap) == "layer1 from nowhere"
    assert str(Tap("layer1", "layer1")) == str(Tap("layer1")) == "layer1"


def record(model: nn.Module, tap: Tap, *args: Any, side: Any = "student") -> torch.Tensor:
    with tapped(model, [tap], side) as seen:
        model(*args)
    return seen[tap]


def test_a_layer_that_does_not_run_or_runs_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="layer 'spare' of the student did not run in one call"):
        record(net(), Tap("spare"), X)
    relu = nn.ReLU()
    twice = nn.Sequential(nn.Conv2d(3, 3, 1), relu, nn.Conv2d(3, 3, 1), relu)
    for name in ("1", "3"):
        with pytest.raises(InvalidInput, match=f"layer '{name}' of the student ran 2 times"):
            record(twice, Tap(name), X)


def test_an_output_that_is_changed_in_place_afterwards_is_refused() -> None:
    """The tensor that was recorded would hold what the next layer made of it."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
    with pytest.raises(InvalidInput, match=r"layer '1' of the student was changed in place .*ReLU"):
        record(model, Tap("1"), X)
    for grad in (torch.no_grad, torch.inference_mode):
        with grad():
            assert (record(model, Tap("2"), X) >= 0).all()
    with torch.no_grad(), pytest.raises(InvalidInput, match="of the teacher was changed in place"):
        record(model, Tap("1"), X, side="teacher")


def test_a_student_s_layer_that_cannot_learn_is_refused() -> None:
    model = net()
    model.layer1.requires_grad_(False)
    with pytest.raises(InvalidInput, match=r"'layer1' of the student gives nothing that takes a"):
        record(model, Tap("layer1"), X)
    assert record(model, Tap("layer2"), X).requires_grad
    assert not record(model, Tap("layer1"), X, side="teacher").requires_grad
    with torch.no_grad():
        record(model, Tap("layer1"), X)


def test_a_traced_model_is_refused() -> None:
    traced = trace(net().eval(), (X,))
    with tapped(traced, (), "student") as seen:
        traced(X)
    assert not seen, "without taps any model will do"
    with pytest.raises(Unsupported, match="the student is a traced graph, which runs no layers"):
        record(traced, Tap("layer1"), X)


class Returns(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.give = Give(make)

    def forward(self, x: torch.Tensor) -> Any:
        return self.give(x)


class Give(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(x)


def test_the_first_of_a_tuple_is_taken_and_nothing_is_guessed_beyond() -> None:
    assert torch.equal(record(Returns(lambda x: (x, "state")), Tap("give"), X, side="teacher"), X)
    for make, words in (
        (lambda x: {"hidden": x}, "gives a dict, not a floating tensor"),
        (lambda x: x.argmax(1), r"gives a torch\.int64 tensor, not a floating tensor"),
        (lambda x: (), "gives a tuple, not a floating"),
        (lambda x: x.mean(dim=(1, 2, 3)), r"\[2\] has no samples along axis 0 and channels along"),
    ):
        with pytest.raises(InvalidInput, match=f"layer 'give' of the teacher.*{words}"):
            record(Returns(make), Tap("give"), X, side="teacher")


@pytest.mark.parametrize(
    ("tap", "shape", "laid_out"),
    [
        (Tap("give"), (2, 5), (2, 5)),
        (Tap("give"), (2, 7, 5), (2, 5, 7)),
        (Tap("give"), (2, 5, 8, 9), (2, 5, 8, 9)),
        (Tap("give", batch_axis=1), (7, 2, 5), (2, 5, 7)),
        (Tap("give", channel_axis=1), (2, 5, 7), (2, 5, 7)),
        (Tap("give", channel_axis=-1), (2, 8, 9, 5), (2, 5, 8, 9)),
    ],
)
def test_features_are_laid_out_samples_channels_positions(
    tap: Tap, shape: tuple[int, ...], laid_out: tuple[int, ...]
) -> None:
    seen = record(Returns(lambda x: torch.zeros(shape)), tap, X, side="teacher")
    assert seen.shape == laid_out


@pytest.mark.parametrize(
    ("tap", "shape"),
    [
        (Tap("give", batch_axis=-1), (2, 7, 5)),
        (Tap("give", batch_axis=1), (2, 5)),
        (Tap("give", channel_axis=4), (2, 5, 8, 9)),
        (Tap("give", batch_axis=1, channel_axis=-3), (2, 5, 8, 9)),
    ],
)
def test_axes_that_do_not_exist_or_are_one_are_refused(tap: Tap, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=r"'give' of the teacher: its output .* has no samples"):
        record(Returns(lambda x: torch.zeros(shape)), tap, X, side="teacher")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_layer_gives_its_sequence_and_time_first_must_be_said(kind: Any) -> None:
    sequence = torch.randn(7, 2, 3)
    model = nn.Sequential(kind(3, 5))
    with pytest.raises(InvalidInput, match=r"samples along axis 1 \(batch_first=False\)"):
        record(model, Tap("0"), sequence)
    seen = record(model, Tap("0", batch_axis=1), sequence)
    assert torch.equal(seen, model[0](sequence)[0].permute(1, 2, 0))
    batch_first = nn.Sequential(kind(3, 5, batch_first=True))
    assert record(batch_first, Tap("0"), sequence).shape == (7, 5, 2)


@pytest.mark.parametrize("names", [("",), ("layer1", ""), (3,)])
def test_a_tap_names_layers(names: Any) -> None:
    with pytest.raises(InvalidInput, match="give its dotted name"):
        Tap(*names)
