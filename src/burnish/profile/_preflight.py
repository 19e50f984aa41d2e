"""What a preflight says: questions, answers in words, factors with ranges, what they rest on.

A factor is time after a move over time now; now is the reference, what the model runs in today.
After a run in which moves were really made, what was found stands beside what was foreseen.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from burnish.bench import Ratio
from burnish.errors import Damaged

MEASURED, ESTIMATED, IMPOSSIBLE = "measured", "estimated", "not possible"
_WIDTH = 120
_WORTH = 0.95  # a factor above is not worth a move


@dataclass(frozen=True)
class Answer:
    """One move.

    Attributes:
        move: its name: "int8 in openvino".
        question: what it answers: "Will int8 help here?".
        answer: in words.
        factor: time after over time now; None where it has none.
        how: "measured", "estimated" or "not possible".
        basis: what the answer rests on.
        advisable: whether it can be the first move: it makes a call faster and needs no training.
        found: the factor a later run measured; None before.
    """

    move: str
    question: str
    answer: str
    factor: Ratio | None
    how: str
    basis: str
    advisable: bool = True
    found: Ratio | None = None


@dataclass(frozen=True)
class Preflight:
    """The answers for a batch and a number of threads, relative to `reference`.

    `seconds` is what asking took.
    """

    reference: str
    batch: int
    threads: int
    seconds: float
    answers: tuple[Answer, ...]

    @property
    def first_move(self) -> str | None:
        """The move with the least factor of those that need no training; None: nothing pays."""
        factors = {
            one.move: one.factor.value
            for one in self.answers
            if one.advisable and one.factor is not None and one.factor.value < _WORTH
        }
        return min(factors, key=lambda move: factors[move], default=None)

    def answer(self, move: str) -> Answer | None:
        """The answer of that move; None where nobody asked."""
        return next((one for one in self.answers if one.move == move), None)

    def with_found(self, found: Mapping[str, Ratio]) -> Preflight:
        """The same with what a run found, by move."""
        answers = (
            dataclasses.replace(one, found=found.get(one.move, one.found)) for one in self.answers
        )
        return dataclasses.replace(self, answers=tuple(answers))

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Preflight.from_json` is its inverse."""
        return {
            "reference": self.reference,
            "batch": self.batch,
            "threads": self.threads,
            "seconds": self.seconds,
            "first_move": self.first_move,
            "answers": [dataclasses.asdict(one) for one in self.answers],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Preflight:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            answers = []
            for row in record["answers"]:
                ratios = {
                    key: None if row[key] is None else Ratio(**row[key])
                    for key in ("factor", "found")
                }
                answers.append(Answer(**{**row, **ratios}))
            return cls(
                reference=record["reference"],
                batch=record["batch"],
                threads=record["threads"],
                seconds=record["seconds"],
                answers=tuple(answers),
            )
        except (TypeError, KeyError) as error:
            raise Damaged(f"this is no preflight's record ({error})") from None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        shown.add_column("move", no_wrap=True)
        shown.add_column("speed", justify="right", no_wrap=True)
        shown.add_column("", no_wrap=True, style="dim")
        shown.add_column("answer", overflow="fold")
        first = self.first_move
        for one in self.answers:
            style = "bold green" if one.move == first else ""
            shown.add_row(Text(one.move, style), *_speed(one), Text(f"{one.answer}. {one.basis}."))
        yield shown
        yield Text(self._advice(), style="bold")

    def _advice(self) -> str:
        took = f"asked and answered in {self.seconds:.0f} s; speeds are against {self.reference}"
        first = self.first_move
        if first is None:
            return f"Nothing here is worth trying ({took})."
        return f"To try first: {first} ({took})."

    def __str__(self) -> str:
        """The table, as plain text 120 columns wide."""
        console = Console(file=io.StringIO(), width=_WIDTH, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _speed(one: Answer) -> Iterator[Text]:
    if one.factor is None:
        yield Text("–")
        yield Text(one.how if one.how == IMPOSSIBLE else "")
        return
    yield Text(f"{1 / one.factor.value:.2f}×")
    yield Text(f"{1 / one.factor.high:.2f} to {1 / one.factor.low:.2f}, {one.how}")


def worth(factor: Ratio) -> str:
    """Yes, no or hardly, and how fast in words."""
    speed, low, high = (1 / value for value in (factor.value, factor.high, factor.low))
    told = f"{speed:.2f} times the speed of now ({low:.2f} to {high:.2f})"
    if factor.high < _WORTH:
        return f"Yes: {told}"
    if factor.value < _WORTH:
        return f"Probably: {told}"
    return f"No: {told}" if factor.low > _WORTH else f"Hardly: {told}"
