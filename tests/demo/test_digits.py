"""The bundled digits: whole, split without overlap, and bent without losing what they are."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import torch

from burnish.demo._digits import DEVIATION, MEAN, Bent, Digits, load_digits


def _images(digits: Digits) -> set[bytes]:
    return {image.numpy().tobytes() for image in digits.images}


def test_the_splits_are_balanced_disjoint_and_always_the_same() -> None:
    parts, again = load_digits(), load_digits()
    assert [len(part.labels) for part in parts] == [3000, 1000, 1000]
    for part, num in zip(parts, (300, 100, 100), strict=True):
        assert torch.bincount(part.labels).tolist() == [num] * 10
        assert part.images.shape[1:] == (1, 28, 28)
        assert len(part.labels[:20].unique()) > 5, "the classes are not mixed"
    seen = [_images(part) for part in parts]
    assert len(seen[0] | seen[1] | seen[2]) == 5000
    assert all(torch.equal(a.images, b.images) for a, b in zip(parts, again, strict=True))


def test_the_digits_are_normalised() -> None:
    train = load_digits()[0]
    assert abs(float(train.images.mean())) < 0.05
    assert abs(float(train.images.std()) - 1) < 0.05
    assert abs(float(train.images.min()) + MEAN / DEVIATION) < 1e-6


def test_batches_keep_everything_in_order() -> None:
    digits = load_digits()[1].first(70)
    batches = digits.batches(32)
    assert [len(labels) for _, labels in batches] == [32, 32, 6]
    assert torch.equal(torch.cat([images for images, _ in batches]), digits.images)
    assert torch.equal(torch.cat([labels for _, labels in batches]), digits.labels)


def test_bent_digits_repeat_by_seed_and_change_by_pass() -> None:
    train = load_digits()[0].first(110)
    one, same, other = Bent(train, 50, 1), Bent(train, 50, 1), Bent(train, 50, 2)
    first, second = list(one), list(one)
    assert len(one) == len(first) == 2
    assert all(len(labels) == 50 for _, labels in first)
    for (a, b), (c, d) in zip([*first, *second], [*same, *same], strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    assert not torch.equal(first[0][0], second[0][0])
    assert not torch.equal(first[0][0], next(iter(other))[0])


def test_bent_digits_are_still_themselves() -> None:
    """Each is nearer to its own original than to most others, with its label and its paper."""
    train = load_digits()[0].first(200)
    paper = -MEAN / DEVIATION
    images, labels = next(iter(Bent(train, 200, 0)))
    flat = (train.images - paper).flatten(1)
    distances = torch.cdist((images - paper).flatten(1), flat)
    same_class = train.labels[distances.argmin(1)] == labels
    assert float(same_class.float().mean()) > 0.7  # bent digits move; chance would be 0.1
    assert float(images.min()) >= paper - 1e-5
    assert float(images.max()) <= float(train.images.max()) + 1e-5
    corners = images[:, 0, [0, 0, 27, 27], [0, 27, 0, 27]]
    assert float((corners - paper).abs().max()) < 0.05


def test_the_notice_stands_beside_the_file() -> None:
    notice = resources.files("burnish.demo").joinpath("NOTICE").read_text(encoding="utf-8")
    for word in ("mnist5k.npz", "LeCun", "Cortes", "ShareAlike 3.0", "unchanged"):
        assert word in notice


def test_the_pixels_are_unchanged(shared_data: Path) -> None:
    ours = resources.files("burnish.demo").joinpath("mnist5k.npz").read_bytes()
    original = (shared_data / "mnist5k.npz").read_bytes()
    assert hashlib.sha256(ours).digest() == hashlib.sha256(original).digest()
