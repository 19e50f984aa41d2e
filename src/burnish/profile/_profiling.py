"""Profiling a model: count it, see that it fits this machine, time it in every runtime, tell.

Counting and liveness need no run and come first: a model that this machine's memory cannot hold at
the asked batch is refused in words, before anything that large is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from torch import nn

from burnish.bench import Environment
from burnish.errors import InvalidInput
from burnish.graph import Traced
from burnish.profile._call import arrays_at, check_settings, example_of, traced_at
from burnish.profile._count import Counts, count_flow
from burnish.profile._device import Device, Fit, fit
from burnish.profile._device import devices as known_devices
from burnish.profile._figures import bytes_text, count_text
from burnish.profile._flow import flow
from burnish.profile._measure import Measured, Progress, Terms, measure
from burnish.profile._memory import Memory, liveness
from burnish.profile._operator import Operator
from burnish.profile._probe import Probe
from burnish.profile._probe_run import last_probe
from burnish.profile._profile import Profile
from burnish.profile._roof import Roof, roof
from burnish.runtimes import strided_weights

RUNTIMES = ("eager", "onnxruntime", "openvino")
_FEW = 4  # names in a note


def profile(
    model: nn.Module,
    inputs: Any,
    *,
    batch: int = 1,
    threads: int | None = None,
    runtimes: Sequence[str] = RUNTIMES,
    seconds: float = 3.0,
    peaks: Probe | None = None,
    devices: Sequence[Device] | None = None,
    title: str | None = None,
    progress: Progress | None = None,
) -> Profile:
    """What a model holds, moves and takes, operator by operator, on this machine.

    Args:
        model: in float; left as it was. A `Traced` is taken as it is.
        inputs: one example call: `Inputs`, a tensor, a tuple of arguments, a mapping of keywords,
            or a `Task` or `Goal` that holds one. Further dynamic axes keep their sizes.
        batch: samples in a call.
        threads: of each runtime; None for every core this process may use.
        runtimes: where to time it; () only counts.
        seconds: how long the runtimes are raced, loading and exporting excluded.
        peaks: the machine's, for shares of peak and bounds; None: those measured before, if any.
        devices: the devices to answer `fits` for; None for the known ones.
        title: the model's name; None for its class's.
        progress: is told what is being done, in a few words.

    Raises:
        InvalidInput: a call without an element, a batch or a runtime that cannot be, a model that
            this machine's memory does not hold.
        Unsupported: torch.export refuses the model.
    """
    told, environment = progress or _silent, Environment.capture()
    check_settings(batch, threads, runtimes, seconds)
    example = example_of(inputs)
    told("tracing the model")
    traced = traced_at(model, example, batch)
    counts, memory = _counted(traced, batch, environment.machine.memory_bytes, told)
    peaks = last_probe(threads=threads) if peaks is None else peaks
    threads = threads or environment.machine.cores
    terms = Terms(tuple(dict.fromkeys(runtimes)), threads, seconds)
    measured: tuple[Measured, ...] = ()
    if runtimes:  # the arrays of a batch that is only counted are never made
        measured = measure(traced, counts.names, arrays_at(traced, example, batch), terms, told)
    return Profile(
        title=type(model).__name__ if title is None else title,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        batch=batch,
        threads=threads,
        environment=environment,
        num_parameters=counts.num_parameters,
        macs=counts.macs,
        operators=_operators(counts, measured, peaks),
        runs=tuple(item.run for item in measured),
        memory=memory,
        peaks=peaks,
        fits=_fits(counts, memory, known_devices() if devices is None else devices),
        notes=_notes(model, counts, peaks, bool(measured)),
    )


def _silent(doing: str) -> None:
    pass


def _counted(traced: Traced, batch: int, available: int, told: Progress) -> tuple[Counts, Memory]:
    """What is known without a run.

    InvalidInput where weights and living activations are more than this machine has.
    """
    told("counting")
    found = flow(traced, batch)
    counts, needs = count_flow(traced, found), liveness(found)
    total = needs.weight_bytes + needs.peak_bytes
    if available and total > available:
        raise InvalidInput(
            f"at batch={batch} the model needs {bytes_text(total)} at least "
            f"({bytes_text(needs.weight_bytes)} of weights, {bytes_text(needs.peak_bytes)} of "
            f"activations at {needs.peak_at}); this process may use {bytes_text(available)}: "
            "take a smaller batch, or smaller inputs"
        )
    return counts, needs


def _fits(counts: Counts, memory: Memory, devices: Sequence[Device]) -> tuple[Fit, ...]:
    sizes = memory.weight_bytes, memory.peak_bytes, counts.num_parameters
    return tuple(fit(*sizes, device) for device in devices)


def _operators(
    counts: Counts, measured: Sequence[Measured], peaks: Probe | None
) -> tuple[Operator, ...]:
    timed = {item.run.name: item for item in measured if item.run.failed is None}
    groups = {name: _groups(item) for name, item in timed.items()}
    operators = []
    for counted in counts.operators:
        name = counted.name
        roofs: dict[str, Roof | None] = dict.fromkeys(timed)
        for which, item in timed.items():
            if peaks is not None and name in item.seconds:
                group = (name, *groups[which].get(name, ()))
                macs = sum(counts.operator(inner).macs or 0 for inner in group)
                num_bytes = counts.traffic(group)
                roofs[which] = roof(macs, num_bytes, item.seconds[name], peaks, which)
        operators.append(
            Operator.of(
                counted,
                seconds={which: item.seconds.get(name) for which, item in timed.items()},
                fused_into={which: item.fused.get(name) for which, item in timed.items()},
                roofline=roofs,
            )
        )
    return tuple(operators)


def _groups(measured: Measured) -> dict[str, list[str]]:
    """The operators inside each kernel, by the one that has its time."""
    inside: dict[str, list[str]] = {}
    for inner, owner in measured.fused.items():
        inside.setdefault(owner, []).append(inner)
    return inside


def _notes(model: nn.Module, counts: Counts, peaks: Probe | None, timed: bool) -> tuple[str, ...]:
    notes = []
    if counts.unknown:
        notes.append(f"MACs are not known, and count 0 in the total, for {_listed(counts.unknown)}")
    unread = sum(parameter.numel() for parameter in model.parameters()) - counts.num_parameters
    if unread > 0:
        notes.append(f"{count_text(unread)} of the model's parameters are read by no operator")
    scattered = strided_weights(model)
    if scattered:
        notes.append(
            "stored with gaps or out of order, made contiguous in what is exported: "
            f"{_listed(scattered)}"
        )
    if timed and peaks is None:
        notes.append(
            "shares of peak and bounds need the machine's peaks: give `peaks=probe()`, or "
            "`--probe` on the command line"
        )
    return tuple(notes)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _FEW
    return ", ".join(names[:_FEW]) + (f" and {more} more" if more > 0 else "")
