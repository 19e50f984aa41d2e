"""What was predicted before anything was tried, and what was found when it was."""

from __future__ import annotations

from dataclasses import dataclass

from burnish.report._node import Node
from burnish.report._ratio import Ratio, ratio


@dataclass(frozen=True)
class Answer:
    """One move: the question it answers, the factor predicted, and the one found by measuring.

    Both factors are time after the move over time now, so below 1 is faster. `how` is "measured",
    "estimated" or "not possible"; only an `advisable` one can be the first move.
    """

    move: str
    question: str | None
    answer: str | None
    factor: Ratio | None
    how: str | None
    basis: str | None
    advisable: bool
    found: Ratio | None


@dataclass(frozen=True)
class Preflight:
    """The answers, the artifact they are relative to, and the move advised first."""

    reference: str | None
    seconds: float | None
    first_move: str | None
    answers: tuple[Answer, ...]

    @property
    def followed(self) -> tuple[Answer, ...]:
        """The answers of which a later measurement is known."""
        return tuple(one for one in self.answers if one.found and one.found.value is not None)


def preflight(node: Node | None) -> Preflight | None:
    """Read a preflight, if there is one; Damaged where a value is of the wrong type."""
    if node is None:
        return None
    return Preflight(
        reference=node.text("reference"),
        seconds=node.number("seconds"),
        first_move=node.text("first_move"),
        answers=tuple(
            Answer(
                move=one.needed("move"),
                question=one.text("question"),
                answer=one.text("answer"),
                factor=ratio(one.child("factor")),
                how=one.text("how"),
                basis=one.text("basis"),
                advisable=one.maybe("advisable") is not False,
                found=ratio(one.child("found")),
            )
            for one in node.children("answers")
        ),
    )
