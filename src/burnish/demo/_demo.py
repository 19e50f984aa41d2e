"""The demo: train a small network on real digits, then do with it what is done with any model.

`build` is what a user's own file would hold: a function that returns a trained model and a goal.
`demo` hands them to `optimize`, as `burnish optimize FILE.py:build` would.

The run's folder is named after the trained weights: training again on the same machine gives the
same weights, and the run carries on; other weights are another run.

Left out: any setting. Copy `build` and change it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import nn

from burnish.auto import Result, optimize
from burnish.demo._digits import Bent, load_digits
from burnish.demo._network import DigitNet
from burnish.goal import Budget, Goal, Inputs, Target, Task
from burnish.metrics import top1
from burnish.train import fit

RUNS = Path("burnish-runs")
EPOCHS, LEARNING_RATE, TRAIN_BATCH = 10, 0.005, 50
NUM_CALIBRATION = 256
BATCH = 8

Watch = Callable[[Iterable[Any], str], Iterable[Any]]


def build(seed: int = 0, watch: Watch | None = None) -> tuple[nn.Module, Goal]:
    """The trained network and what is wanted of it.

    Args:
        seed: of the weights, of training and of the search; the digits are split the same way.
        watch: wraps an iterable with a title, as a progress bar does.
    """
    train, validation, test = load_digits()
    inputs = Inputs(train.images[:BATCH])
    lessons = Task(inputs, top1, train=Bent(train, TRAIN_BATCH, seed), loss=F.cross_entropy)
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        model = fit(
            DigitNet(),
            lessons,
            epochs=EPOCHS,
            learning_rate=LEARNING_RATE,
            schedule="one_cycle",
            weight_decay=0.05,
            seed=seed,
            watch=watch,
        ).model.eval()
    task = Task(
        inputs,
        top1,
        calibration=train.first(NUM_CALIBRATION).batches(32),
        validation=validation.batches(100),
        test=test.batches(100),
    )
    return model, Goal(task, Target(batch=BATCH), Budget(max_drop=0.02, minutes=1.5), seed)


def demo(out: Path | None = None, console: Console | None = None) -> Result:
    """Train the network, optimize it, and save the bundle and the report.

    Args:
        out: also save the bundle and the report page there; they are in the run's folder anyway.
        console: where progress goes and, at the end, the table and the two paths. Without one,
            progress goes to the error stream and the caller prints the result.

    Raises:
        InvalidInput: `out` cannot be saved to.
    """
    progress = console or Console(stderr=True)
    progress.print("Training a small network on 3,000 handwritten digits", highlight=False)
    model, goal = build(watch=_bar(progress))
    folder = RUNS / f"demo-{_digest(model)}"
    result = optimize(model, goal, name="demo", run_folder=folder, console=progress)
    if out is not None:
        result.save(out)
    if console is not None:
        _announce(result, out or result.run_folder, console)
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """Train on one thread: the same weights on any number of cores.

    On a busy machine it is faster, too: threads that wait for one another took minutes there, one
    thread 20 seconds.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _announce(result: Result, folder: Path, console: Console) -> None:
    console.print(str(result), markup=False, highlight=False)
    bundle = folder if (folder / "manifest.json").is_file() else folder / "bundle"
    for what, path in (("report", folder / "report.html"), ("bundle", bundle)):
        if path.exists():
            console.print(f"{what:<7}{path}", markup=False, highlight=False, soft_wrap=True)


def _bar(console: Console) -> Watch:
    def watch(items: Iterable[Any], title: str) -> Iterable[Any]:
        quiet = not console.is_terminal
        return track(items, title, console=console, transient=True, disable=quiet)

    return watch


def _digest(model: nn.Module) -> str:
    hasher = hashlib.blake2b(digest_size=4)
    for name, tensor in sorted(model.state_dict().items()):
        hasher.update(name.encode() + tensor.numpy().tobytes())
    return hasher.hexdigest()
