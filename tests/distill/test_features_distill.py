"""Signals on features inside `distill`: they teach without labels, and resume where they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.distill import CRD, PKT, RKD, VID, Hint, SimilarityPreserving, Tap, distill
from tests.distill.small import UNLABELLED, same_state, state, student, task, teacher

HIDDEN = Tap("1")  # 8 and 16 wide


@pytest.mark.parametrize("kind", [Hint, SimilarityPreserving, PKT, RKD, CRD, VID])
def test_a_student_takes_over_without_labels(kind: Any) -> None:
    """The loss falls over the epochs; nothing behind the tapped layer moves."""
    signal = kind(HIDDEN, **({"memory": 16} if kind is CRD else {}))
    before = student()
    fitted = distill(
        before,
        teacher(),
        task(train=UNLABELLED, loss=None),
        (signal,),
        labels=None,
        epochs=12,
        learning_rate=0.02,
        weight_decay=0.0,
    )
    first, *_, last = (epoch.parts[f"{signal.kind} 1"] for epoch in fitted.record.epochs[1:])
    assert last < 0.95 * first
    old, new = state(before), state(fitted.model)
    moved = {name for name in old if not old[name].equal(new[name])}
    assert moved == {"0.weight", "0.bias"}


def test_adapters_and_negatives_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    signals = (CRD(HIDDEN, memory=40), VID(HIDDEN))

    def stopping(batches: Any, title: str) -> Any:
        if "epoch 3" in title:
            raise KeyboardInterrupt
        return batches

    def run(**more: Any) -> Any:
        return distill(
            student(), teacher(), task(), signals, epochs=3, learning_rate=0.01, **more
        ).model

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(checkpoints=tmp_path, watch=stopping)
    assert same_state(state(run(checkpoints=tmp_path)), state(whole))
