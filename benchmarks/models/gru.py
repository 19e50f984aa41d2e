"""A GRU of two layers on a watch's acceleration and rotation during shoulder exercises.

Windows of 2.56 s at 25 Hz: tracing a recurrence takes time for every step. Three of the ten people
are held out whole and are the validation data, in groups: windows of one person are not
independent. The network is trained on the others by `burnish.train.fit`, once, and kept in the
cache. 512 of their windows calibrate.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from networks.gru import WindowClassifier
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from burnish import Task
from burnish.metrics import top1
from burnish.train import fit
from models.model import NUM_TRAINING, Model, Sources, batches

WEIGHTS = "gru.safetensors"
FILE = "shoulder_imu_50hz.npz"
EVERY = 2  # of the samples at 50 Hz
LENGTH, STRIDE = 64, 32  # of what is left
NUM_HELD_OUT = 3
NUM_CALIBRATION = 512
BATCH = 64
EPOCHS, LEARNING_RATE = 12, 3e-3


def network(sources: Sources) -> WindowClassifier:
    """With the weights that `load` trained."""
    state = load_file(sources.cache / WEIGHTS)
    found = WindowClassifier(len(state["mean"]), len(state["head.bias"]))
    found.load_state_dict(state)
    return found.eval()


def load(sources: Sources) -> Model:
    """The trained network and the windows."""
    windows, labels, people, classes = read(sources)
    everybody = people.unique(sorted=True)
    held_out = everybody[-NUM_HELD_OUT:]
    outside = torch.isin(people, held_out)
    inside = (~outside).nonzero().flatten()
    generator = torch.Generator().manual_seed(sources.seed)
    mixed = inside[torch.randperm(len(inside), generator=generator)]
    drawn, seen = mixed[:NUM_CALIBRATION], mixed[:NUM_TRAINING]
    asked = outside.nonzero().flatten()
    asked = asked[sources.order(len(asked))]
    if not (sources.cache / WEIGHTS).is_file():
        _train(windows[mixed], labels[mixed], classes, sources)
    return Model(
        name="gru",
        title="GRU of two layers, shoulder exercises",
        kind="recurrent",
        size=f"{LENGTH} × {windows.shape[2]}",
        network=network(sources),
        names=("x",),
        calibration=batches((windows[drawn],), labels[drawn], BATCH),
        validation=batches((windows[asked],), labels[asked], BATCH, people[asked]),
        metric=top1,
        training=batches((windows[seen],), labels[seen], BATCH),
    )


def read(sources: Sources) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """All windows [n, length, channels], their classes and people, and the number of classes."""
    with np.load(sources.find(FILE), allow_pickle=False) as data:
        values, offsets, span = data["x"], data["offsets"], LENGTH * EVERY
        starts = [
            (start, recording)
            for recording, (first, last) in enumerate(pairwise(offsets))
            for start in range(int(first), int(last) - span + 1, STRIDE * EVERY)
        ]
        windows = np.stack([values[start : start + span : EVERY] for start, _ in starts])
        of = np.asarray([recording for _, recording in starts])
        labels, people = data["y"][of].astype(np.int64), data["subject"][of].astype(np.int64)
        classes = len(data["classes"])
    return torch.from_numpy(windows), torch.from_numpy(labels), torch.from_numpy(people), classes


def _train(windows: torch.Tensor, labels: torch.Tensor, classes: int, sources: Sources) -> None:
    """Train the network and keep its weights in the cache."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sources.seed)
        fresh = WindowClassifier(windows.shape[2], classes).eval()
    fresh.mean.copy_(windows.mean((0, 1)))
    fresh.deviation.copy_(windows.std((0, 1)))
    task = Task(
        inputs=windows[:2],
        metric=top1,
        train=list(zip(windows.split(BATCH), labels.split(BATCH), strict=True)),
        loss=F.cross_entropy,
    )
    trained = fit(
        fresh,
        task,
        epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        seed=sources.seed,
        watch=sources.watch,
    ).model
    sources.cache.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in trained.state_dict().items()}
    save_file(state, sources.cache / WEIGHTS)
