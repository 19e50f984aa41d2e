"""The code of this room's cards runs, and prints what is said here."""

from __future__ import annotations

from pathlib import Path

from tests.cards import run


def test_the_card_of_channel_pruning(root: Path, capsys) -> None:
    assert run(root / "docs/methods/prune_channels.md") == 2
    assert capsys.readouterr().out.splitlines() == [
        "0:conv2d 16 16 frozen ignore names '0'",
        "3:conv2d 32 14 pruned ",
        "7:linear 10 10 frozen it is an output of the model",
    ]


def test_the_card_of_weight_pruning(root: Path, capsys) -> None:
    assert run(root / "docs/methods/prune_weights.md") == 2
    assert capsys.readouterr().out.splitlines() == [
        "0.weight 0.50 ",
        "0.bias 0.00 a bias: biases=True masks them, too",
        "2.weight 0.50 ",
        "2.bias 0.00 a bias: biases=True masks them, too",
    ]


def test_the_card_of_dropping_blocks(root: Path, capsys) -> None:
    assert run(root / "docs/methods/drop_blocks.md") == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1:add frozen ignore names '1'"
    assert sum(line.split()[1] == "dropped" for line in lines) == 3


def test_the_card_of_pruning_to_a_target(root: Path, capsys) -> None:
    assert run(root / "docs/methods/prune_to.md") == 2
    assert 0.5 <= float(capsys.readouterr().out.split()[-1]) < 0.6


def test_the_card_of_schedules(root: Path, capsys) -> None:
    assert run(root / "docs/methods/prune_schedules.md") == 4
    assert capsys.readouterr().out.splitlines() == [
        "['0.52', '0.79', '0.89', '0.90']",
        "['PruneChannels', 'Train', 'PruneChannels', 'Train', 'PruneChannels', 'Train']",
        "['Train', 'PruneWeights', 'Rewind', 'Train', 'PruneWeights', 'Rewind', 'Train']",
        "torch.Size([2, 3])",
    ]
