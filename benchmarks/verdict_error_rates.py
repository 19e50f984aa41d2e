"""How often a verdict is wrong, counted where it is hardest: with the true drop at the margin.

Binary verdicts need no simulation: which (gains, losses) say "holds" is worked out for each number
of discordant pairs, and their multinomial probabilities are summed. The same sum is done for the
rule as Tango published it (normal tail), to show what the exact tail is for. Everything else is
simulated by calling the public functions on drawn scores.

    python benchmarks/verdict_error_rates.py [--replicates 4000] [--output FILE.json]

Takes about ten minutes on one core. The tests run the same functions at fewer points.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binom

from burnish.metrics import Metric, set_verdict, verdict
from burnish.metrics._paired import p_value, score

Array = NDArray[np.float64]
Rule = Callable[[int, int, int, float, float], bool]
Draw = Callable[[np.random.Generator, int], tuple[Array, Array]]

GAINS = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def exact_tail(n: int, gains: int, losses: int, difference: float, tail: float) -> bool:
    """Our rule: is a true difference as low as `difference` refuted?"""
    return p_value(n, gains, losses, difference) < tail


def normal_tail(n: int, gains: int, losses: int, difference: float, tail: float) -> bool:
    """The rule as published (Tango, 1998)."""
    return score(n, gains, losses, difference) > -float(ndtri(tail))


@dataclass(frozen=True)
class Region:
    """For each number of discordant pairs, the fewest gains (losses) that refute a difference."""

    n: int
    fewest: NDArray[np.int64]

    @classmethod
    def of(cls, rule: Rule, n: int, difference: float, tail: float, most: int) -> Region:
        """`most` bounds the discordant pairs that are looked at."""
        fewest = []
        for discordant in range(min(most, n) + 1):
            low, high = -1, discordant + 1
            while high - low > 1:
                middle = (low + high) // 2
                if rule(n, middle, discordant - middle, difference, tail):
                    high = middle
                else:
                    low = middle
            fewest.append(high)
        return cls(n, np.array(fewest))

    def probability(self, up: float, down: float) -> float:
        """Of landing in the region, with those rates of gains and losses."""
        discordant = np.arange(len(self.fewest))
        weights = binom.pmf(discordant, self.n, up + down)
        chance = binom.sf(self.fewest - 1, discordant, up / (up + down))
        return float((weights * chance).sum())


def binary_rates(
    n: int,
    margin: float,
    gains: Sequence[float],
    confidence: float = 0.95,
    rule: Rule = exact_tail,
    excess: float = 0.0,
) -> list[tuple[float, float]]:
    """(P(holds), P(fails)) for each rate of gains, exactly; the true drop is margin + excess."""
    tail, drop = (1 - confidence) / 2, margin + excess
    usual = n * (2 * max(gains) + max(drop, 0))
    most = int(usual + 8 * np.sqrt(usual) + 12)
    holds = Region.of(rule, n, -margin, tail, most)
    fails = Region.of(rule, n, margin, tail, most)
    return [
        (holds.probability(gain, gain + drop), fails.probability(gain + drop, gain))
        for gain in gains
        if 2 * gain + drop <= 1
    ]


def high_scores(rng: np.random.Generator, n: int) -> Array:
    return rng.beta(8, 2, n)


def normal(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    base = high_scores(rng, n)
    return base, base + rng.normal(-0.01, 0.05, n)


def skewed_losses(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    base = high_scores(rng, n)
    return base, base - rng.exponential(0.05, n)


def skewed_gains(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    base = high_scores(rng, n)
    return base, base + rng.exponential(0.05, n)


def flat_baseline(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Equal baseline scores: the range of scores says no more than the differences themselves."""
    base = np.full(n, 0.5)
    return base, base - rng.exponential(0.05, n)


def lognormal_losses(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    base = high_scores(rng, n)
    return base, base - 0.01 * rng.lognormal(0, 1, n)


def heavy_losses(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """A skewness of 33: here to show where the method ends."""
    base = high_scores(rng, n)
    return base, base - 0.01 * rng.lognormal(0, 1.5, n)


def rare_losses(rate: float, size: float = 0.5, noise: float = 0.0) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        base = high_scores(rng, n)
        lost = (rng.random(n) < rate) * size
        return base, base - lost + (rng.normal(0, noise, n) if noise else 0.0)

    return draw


def rare_both(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    base, chance = high_scores(rng, n), rng.random(n)
    return base, base - 0.3 * (chance < 0.02) + 0.3 * (chance > 0.99)


CONTINUOUS: dict[str, tuple[Draw, float]] = {
    "normal": (normal, -0.01),
    "skewed losses": (skewed_losses, -0.05),
    "skewed gains": (skewed_gains, 0.05),
    "skewed losses, flat baseline": (flat_baseline, -0.05),
    "lognormal losses": (lognormal_losses, -0.01 * float(np.exp(0.5))),
    "1 % lose 0.5": (rare_losses(0.01), -0.005),
    "3 % lose 0.5": (rare_losses(0.03), -0.015),
    "10 % lose 0.5": (rare_losses(0.1), -0.05),
    "2 % lose, 1 % gain 0.3": (rare_both, -0.003),
    "noise, and 1 % lose 0.5": (rare_losses(0.01, noise=0.02), -0.005),
}
BEYOND: dict[str, tuple[Draw, float]] = {
    "lognormal losses, sigma 1.5": (heavy_losses, -0.01 * float(np.exp(1.125))),
}


def mean_rates(
    draw: Draw, mean: float, n: int, replicates: int, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """(P(low > mean), P(high < mean)): "holds" and "fails" with the true difference at the margin.

    Asked of the interval, so that gains (a true difference above 0) can be tried too.
    """
    rng = np.random.default_rng(seed)
    above = below = 0
    for _ in range(replicates):
        base, candidate = draw(rng, n)
        answer = verdict(base, candidate, max_drop=0, kind="continuous", confidence=confidence)
        above += answer.low > mean
        below += answer.high < mean
    return above / replicates, below / replicates


WINDOWS_MEAN = -0.1 * 0.3 * 0.9  # a person in ten, 30 % of the right answers, of which 90 % are


def person_windows(
    rng: np.random.Generator, people: int, windows: int
) -> tuple[Array, Array, NDArray[np.int64]]:
    """0/1 scores; one person in ten loses 30 % of the right answers."""
    sizes = rng.integers(windows // 2, windows * 3 // 2 + 1, people)
    person = np.repeat(np.arange(people), sizes)
    lost = np.repeat(rng.random(people) < 0.1, sizes) * 0.3
    chance = rng.random(person.size)
    base = rng.random(person.size) < np.repeat(rng.beta(18, 2, people), sizes)
    # 2 % of the answers turn wrong and as many turn right, besides what the few lose.
    flipped = np.where(base, chance < 0.02 + lost, chance < 0.02 * 0.9 / 0.1)
    return base.astype(float), np.where(flipped, ~base, base).astype(float), person


def group_rates(people: int, windows: int, replicates: int, seed: int = 0) -> dict[str, float]:
    """How often "holds" and "fails" are wrong at the margin, by person and as if independent."""
    rng = np.random.default_rng(seed)
    rates = dict.fromkeys(("holds", "fails", "holds ungrouped", "fails ungrouped"), 0.0)
    for _ in range(replicates):
        base, candidate, person = person_windows(rng, people, windows)
        for suffix, groups in (("", person), (" ungrouped", None)):
            answer = verdict(base, candidate, max_drop=0, groups=groups)
            rates["holds" + suffix] += float(answer.low > WINDOWS_MEAN) / replicates
            rates["fails" + suffix] += float(answer.high < WINDOWS_MEAN) / replicates
    return rates


def balanced_accuracy(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """The mean of the classes' recalls: a figure for a whole set whose true value is known."""
    hits = np.bincount(truth, weights=predicted == truth, minlength=3)
    counts = np.bincount(truth, minlength=3)
    return float((hits[counts > 0] / counts[counts > 0]).mean())


def set_rates(n: int, replicates: int, seed: int = 0) -> tuple[float, float]:
    """(P(holds), P(fails)) wrongly, balanced accuracy over classes of 60, 30 and 10 %."""
    rng = np.random.default_rng(seed)
    metric = Metric("balanced_accuracy", balanced_accuracy, "set")
    mean = -0.03
    above = below = 0
    for _ in range(replicates):
        truth = rng.choice(3, n, p=[0.6, 0.3, 0.1])
        base = np.where(rng.random(n) < 0.9, truth, (truth + 1) % 3)
        # 1/30 of the right answers turn wrong: recalls fall by 0.9 / 30 in every class.
        candidate = np.where((base == truth) & (rng.random(n) < 1 / 30), (truth + 1) % 3, base)
        answer = set_verdict(metric, truth, base, candidate, max_drop=0)
        above += answer.low > mean
        below += answer.high < mean
    return above / replicates, below / replicates


def binary_table() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for confidence in (0.8, 0.95, 0.99):
        for n in (20, 50, 100, 200, 500, 1000, 5000):
            for margin in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
                gains = [gain for gain in GAINS if n < 5000 or gain <= 0.05]
                row: dict[str, object] = {"confidence": confidence, "n": n, "margin": margin}
                for name, rule in (("ours", exact_tail), ("tango", normal_tail)):
                    rates = binary_rates(n, margin, gains, confidence, rule)
                    row[name] = {
                        "holds": max(rate[0] for rate in rates),
                        "fails": max(rate[1] for rate in rates),
                    }
                rows.append(row)
        print(f"binary, confidence {confidence}: done", flush=True)
    return rows


def simulated_table(replicates: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, (draw, mean) in {**CONTINUOUS, **BEYOND}.items():
        for n in (30, 50, 100, 200, 500, 1000, 5000):
            holds, fails = mean_rates(draw, mean, n, replicates)
            rows.append({"scores": name, "n": n, "holds": holds, "fails": fails})
        print(f"{name}: done", flush=True)
    return rows


def commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--verify", "-q", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--replicates", type=int, default=4000)
    results = Path(__file__).parent / "results" / "verdict_error_rates.json"
    parser.add_argument("--output", type=Path, default=results)
    given = parser.parse_args()
    start = time.monotonic()
    document = {
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "machine": platform.platform(),
        "commit": commit(),
        "replicates": given.replicates,
        "standard_error_at_2.5_%": float(np.sqrt(0.025 * 0.975 / given.replicates)),
        "binary, exact, worst over rates of gains": {"gains": GAINS, "rows": binary_table()},
        "continuous, simulated, 95 %": simulated_table(given.replicates),
        "groups of 0/1 scores, simulated, 95 %": [
            {"people": people, "windows": 20, **group_rates(people, 20, given.replicates // 2)}
            for people in (20, 50, 100, 300)
        ],
        "balanced accuracy as a set metric, simulated, 95 %": [
            dict(
                zip(("n", "holds", "fails"), (n, *set_rates(n, given.replicates // 8)), strict=True)
            )
            for n in (50, 200, 1000)
        ],
    }
    document["seconds"] = round(time.monotonic() - start)
    given.output.write_text(json.dumps(document, indent=1) + "\n")
    print(f"written: {given.output}")


if __name__ == "__main__":
    main()
