"""Figures as a person reads them: three significant digits, a unit, and a word for the unknown.

A ratio of times is stored as time over reference time; a person asks "how many times as fast", so
it is turned over here, once, interval and all. Shares of right answers are shown in percent and
their differences in points (percentage points); every other metric keeps its own scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from burnish.report._ratio import Ratio
from burnish.report._record import Quality, Run, Verdict

UNKNOWN = "unknown"


def significant(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits, no needless exponent: 0.0123, 1.20, 12.3, 1,230."""
    if value is None:
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    rounded = round(value, digits - 1 - math.floor(math.log10(abs(value))))
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}".replace("-", "−")


def count(value: int | None) -> str:
    """A whole number, exactly."""
    return UNKNOWN if value is None else f"{value:,}"


def percent(share: float | None) -> str:
    """A share as "61 %", "4.2 %" below ten, "under 0.1 %" where it is that little."""
    if share is None or math.isinf(share):
        return UNKNOWN
    if share != 0 and abs(share) < 0.001:
        return "under 0.1 %"
    shown = f"{100 * share:.{0 if abs(share) >= 0.0995 or share == 0 else 1}f} %"
    return shown.replace("-", "−")


def large(value: float | None) -> str:
    """A large number in three digits: "385 M", "1.20 G"; below a thousand as it is."""
    if value is None:
        return UNKNOWN
    for factor, name in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * factor:
            return f"{significant(value / factor)}{name}"
    return f"{value:.0f}"


def size(num_bytes: float | None) -> str:
    """Bytes in powers of ten: "5.13 MB", "864 kB", "12 B"."""
    shown = large(num_bytes)
    return shown if num_bytes is None else f"{shown}{'' if shown[-1].isalpha() else ' '}B"


def unit(value: float | None, name: str) -> str:
    """A figure with its unit; an unknown one has none."""
    return UNKNOWN if value is None else f"{significant(value)} {name}"


def duration(seconds: float | None) -> str:
    """Seconds as "45.2 s", "3 min 5 s" or "1 h 2 min"."""
    if seconds is None or math.isinf(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{significant(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def interval(low: float | None, high: float | None, show: Callable[[float], str]) -> str:
    """ "a to b", or "" where either end is unknown."""
    return "" if low is None or high is None else f"{show(low)} to {show(high)}"


def confidence(value: float | None) -> str:
    """ "95 % interval", or "interval" where nobody wrote down of what confidence."""
    return "interval" if value is None else f"{100 * value:.4g} % interval"


def moment(created: str | None) -> str:
    """An ISO time to the minute, "2026-05-04 10:31 UTC"; any other text as it is."""
    if created is None:
        return "date unknown"
    try:
        when = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".rstrip()


@dataclass(frozen=True)
class Scale:
    """How a metric's figures are written."""

    name: str
    percent: bool
    higher_is_better: bool

    def value(self, figure: float | None) -> str:
        """ "97.3 %", or the figure itself."""
        if figure is None or not self.percent or math.isinf(figure):
            return significant(figure)
        close = figure != 1 and round(100 * figure, 1) == 100  # never round up to perfection
        return f"{100 * figure:.{2 if close else 1}f} %"

    def change(self, difference: float | None) -> str:
        """A signed difference: "−0.32 points"."""
        if difference is None or not self.percent or math.isinf(difference):
            return self.bare(difference)
        return f"{self.bare(difference)} {_points(difference)}"

    def bare(self, difference: float | None) -> str:
        """A signed difference without its unit: "−0.32"."""
        if difference is None or math.isinf(difference):
            return significant(difference)
        shown = f"{100 * difference:.2f}" if self.percent else significant(difference)
        shown = shown.replace("-", "−")
        if not shown.strip("−0."):
            return "0"
        return shown if shown.startswith("−") else f"+{shown}"

    def drop(self, amount: float | None) -> str:
        """An unsigned amount that may be lost: "1 point"."""
        if amount is None or not self.percent or math.isinf(amount):
            return significant(amount)
        return f"{100 * amount:.3g} {_points(amount)}"

    def with_interval(self, quality: Quality | None) -> str:
        """ "97.1 % (95.8 to 98.0 %)"."""
        if quality is None:
            return UNKNOWN
        ends = self.ends(quality)
        return f"{self.value(quality.value)} ({ends})" if ends else self.value(quality.value)

    def ends(self, quality: Quality) -> str:
        """The interval with its unit once: "95.8 to 98.0 %"."""
        both = interval(quality.low, quality.high, self.value)
        return both.replace(" %", "", 1) if both.count(" %") == 2 else both


def _points(amount: float) -> str:
    return "point" if f"{abs(100 * amount):.3g}" == "1" else "points"


def scale(run: Run) -> Scale:
    """The scale of the run's metric, as far as its goal tells."""
    metric = run.goal.get("metric")
    metric = metric if isinstance(metric, Mapping) else {}
    name = metric.get("name")
    if not isinstance(name, str):
        name = next((c.quality.metric for c in run.candidates if c.quality), None) or "quality"
    higher = metric.get("higher_is_better") is not False
    return Scale(name, metric.get("kind") == "binary", higher)


@dataclass(frozen=True)
class Speed:
    """A ratio turned over: how many times as fast as the reference."""

    text: str
    ends: str
    note: str
    state: str

    @property
    def known(self) -> bool:
        return self.state != "unknown"


def speed(ratio: Ratio | None) -> Speed:
    """State is "faster", "slower", "alike" (the interval holds 1), "unreliable" or "unknown"."""
    if ratio is None or ratio.value is None or ratio.value <= 0:
        return Speed(UNKNOWN, "", "", "unknown")
    low = None if ratio.high is None or ratio.high <= 0 else 1 / ratio.high
    high = None if ratio.low is None or ratio.low <= 0 else 1 / ratio.low
    shown = f"{significant(1 / ratio.value)}×"
    ends = interval(low, high, significant)
    if ratio.unreliable:
        return Speed(f"≈ {shown}", ends, "unreliable: the timings spread too far", "unreliable")
    if low is None or high is None:
        return Speed(f"≈ {shown}", "", "no interval", "unreliable")
    if low <= 1 <= high:
        return Speed(shown, ends, "no difference shown", "alike")
    return Speed(shown, ends, "", "faster" if low > 1 else "slower")


STATES = {"holds": "holds", "fails": "fails", "cannot tell": "undecided"}
SIGNS = {"holds": "✓", "fails": "✗", "cannot tell": "?"}


def verdict_state(verdict: Verdict | None) -> str:
    """A word fit for a class name."""
    return "none" if verdict is None else STATES.get(verdict.state, "none")


def verdict_title(verdict: Verdict | None) -> str:
    """ "✓ holds"."""
    if verdict is None:
        return "not judged"
    return f"{SIGNS.get(verdict.state, '·')} {verdict.state}"


def would_decide(verdict: Verdict) -> str:
    """How many samples were looked at, and how many would settle it."""
    seen = f"{count(verdict.n)} samples were looked at" if verdict.n is not None else ""
    would = f"about {count(verdict.needed)} would decide"
    if verdict.needed is None:
        would = "how many would decide is unknown"
        would += f" ({verdict.reason})" if verdict.reason else ""
    return f"{seen}; {would}" if seen else would


def verdict_sentence(verdict: Verdict | None, metric: Scale) -> str:
    """The verdict in plain words, with every figure it rests on."""
    if verdict is None:
        return f"{metric.name} was not judged."
    ends = interval(verdict.low, verdict.high, metric.bare)
    known = f" ({confidence(verdict.confidence)} {ends})" if ends else " (interval unknown)"
    if verdict.difference is None:
        change = f"the change of {metric.name} is unknown{known if ends else ''}"
    else:
        better = "" if metric.higher_is_better else ", a positive change being better"
        change = f"{metric.name} changed by {metric.change(verdict.difference)}{known}{better}"
    allowed = f"{metric.drop(verdict.max_drop)} may be lost"
    n = "" if verdict.n is None else f", n = {count(verdict.n)}"
    if verdict.state == "holds":
        return f"Quality holds: {change}; up to {allowed}{n}."
    if verdict.state == "fails":
        return f"Quality is lost: {change}; only {allowed}{n}."
    if verdict.state == "cannot tell":
        return f"Cannot tell: {change}; up to {allowed}; {would_decide(verdict)}."
    return f"{verdict.state}: {change}; up to {allowed}{n}."


def flatten(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (name, text) rows; sizes in bytes become GB or MB."""
    rows: list[tuple[str, str]] = []
    for key, value in record.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{name} · ")
        elif isinstance(value, Sequence) and any(isinstance(one, Mapping) for one in value):
            for number, one in enumerate(value, 1):
                inner = one if isinstance(one, Mapping) else {"": one}
                rows += flatten(inner, f"{name} {number} · ")
        else:
            rows.append((name, _scalar(name, value)))
    return rows


def _scalar(name: str, value: Any) -> str:
    if value is None:
        blanks = {"budget": "not set", "target": "not set", "versions": "not installed"}
        return blanks.get(name.split(" ")[0], UNKNOWN)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.split(" ")[-1] == "bytes":
        return size(value) if value > 0 else UNKNOWN
    if isinstance(value, float):
        return UNKNOWN if math.isnan(value) else f"{value:.6g}"
    if isinstance(value, Mapping):
        return "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(one) for one in value) or "none named"
    return str(value)
