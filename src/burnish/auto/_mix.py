"""Mixed precision on measured costs, on every runtime allowed; the better one is kept.

    for each runtime, and on OpenVINO for float32 and for bfloat16 in place of it (a *ladder*):
        survey the layers → artifacts of one precision each, raced and timed by operator
        → a probe of what changing precision costs → table of costs
        → allocate → measure the whole → correct the table → allocate once more → measure
    → race all that may be picked → the least error within the limit

The limit is in milliseconds, in megabytes, or on the error (then time is made least under it).
What is picked was measured; a limit counts as kept to five per cent, about what timing a whole
again strays by. The uniform artifacts compete: where one of them is both faster and has less error
than what was allocated, it is the pick.

Left out: more than one limit at once; quality by the metric as a limit (`optimize` climbs by
verdicts; here a verdict is told of each artifact); threads as a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from torch import nn

from burnish.auto._bench import Bench, RealBench
from burnish.auto._console import Narrator
from burnish.auto._mix_asked import check_asked, empty_folder, ladders_wanted, limit_of
from burnish.auto._mix_result import Mix
from burnish.auto._mix_search import Search
from burnish.auto._mix_shop import Shop
from burnish.goal import Goal
from burnish.hardware import detect


def mix(
    model: nn.Module,
    goal: Goal,
    *,
    latency_ms: float | None = None,
    size_mb: float | None = None,
    error: float | None = None,
    precisions: Sequence[str] = (),
    folder: Path | str | None = None,
    bench: Bench | None = None,
    console: Console | None = None,
) -> Mix:
    """Give each layer the precision that a limit leaves it, on the runtime where that is best.

    Args:
        model: a trained model; left as it was.
        goal: calibration data is run for ranges and losses, validation data for quality; its
            target says the runtimes allowed, threads and batch; its budget the verdict's margin.
        latency_ms: the most that the median call may take.
        size_mb: the most that the files may hold, in 10^6 bytes.
        error: the most squared error that the outputs may have, as a share of their power. One of
            the three is given.
        precisions: of "float32", "bfloat16", "int8" and "int4"; empty for what each runtime holds.
        folder: where artifacts are kept; a new temporary one unless told.
        bench: the clock; only tests need another.
        console: where progress is shown; the error stream unless told otherwise.

    Raises:
        InvalidInput: no limit or several, one that is NaN or not above 0, missing data, precisions
            that do not go together, a folder that is not empty.
        Unsupported: no runtime of the target holds a precision that was asked for.
        Infeasible: nothing measured keeps the limit; `result` is a `Mix` whose pick is the nearest.
        NoEffect: no layer can have another precision on any of the runtimes.
    """
    limit = limit_of(latency_ms, size_mb, error)
    check_asked(model, goal)
    wanted = ladders_wanted(goal, tuple(precisions))
    narrator = Narrator(console)
    where = empty_folder(folder)
    threads = goal.target.threads or detect().cores
    shop = Shop(model, goal, where, bench or RealBench(), narrator, threads)
    return Search(shop, limit).run(wanted)
