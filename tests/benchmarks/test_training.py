"""The parts of the benchmarks that train: their data, their turns, what they claim of scores."""

from __future__ import annotations

import random
import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from burnish import Inputs, Task
from burnish.errors import BurnishError
from burnish.metrics import top1

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


def _shuffled(load: Any, num: int, size: int, seed: int, **settings: Any) -> Any:
    def take(indices: torch.Tensor, generator: torch.Generator) -> Any:
        return indices, torch.rand(2, generator=generator)

    return load("training.shuffled").Shuffled(num, size, seed, take, **settings)


def _pass(data: Any, epoch: int) -> list[list[float]]:
    data.set_epoch(epoch)
    return [torch.cat([indices, drawn]).tolist() for indices, drawn in data]


def test_an_epoch_is_decided_by_the_seed_and_its_number(load: Any) -> None:
    data = _shuffled(load, 23, 5, 0)
    first = _pass(data, 0)
    assert len(first) == len(data) == 4
    assert len({index for row in first for index in row[:5]}) == 20
    assert _pass(data, 1) != first
    assert _pass(data, 0) == first == _pass(_shuffled(load, 23, 5, 0), 0)
    assert _pass(_shuffled(load, 23, 5, 1), 0) != first


def test_samples_of_like_length_come_together(load: Any) -> None:
    lengths = torch.arange(400) % 50
    data = _shuffled(load, 400, 10, 0, lengths=lengths)
    data.set_epoch(0)
    batches = [indices for indices, _ in data]
    assert torch.cat(batches).sort().values.equal(torch.arange(400))
    spans = [int(lengths[batch].max() - lengths[batch].min()) for batch in batches]
    assert max(spans) < 10
    firsts = [int(lengths[batch].min()) for batch in batches]
    assert firsts[:20] != sorted(firsts[:20])


def test_an_augmented_image_is_a_cut_of_the_padded_one_turned_or_not(load: Any) -> None:
    cifar = load("training.cifar")
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(1, 256, (40, 32, 32, 3), generator=generator).to(torch.uint8)
    found = cifar.augment(images, generator)
    kinds = set()
    for image, made in zip(images, found, strict=True):
        padded = torch.zeros(40, 40, 3, dtype=torch.uint8)
        padded[4:36, 4:36] = image
        places = [
            (down, right, turned)
            for down in range(9)
            for right in range(9)
            for turned in (False, True)
            if torch.equal(
                made.flip(1) if turned else made, padded[down : down + 32, right : right + 32]
            )
        ]
        assert len(places) == 1
        kinds.add(places[0])
    assert {turned for _, _, turned in kinds} == {False, True}
    assert len({down for down, _, _ in kinds}) > 4 < len({right for _, right, _ in kinds})


def test_batches_are_normalised_and_channels_last(load: Any) -> None:
    cifar = load("training.cifar")
    images = torch.arange(2 * 32 * 32 * 3).reshape(2, 32, 32, 3).to(torch.uint8)
    found = cifar.normalized(images)
    assert found.is_contiguous(memory_format=torch.channels_last)
    mean, deviation = (torch.tensor(value).view(3, 1, 1) for value in (cifar.MEAN, cifar.DEVIATION))
    wanted = (images.permute(0, 3, 1, 2).double() / 255 - mean) / deviation
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-6)
    split = cifar.Split(images.repeat(64, 1, 1, 1), torch.arange(128))
    for contiguous in (False, True):
        x, _ = next(iter(split.augmented(0, contiguous)))
        assert x.is_contiguous() == contiguous


def _trade(load: Any, jobs: dict[str, Any], stretch: int) -> Any:
    """`take_turns` with threads in place of processes."""
    turns = load("training.turns")
    ends = {}
    for name, job in jobs.items():
        ends[name], theirs = Pipe()
        threading.Thread(target=turns._child, args=(theirs, stretch, job), daemon=True).start()
    return turns._rounds(ends, random.Random(0), lambda name, done: None)


def test_trainings_take_turns_and_never_run_together(load: Any) -> None:
    turns = load("training.turns")
    log: list[tuple[str, int]] = []

    def job(name: str, mine: Any) -> str:
        data = turns.InTurns(_shuffled(load, 18, 2, 0), mine)
        next(iter(data))  # a look at the first batch is no step
        for _ in range(2):
            for index, _ in enumerate(data):
                log.append((name, index))
        mine.next()
        return name.upper()

    ran = _trade(load, {name: lambda mine, name=name: job(name, mine) for name in "ab"}, 3)
    assert {name: found.result for name, found in ran.items()} == {"a": "A", "b": "B"}
    assert {len(found.seconds) for found in ran.values()} == {6 - turns.WARM_UP}
    stretches = [log[at : at + 3] for at in range(0, len(log), 3)]
    assert all(len({name for name, _ in stretch}) == 1 for stretch in stretches)
    rounds = [{stretches[at][0][0], stretches[at + 1][0][0]} for at in range(0, 12, 2)]
    assert rounds == [{"a", "b"}] * 6


def test_a_training_that_fails_is_told(load: Any) -> None:
    def fails(mine: Any) -> None:
        raise ValueError("no such layer")

    with pytest.raises(BurnishError, match=r"(?s)b failed:.*no such layer"):
        _trade(load, {"a": lambda mine: None, "b": fails}, 1)


def test_the_ratio_is_of_rounds(load: Any) -> None:
    turns = load("training.turns")
    drift = np.linspace(1, 3, 20)
    one, other = (turns.Ran(tuple(drift * share), None) for share in (3.0, 2.0))
    found = turns.time_ratio(one, other)
    assert [found[key] for key in ("value", "low", "high")] == pytest.approx([1.5] * 3)


def test_the_loop_by_hand_and_fit_end_with_the_same_weights(load: Any) -> None:
    loops, fit = load("training.loops"), load("burnish.train").fit
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(96, 6, generator=generator), torch.arange(96) % 3

    def take(indices: torch.Tensor, generator: torch.Generator) -> Any:
        return x[indices] + 0.1 * torch.randn(16, 6, generator=generator), y[indices]

    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    data = load("training.shuffled").Shuffled(96, 16, 0, take)
    task = Task(inputs=Inputs(x[:2]), metric=top1, train=data, loss=F.cross_entropy)
    for precision in ("float32", "bfloat16"):
        mine = loops.by_hand(network, data, 2, precision)
        settings = {"optimizer": loops.sgd, "schedule": loops.cosine, "precision": precision}
        theirs = fit(
            network,
            task,
            epochs=2,
            learning_rate=loops.LEARNING_RATE,
            weight_decay=loops.WEIGHT_DECAY,
            **settings,
        ).model
        for one, other in zip(
            mine.state_dict().values(), theirs.state_dict().values(), strict=True
        ):
            assert torch.equal(one, other)


def test_scores_are_kept_as_text_and_compared_pair_by_pair(load: Any) -> None:
    scores = load("training.scores")
    before, after = "0110" * 250, "0111" * 250
    assert scores.figures("0110").tolist() == [0, 1, 1, 0]
    assert scores.figure(after) == 0.75
    one = scores.compared([before], [after])
    assert one.difference == 0.25
    assert "proportions" in one.method
    assert one.state == "holds"
    mean = scores.compared([before, after], [after, after])
    assert mean.difference == 0.125
    assert "mean" in mean.method
    people = scores.compared([before], [after], groups=np.arange(1000) % 4)
    assert people.state == "cannot tell"  # four people


def test_claims_follow_the_interval(load: Any) -> None:
    scores, claims = load("training.scores"), load("training.claims")
    more, same = scores.compared(["0110" * 99], ["0111" * 99]), scores.compared(["01"], ["01"])
    assert claims.better("", more)["met"]
    assert not claims.better("", same)["met"]
    assert claims.alike("", same)["met"]
    assert not claims.alike("", more)["met"]
    found = claims.at_least("", 1.6, 1.5, low=1.4, high=1.7)
    assert (found["met"], found["decided"]) == (True, False)
    assert not claims.at_least("", None, 1.5)["met"]


def _resnet(load: Any) -> Any:
    torch.manual_seed(0)
    return load("networks.resnet20").ResNet20().eval()


def test_rounded_weights_have_four_bits(load: Any) -> None:
    damage, network = load("training.damage"), _resnet(load)
    found = damage.rounded(network)
    assert damage.most_levels(found) <= 15 < damage.most_levels(network)
    for one, other in zip(network.parameters(), found.parameters(), strict=True):
        if one.dim() > 1:
            step = one.detach().flatten(1).abs().amax(1) / 7
            off = (one - other).detach().flatten(1).abs().amax(1)
            assert bool((off <= step / 2 * 1.001).all())
        else:
            assert torch.equal(one, other)


def test_half_of_each_layer_is_masked(load: Any) -> None:
    damage, network = load("training.damage"), _resnet(load)
    for mask in damage.zeros(damage.masked_weights(network)):
        assert int(mask.sum()) == mask.numel() // 2
    assert not any(bool(mask.any()) for mask in damage.zeros(network))


def test_a_masked_channel_is_not_brought_back_by_its_batch_norm(load: Any) -> None:
    damage = load("training.damage")
    found = damage.masked_channels(_resnet(load))
    x = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        before = found(x)
        for block in found.modules():
            if hasattr(block, "conv1") and hasattr(block, "conv2"):
                masked = block.conv1.weight.flatten(1).abs().sum(1) == 0
                assert int(masked.sum()) == len(masked) // 2
                block.bn1.bias[masked] += 1.0
        assert torch.equal(found(x), before)


def test_resnet56_has_the_weights_of_its_file(load: Any) -> None:
    if not (DATA / "resnet56-cifar10-jpeg.safetensors").exists():
        pytest.skip("needs resnet56-cifar10-jpeg.safetensors in ../shared/data, which is absent")
    network = load("training.cifar").pretrained("resnet56", load("models").Sources(data=DATA))
    assert sum(parameter.numel() for parameter in network.parameters()) == 853_018
    assert not network.training


def test_each_person_is_held_out_once(load: Any) -> None:
    windows = load("training.windows")
    if not (DATA / "shoulder_imu_50hz.npz").exists():
        pytest.skip("needs shoulder_imu_50hz.npz in ../shared/data, which is absent")
    data = windows.load(load("models").Sources(data=DATA), every=16)
    folds = [data.fold(index) for index in range(windows.NUM_FOLDS)]
    held_out = [set(fold.groups.tolist()) for fold in folds]
    assert sorted(person for people in held_out for person in people) == sorted(
        data.people.unique().tolist()
    )
    task = folds[0].task(0)
    assert sum(len(labels) for _, labels in task.validation) == len(folds[0].groups)
    seen = torch.cat([x for x, _ in task.train])
    asked = torch.cat([x for x, _ in task.validation])
    assert not (seen[:, None, 0] == asked[None, :, 0]).all(-1).any()
    network = folds[0].untrained(8, 0)
    assert torch.allclose(network.mean, data.windows[~folds[0].outside].mean((0, 1)))


def test_a_handful_of_labels(load: Any) -> None:
    texts = load("training.texts")
    labels = torch.arange(40) % 4
    mask = (torch.arange(16) < torch.arange(3, 13).repeat(4)[:, None]).long()
    found = texts.Texts(mask.clone(), mask, labels)
    few = found.few(texts.FEW)
    assert labels[few].bincount().tolist() == [texts.FEW] * 4
    cut = found.of(torch.tensor([0, 1]))
    assert cut.ids.shape == (2, 8)
    assert found.of(torch.arange(40)).ids.shape == (40, 16)


def test_only_a_whole_run_writes_a_result(load: Any) -> None:
    document = load("training.document")
    script = document.Script("recover_table", "What?", {"one": 3, "two": 4})
    assert script.parse([]).output == script.result
    assert script.parse(["--quick"]).output is None
    assert script.parse(["--parts", "one"]).output is None
    assert script.parse(["--parts", "two", "one"]).output == script.result
    assert len(script.digest()) == 12
    other = document.Script("distill_table", "What?", {"one": 3})
    assert script.digest() != other.digest()
