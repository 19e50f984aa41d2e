"""The search: baselines, int8, what is slower, what lost quality, and the finalists.

    1. float artifacts on every runtime, threads swept; the fastest float32 one is the reference
       a preflight foresees what the next steps will bring, and which runtime to try first
    2. int8 on each runtime that has it: static, and dynamic where there are no convolutions
       what each operator costs alone is simulated, for the report and the ladder
    3. int8 operators that are slower than float go back to float, for free
    4. where quality does not hold, refinements that cost no time, then the recovery ladder
    5. the best that are acceptable race once more against the reference, for the pick

Each phase asks whether the wall-clock allowance is spent; the best so far is always kept, and the
reason for stopping with it.

Left out: combining quantization with other techniques; there is none so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from burnish.auto._recipes import dynamic_pays
from burnish.auto._recover import (
    climb,
    fastest,
    reverted_cost,
    slower_in_int8,
    without,
)
from burnish.auto._trial import Built, Trial, Variant
from burnish.auto._workshop import Workshop
from burnish.bench import Race, Ratio
from burnish.errors import RuntimeFailed, Unreliable, Unsupported
from burnish.profile import Preflight
from burnish.quantize import Sensitivity

BFLOAT16_RUNTIMES = ("inductor", "openvino")
INT8_RUNTIMES = ("onnxruntime", "openvino")
DYNAMIC_RUNTIMES = ("onnxruntime",)
REFINEMENTS = ("refined", "learned")
PARITY = 1e-3
SECONDS = 6.0
FINAL_SECONDS = 12.0
FINALISTS = 3
UNASKED = ("float baselines", "preflight")  # the one is needed, the other looks at the clock itself
LEAST_FOR_PREFLIGHT = 120.0  # seconds of the allowance that must be left


@dataclass
class Found:
    """What a search has gathered so far; the one mutable thing in it."""

    trials: dict[str, Trial] = field(default_factory=dict)
    races: dict[str, Race] = field(default_factory=dict)
    reference: Trial | None = None
    foreseen: Preflight | None = None
    profile: dict[str, Any] | None = None
    sensitivity: dict[str, Sensitivity] = field(default_factory=dict)
    recovery: list[tuple[str, str]] = field(default_factory=list)
    phases: list[tuple[str, float]] = field(default_factory=list)
    stopped: str = ""

    def seconds(self) -> dict[str, float]:
        """Median seconds of each trial, scaled by its race's reference to one common race."""
        found = {}
        for label in self.trials:
            ratio = self.ratio(label)
            if ratio is not None and self.reference is not None:
                base = self.races[self.reference.label].timing(self.reference.label)
                found[label] = ratio.value * base.p50
        return found

    def ratio(self, label: str) -> Ratio | None:
        """time(label) / time(reference), from the last race both ran in; None without one."""
        race = self.races.get(label)
        if race is None or self.reference is None:
            return None
        try:
            return race.ratio(label, self.reference.label)
        except (Unreliable, RuntimeFailed):
            return None

    def add(self, race: Race | None, trials: list[Trial]) -> None:
        """Take in the trials that ran; one that failed is out, even if it ran before.

        The reference is judged in its first race only, and a race in which it failed replaces none.
        """
        if race is None:
            return
        reference = None if self.reference is None else self.reference.label
        sound = reference is None or race.timing(reference).failed is None
        for trial in trials:
            label = trial.label
            if race.timing(label).failed is None:
                self.trials[label] = trial
                if sound or label not in self.races:
                    self.races[label] = race
            elif label != reference:
                self.trials.pop(label, None)
                self.races.pop(label, None)


class Search:
    """Runs the phases; `found` is filled as it goes."""

    def __init__(
        self, workshop: Workshop, runtimes: list[str], cores: int, bfloat16: bool, start: float
    ) -> None:
        self.shop = workshop
        self.goal = workshop.goal
        self.runtimes = runtimes
        wanted = self.goal.target.threads
        self.threads = sorted({1, cores}) if wanted is None else [wanted]
        self.bfloat16 = bfloat16
        self.found = Found()
        minutes = self.goal.budget.minutes
        self.deadline = float("inf") if minutes is None else start + 60 * minutes

    def run(self) -> Found:
        """All phases, or as many as the allowance lets."""
        phases = (
            ("float baselines", self.baselines),
            ("preflight", self.preflight),
            ("int8", self.int8),
            ("free reverts", self.free_reverts),
            ("sensitivity", self.sensitivity),
            ("recovery", self.recover),
            ("finalists", self.finalists),
        )
        for name, phase in phases:
            began = self.shop.bench.now()
            if name not in UNASKED and not self.time_left():
                spent = self.goal.budget.minutes
                self.found.stopped = f"the allowance of {spent:g} minutes was spent before: {name}"
                return self.found
            phase()
            self.found.phases.append((name, self.shop.bench.now() - began))
            if self.found.reference is None:
                self.found.stopped = "no float32 artifact ran that computes what the model does"
                return self.found
        self.found.stopped = self.found.stopped or "every phase of the search was finished"
        return self.found

    def time_left(self) -> bool:
        """Whether the allowance is not spent."""
        return self.shop.bench.now() < self.deadline

    # --- 1

    def baselines(self) -> None:
        """Every float artifact, raced together over all threads."""
        self.shop.narrator.say("float baselines")
        variants = []
        for runtime in self.runtimes:
            variants.append(Variant(runtime, "float32"))
            if runtime in BFLOAT16_RUNTIMES and self.bfloat16:
                variants.append(Variant(runtime, "bfloat16"))
            if runtime == "openvino" and self.goal.budget.minimise == "size":
                variants.append(Variant(runtime, "float16"))
        trials = self._threaded(self._built(variants))
        if not trials:
            return
        race = self.shop.race("baselines", trials, 1.5 * len(trials) + 2)
        self.found.add(race, trials)
        floats = [t for t in self.found.trials.values() if is_reference(t.built)]
        if race is not None and floats:
            self.found.reference = min(floats, key=lambda t: race.timing(t.label).p50)
            self.shop.narrator.say(f"  fastest float32: {self.found.reference.label}")

    def preflight(self) -> None:
        """What is worth trying, and where the reference's time goes.

        Left out where it would cost much of the allowance.
        """
        left = self.deadline - self.shop.bench.now()
        if left < LEAST_FOR_PREFLIGHT or self.goal.target.device != "cpu":
            return
        self.found.foreseen = self.shop.preflight(self.runtimes, max(self.threads))
        if self.found.reference is not None:
            self.found.profile = self.shop.profile(self.found.reference)
        if self.found.foreseen is not None:
            first = self.found.foreseen.first_move
            self.shop.narrator.say(f"preflight: {first or 'nothing'} looks best to try first")

    def _promising(self, variant: Variant) -> float:
        """The factor foreseen for a variant: those with the least are built first."""
        if self.found.foreseen is None or variant.recipe == "dynamic":
            return float("inf")
        answer = self.found.foreseen.answer(f"{variant.precision} in {variant.runtime}")
        return float("inf") if answer is None or answer.factor is None else answer.factor.value

    def _built(self, variants: list[Variant]) -> list[Built]:
        """Those that could be built in the time there is; one is built in any case."""
        found: list[Built] = []
        for variant in variants:
            if found and not self.time_left():
                break
            built = self.shop.build(variant)
            if built is not None:
                found.append(built)
        return found

    def _threaded(self, built: list[Built]) -> list[Trial]:
        return [Trial(b, threads) for b in built for threads in self.threads]

    # --- 2

    def int8(self) -> None:
        """Static int8 for each runtime that has int8 kernels; dynamic where it may pay."""
        self.shop.narrator.say("int8")
        variants = [Variant(r, "int8") for r in self.runtimes if r in INT8_RUNTIMES]
        if dynamic_pays(self.shop.folded):
            found = [r for r in self.runtimes if r in DYNAMIC_RUNTIMES]
            variants += [Variant(r, "int8", recipe="dynamic") for r in found]
        variants.sort(key=self._promising)
        self._race_in("int8", self._built(variants))

    def _race_in(self, what: str, built: list[Built]) -> None:
        if not built or self.found.reference is None:
            return
        trials = self._threaded(built)
        field_ = [self.found.reference, *trials]
        race = self.shop.race(what, field_, max(SECONDS, 1.5 * len(field_)))
        self.found.add(race, trials)

    def sensitivity(self) -> None:
        """What each operator of the fastest static int8 variant costs alone, for the report."""
        found = [self._fastest(runtime, "int8", dynamic=False) for runtime in INT8_RUNTIMES]
        trial = fastest([t for t in found if t is not None], self.found.seconds())
        if trial is None:
            return
        try:
            self.found.sensitivity[trial.label] = self.shop.sensitivity(trial.built.variant)
        except Unsupported as error:
            self._note(trial.label, f"what each operator costs was not taken: {error}")

    # --- 3

    def free_reverts(self) -> None:
        """Take what int8 makes slower back to float, and see whether the whole gets faster."""
        for runtime in INT8_RUNTIMES:
            trial = self._fastest(runtime, "int8")
            if trial is None or not self.time_left():
                continue
            floats, int8 = self._operator_seconds(trial)
            slower = slower_in_int8(floats, int8, trial.built.int8)
            if not slower or len(slower) == len(trial.built.int8):
                continue
            lost = sum(int8[name] - floats[name] for name in slower)
            count = "1 operator is" if len(slower) == 1 else f"{len(slower)} operators are"
            self._note(
                trial.label,
                f"{count} slower in int8 than in float "
                f"({', '.join(slower[:3])}{', …' * (len(slower) > 3)}), {1e6 * lost:.0f} us "
                "in all: tried in float",
            )
            built = self.shop.build(without(trial.built.variant, slower))
            if built is not None:
                self._race_in(f"free:{runtime}", [built])

    def _operator_seconds(self, trial: Trial) -> tuple[dict[str, float], dict[str, float]]:
        plain = self.shop.build(Variant(trial.built.variant.runtime, "float32"))
        if plain is None:
            return {}, {}
        return (
            self.shop.operator_seconds(Trial(plain, trial.threads)),
            self.shop.operator_seconds(trial),
        )

    def _fastest(self, runtime: str, precision: str, dynamic: bool = True) -> Trial | None:
        mine = [
            trial
            for trial in self.found.trials.values()
            if trial.built.variant.runtime == runtime
            and trial.built.variant.precision == precision
            and (dynamic or trial.built.variant.recipe != "dynamic")
        ]
        return fastest(mine, self.found.seconds())

    # --- 4

    def recover(self) -> None:
        """The ladder, for each runtime without an int8 variant of good enough quality."""
        for runtime in INT8_RUNTIMES:
            trial = self._fastest(runtime, "int8", dynamic=False)
            if trial is None or self._settled(runtime) or not self.time_left():
                continue
            state = trial.built.verdict["state"]
            self.shop.narrator.say(f"recovery on {runtime} (quality: {state})")
            plain = self.shop.build(Variant(runtime, "float32"))
            if plain is not None and not self.enough(plain):
                said = f"even float32 gets the verdict {plain.verdict['state']!r}"
                self._note(trial.label, f"nothing reverted, {said}: {plain.verdict['reason']}")
                continue
            refined = self._refine(trial)
            if refined is not None:
                self._race_in(f"refined:{runtime}", [refined])
                continue
            floats, int8 = self._operator_seconds(trial)
            cost = reverted_cost(floats, int8)
            sought = climb(self.shop, trial.built, cost, self.time_left, self.enough)
            for step in sought.steps:
                self._note(trial.label, step)
            if sought.found is not None:
                self._race_in(f"recovered:{runtime}", [sought.found])

    def _refine(self, trial: Trial) -> Built | None:
        """The same operators in int8, chosen with more care; None where that is not enough."""
        if trial.built.variant.recipe != "static":
            return None
        for recipe in REFINEMENTS:
            if not self.time_left():
                return None
            built = self.shop.build(replace(trial.built.variant, recipe=recipe))
            if built is None:
                continue
            state = built.verdict["state"]
            self._note(trial.label, f"{recipe}, with every operator still in int8: {state}")
            if self.enough(built):
                return built
        return None

    def _settled(self, runtime: str) -> bool:
        """Whether some int8 variant of good enough quality is static, or the fastest there is."""
        fastest = self._fastest(runtime, "int8")
        return any(
            self.enough(trial.built)
            for trial in self.found.trials.values()
            if trial.built.variant.runtime == runtime
            and trial.built.variant.precision == "int8"
            and (trial.built.variant.recipe != "dynamic" or trial is fastest)
        )

    # --- 5

    def finalists(self) -> None:
        """The best by the objective, raced once more, longer, together with the reference."""
        reference = self.found.reference
        if reference is None:
            return
        good = [t for t in self.found.trials.values() if self.acceptable(t) is None]
        good.sort(key=self.objective)
        field_ = [t for t in good if t.label != reference.label][:FINALISTS]
        if field_:
            self.shop.narrator.say(f"finalists: {'; '.join(t.label for t in field_)}")
            race = self.shop.race("finalists", [reference, *field_], FINAL_SECONDS)
            self.found.add(race, [reference, *field_])

    def objective(self, trial: Trial) -> float:
        """What the budget minimises, of a timed trial."""
        if self.goal.budget.minimise == "latency":
            return self.found.seconds().get(trial.label, float("inf"))
        timing = self.found.races[trial.label].timing(trial.label)
        return float(
            timing.size_bytes if self.goal.budget.minimise == "size" else timing.memory_bytes
        )

    def acceptable(self, trial: Trial) -> str | None:
        """None where the pick may be this trial, else why not."""
        built, timing = trial.built, self.found.races[trial.label].timing(trial.label)
        limits = self.goal.budget.limits
        figures = {
            "latency_ms": timing.p50 * 1e3,
            "size_mb": timing.size_bytes / 1e6,
            "memory_mb": timing.memory_bytes / 1e6,
        }
        for name, limit in limits.items():
            if figures[name] > limit:
                return f"{name} is {figures[name]:.3g}, the limit {limit:g}"
        if built.variant.precision == "float32":
            return (
                None
                if is_reference(built)
                else f"outputs are off the float model's by {_share(built.parity)}"
            )
        if self.enough(built):
            return None
        return f"quality: {built.verdict['state']} ({built.verdict['reason']})"

    def enough(self, built: Built) -> bool:
        """Whether the verdict on validation data will do."""
        state = built.verdict["state"]
        return built.holds or (state == "cannot tell" and self.goal.budget.accept_undecided)

    def _note(self, label: str, what: str) -> None:
        self.found.recovery.append((label, what))
        self.shop.narrator.say(f"  {what}")


def is_reference(built: Built) -> bool:
    """A float32 artifact that computes what the model computes, to float rounding."""
    same = built.parity is not None and built.parity <= PARITY
    return built.variant.precision == "float32" and same


def _share(parity: float | None) -> str:
    return "NaN or infinity" if parity is None else f"{parity:.2g} of the largest"
