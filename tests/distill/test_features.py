"""Signals on features: they grow adapters, teach, stay finite, and refuse what does not fit."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import pytest
import torch
from torch import nn

from burnish.distill._adapter import Adapter
from burnish.distill._attention import AttentionTransfer
from burnish.distill._contrast import CRD, Contrast
from burnish.distill._features import FeatureSignal, OneLayer
from burnish.distill._hints import Hint, hint_loss
from burnish.distill._relations import PKT, RKD, SimilarityPreserving
from burnish.distill._tap import Tap, tapped
from burnish.distill._variational import VID, Regressor
from burnish.errors import InvalidInput
from burnish.train import Moment, Schedule

TAP = Tap("layer")
NOW = Moment(progress=0.0, epoch=0, step=0, batch=0, draw=0)
SIGNALS: tuple[type[OneLayer], ...] = (
    Hint,
    AttentionTransfer,
    SimilarityPreserving,
    PKT,
    RKD,
    CRD,
    VID,
)
BY_POSITION = (Hint, AttentionTransfer, VID)
BY_SAMPLE = (SimilarityPreserving, PKT, RKD, CRD)


def build(signal: OneLayer, student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module | None:
    torch.manual_seed(0)
    return signal.build([torch.Size(student)], [torch.Size(teacher)])


def loss(
    signal: OneLayer, student: torch.Tensor, teacher: torch.Tensor, adapter: nn.Module | None
) -> torch.Tensor:
    return signal.loss([student], [teacher], adapter, None, NOW)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("student", "teacher", "layer"),
    [
        ((2, 3), (2, 5), nn.Linear),
        ((2, 3, 7), (2, 5, 7), nn.Linear),
        ((2, 3, 8, 8), (2, 5, 8, 8), nn.Conv2d),
        ((2, 3, 4, 8, 8), (2, 5, 4, 8, 8), nn.Conv3d),
    ],
    ids=["vector", "sequence", "map", "volume"],
)
def test_an_adapter_grows_where_the_widths_differ(
    student: tuple[int, ...], teacher: tuple[int, ...], layer: type[nn.Module]
) -> None:
    assert build(Hint(TAP), teacher, teacher) is None
    adapter = build(Hint(TAP), student, teacher)
    assert isinstance(adapter, Adapter)
    assert isinstance(adapter.project, layer)
    feature = random(*student)
    projected = adapter(feature)
    assert projected.shape == teacher
    weight = adapter.project.weight.flatten(1)  # type: ignore[operator]
    by_hand = torch.einsum("oi,ni...->no...", weight, feature)
    by_hand += adapter.project.bias.view(1, -1, *[1] * (len(student) - 2))  # type: ignore[operator]
    torch.testing.assert_close(projected, by_hand)
    wanted = hint_loss(projected, random(*teacher, seed=1))
    assert torch.equal(loss(Hint(TAP), feature, random(*teacher, seed=1), adapter), wanted)


def test_the_larger_map_is_averaged_down_axis_by_axis() -> None:
    student, teacher = random(2, 3, 8, 4), random(2, 3, 4, 8, seed=1)
    halves = student.unflatten(2, (4, 2)).mean(3), teacher.unflatten(3, (4, 2)).mean(4)
    wanted = hint_loss(*halves)
    assert build(Hint(TAP), (2, 3, 8, 4), (2, 3, 4, 8)) is None
    torch.testing.assert_close(loss(Hint(TAP), student, teacher, None), wanted)
    series = Hint(Tap("layer", channel_axis=1))
    got = loss(series, random(2, 3, 8), random(2, 3, 4, seed=1), None)
    halved = random(2, 3, 8).unflatten(2, (4, 2)).mean(3)
    torch.testing.assert_close(got, hint_loss(halved, random(2, 3, 4, seed=1)))


@pytest.mark.parametrize("kind", SIGNALS)
@pytest.mark.parametrize(
    ("student", "teacher"),
    [((8, 3), (8, 5)), ((8, 3, 6), (8, 5, 6)), ((8, 3, 6, 6), (8, 5, 3, 4))],
    ids=["vectors", "sequences", "maps"],
)
def test_every_signal_teaches(
    kind: type[OneLayer], student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    """Adam on the student's feature (and the adapter) lowers the loss on that batch."""
    signal = kind(TAP)
    if kind is AttentionTransfer and len(student) == 2:
        with pytest.raises(InvalidInput, match="has not two positions to attend to"):
            build(signal, student, teacher)
        return
    adapter = build(signal, student, teacher)
    if isinstance(adapter, Contrast):  # some negatives, which then stay as they are
        loss(signal, random(*student, seed=8), random(*teacher, seed=9), adapter)
        adapter.eval()
    feature, wanted = random(*student).requires_grad_(), random(*teacher, seed=1)
    learned = [feature, *(adapter.parameters() if adapter is not None else ())]
    optimizer = torch.optim.Adam(learned, lr=0.05)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        current = loss(signal, feature, wanted, adapter)
        assert current.shape == ()
        current.backward()
        optimizer.step()
        losses.append(current.item())
    assert losses[-1] < 0.75 * losses[0]


class Small(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layer(x).mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize("kind", SIGNALS)
def test_from_tap_to_gradient_between_networks(kind: type[OneLayer]) -> None:
    torch.manual_seed(0)
    student, teacher, x = Small(4), Small(6).eval(), random(4, 3, 8, 8)
    signal: FeatureSignal = kind(TAP)
    with torch.no_grad(), tapped(student, signal.taps, "student") as shapes:
        student(x)
    with torch.no_grad(), tapped(teacher, signal.taps, "teacher") as wanted:
        teacher(x)
    adapter = signal.build([shapes[TAP].shape], [wanted[TAP].shape])
    with tapped(student, signal.taps, "student") as features:
        student(x)
    signal.loss([features[TAP]], [wanted[TAP]], adapter, None, NOW).backward()
    gradient = student.layer[0].weight.grad
    assert isinstance(gradient, torch.Tensor)
    assert gradient.abs().max() > 0
    assert all(p.grad is None for p in [*teacher.parameters(), *student.head.parameters()])
    if adapter is not None:
        assert all(p.grad is not None for p in adapter.parameters())


@pytest.mark.parametrize("kind", SIGNALS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_half_precision_stays_finite(
    kind: type[OneLayer], dtype: torch.dtype, scale: float
) -> None:
    """Squares of 1e4 leave float16's range; zeros and equal samples have no direction."""
    signal, shape = kind(TAP), (6, 8, 4, 4)
    adapter = build(signal, shape, shape)
    feature = (random(*shape).clamp(-1, 1) * scale).to(dtype)
    feature[1] = feature[0]
    feature[2] = 0
    feature.requires_grad_()
    teacher = (random(*shape, seed=1) * scale).clamp(-1e4, 1e4).to(dtype)
    teacher[4] = 0
    result = loss(signal, feature, teacher, adapter)
    assert result.dtype == torch.float32
    assert result.isfinite()
    (result * signal.weight).backward()  # type: ignore[operator]
    assert feature.grad is not None
    assert feature.grad.dtype == dtype
    assert feature.grad.isfinite().all()
    if adapter is not None:
        assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.parameters())


def test_opposite_features_have_a_smallest_probability() -> None:
    """Of one number each, two features agree or are opposite: a similarity of exactly 0."""
    student = torch.tensor([[1.0], [-2.0], [3.0]], requires_grad=True)
    result = loss(PKT(TAP), student, torch.tensor([[1.0], [1.0], [-1.0]]), None)
    assert result.isfinite()
    assert result > 1
    result.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("kind", SIGNALS)
def test_autocast_changes_nothing(kind: type[OneLayer]) -> None:
    signal, shapes = kind(TAP), ((6, 8, 4, 4), (6, 5, 4, 4))
    adapter = build(signal, *shapes)
    student, teacher = random(*shapes[0]), random(*shapes[1], seed=1)
    wanted = loss(signal, student, teacher, copy.deepcopy(adapter))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(signal, student, teacher, adapter)
    assert torch.equal(got, wanted)


def test_the_variational_regressor_learns_which_channels_it_cannot_tell() -> None:
    torch.manual_seed(0)
    signal = VID(TAP)
    adapter = build(signal, (64, 4), (64, 2))
    assert isinstance(adapter, Regressor)
    student = random(64, 4)
    assert adapter(student)[1].tolist() == pytest.approx([5.0, 5.0])
    teacher = torch.stack([student[:, 0], 3 * random(64, seed=1)], dim=1)  # the second is noise
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss(signal, student, teacher, adapter).backward()
        optimizer.step()
    told, noise = adapter(student)[1].tolist()
    assert told < 0.1
    assert noise > 5.0


def test_contrast_remembers_while_it_trains_and_its_state_carries_on() -> None:
    signal = CRD(TAP, memory=5)
    adapter = build(signal, (3, 4), (3, 6))
    assert isinstance(adapter, Contrast)
    batches = [(random(3, 4, seed=s), random(3, 6, seed=s + 9)) for s in range(3)]
    for student, teacher in batches[:2]:
        loss(signal, student, teacher, adapter)
    assert int(adapter.num_written) == 6
    resumed = build(signal, (3, 4), (3, 6))
    assert resumed is not None
    resumed.load_state_dict(adapter.state_dict())
    first, again = (loss(signal, *batches[2], one) for one in (adapter, resumed))
    assert torch.equal(first, again)
    adapter.eval()
    before = adapter.student_memory.clone()
    loss(signal, *batches[0], adapter)
    assert torch.equal(adapter.student_memory, before)
    assert int(adapter.num_written) == 9
    lone = loss(signal, random(1, 4), random(1, 6, seed=9), adapter)
    assert lone.isfinite(), "a memory stands in for the rest of the batch"


def test_contrast_takes_a_batch_larger_than_its_memory() -> None:
    signal = CRD(TAP, memory=2)
    adapter = build(signal, (5, 4), (5, 6))
    assert isinstance(adapter, Contrast)
    student = random(5, 4)
    for _ in range(2):
        loss(signal, student, random(5, 6, seed=1), adapter)
    assert int(adapter.num_written) == 4, "two places were written more than once a batch"
    embedded = nn.functional.normalize(adapter.student(student))
    assert {tuple(row) for row in adapter.student_memory.tolist()} == {
        tuple(row) for row in embedded[-2:].tolist()
    }


def test_weights_may_be_schedules_and_names_tell_the_layers() -> None:
    fading = Hint(Tap("layer2", "layer3"), Schedule("linear"))
    assert fading.name == "hint layer2 from layer3"
    assert fading.taps == (Tap("layer2", "layer3"),)
    assert {kind(TAP).name for kind in SIGNALS} == {
        f"{kind} layer" for kind in ("hint", "attention", "similarity", "pkt", "rkd", "crd", "vid")
    }
    assert not any(kind(TAP).needs_labels for kind in SIGNALS)


def test_the_two_halves_of_rkd_are_weighed() -> None:
    student, teacher = random(5, 3), random(5, 4, seed=1)
    parts = [
        loss(RKD(TAP, distance=d, angle=a), student, teacher, None)
        for d, a in ((1, 0), (0, 1), (25, 50))
    ]
    torch.testing.assert_close(25 * parts[0] + 50 * parts[1], parts[2])
    with pytest.raises(InvalidInput, match="nothing is left of it; weigh one"):
        RKD(TAP, distance=0, angle=0)


@pytest.mark.parametrize("kind", BY_POSITION)
@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        ((2, 3, 4, 4), (2, 5, 7), "3 channels at 4x4 positions and the teacher's 5 channels at 7"),
        ((2, 3, 7), (2, 5, 9), "a sequence of 7 and the teacher's of 9, whose tokens do not"),
        ((2, 3, 2, 2, 2, 2), (2, 3, 2, 2, 2, 2), "equally many axes compare"),
    ],
)
def test_features_that_do_not_correspond_are_refused_before_and_during_training(
    kind: type[OneLayer], student: tuple[int, ...], teacher: tuple[int, ...], words: str
) -> None:
    signal = kind(TAP)
    with pytest.raises(InvalidInput, match=f"{signal.name}: .*{words}"):
        build(signal, student, teacher)
    adapter = build(signal, (2, 3, 4), (2, 5, 4))
    with pytest.raises(InvalidInput, match=f"{signal.name}: .*{words}"):
        loss(signal, random(*student), random(*teacher), adapter)


@pytest.mark.parametrize("kind", [Hint, VID])
def test_a_vector_and_a_map_are_refused(kind: type[OneLayer]) -> None:
    with pytest.raises(InvalidInput, match="layer: the student's feature has 3 channels alone"):
        build(kind(TAP), (2, 3), (2, 3, 4, 4))


@pytest.mark.parametrize("kind", BY_SAMPLE)
def test_relations_need_a_batch(kind: type[OneLayer]) -> None:
    signal = kind(TAP)
    adapter = build(signal, (2, 3), (2, 4))
    with pytest.raises(InvalidInput, match=rf"{signal.name}: a batch of 1 has no .*drop_last=True"):
        loss(signal, random(1, 3), random(1, 4), adapter)
    if kind is RKD:
        with pytest.raises(InvalidInput, match="a batch of 2 has no triple"):
            loss(signal, random(2, 3), random(2, 4), adapter)
        assert loss(RKD(TAP, angle=0), random(2, 3), random(2, 4), adapter) >= 0


@pytest.mark.parametrize("kind", [AttentionTransfer, *BY_SAMPLE])
def test_batches_of_two_sizes_are_refused(kind: type[OneLayer]) -> None:
    signal = kind(TAP)
    adapter = build(signal, (4, 3, 2, 2), (4, 3, 2, 2))
    words = rf"{signal.name}: 4 samples in the student's feature \[4, 3.*\] and 5 in"
    with pytest.raises(InvalidInput, match=words):
        loss(signal, random(4, 3, 2, 2), random(5, 3, 2, 2), adapter)


@pytest.mark.parametrize("kind", [Hint, VID])
def test_two_batch_sizes_show_in_the_shapes(kind: type[OneLayer]) -> None:
    signal = kind(TAP)
    adapter = build(signal, (4, 3), (4, 3))
    with pytest.raises(InvalidInput, match=rf"{signal.name}: the .* is \[4, 3\] .*\[5, 3\]"):
        loss(signal, random(4, 3), random(5, 3), adapter)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Hint(cast(Any, "layer2")), r"Hint\('layer2'\): give a Tap, as Hint\(Tap\('layer3"),
        (lambda: PKT(TAP, weight=-1.0), r"PKT\(weight=-1.0\): a finite number 0 or more"),
        (lambda: VID(TAP, weight=math.nan), r"VID\(weight=nan\): a finite"),
        (lambda: RKD(TAP, distance=-1), r"RKD\(distance=-1\): a finite number 0 or more"),
        (lambda: RKD(TAP, angle=math.inf), r"RKD\(angle=inf\): a finite"),
        (lambda: CRD(TAP, memory=0), r"CRD\(memory=0\): a number of embeddings, 1 or more"),
        (lambda: CRD(TAP, temperature=0), r"CRD\(temperature=0\): a finite number above 0"),
    ],
)
def test_settings_out_of_range_are_named(make: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        make()
