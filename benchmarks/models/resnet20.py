"""ResNet-20 on CIFAR-10 in its JPEG form, with the weights that were fine-tuned on it.

512 images of the train split calibrate; the 10,000 of the test split are validation.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import torch
from networks.resnet20 import ResNet20
from safetensors.torch import load_file

from burnish.errors import InvalidInput, MissingExtra
from burnish.metrics import top1
from models.model import NUM_TRAINING, Model, Sources, batches

IMAGES = "cifar10-jpeg.zip"
WEIGHTS = "resnet20-cifar10-jpeg.safetensors"
NUM_CALIBRATION = 512
BATCH = 64
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def network(sources: Sources) -> ResNet20:
    """With the fine-tuned weights."""
    found = ResNet20()
    found.load_state_dict(load_file(sources.find(WEIGHTS)))
    return found.eval()


def load(sources: Sources) -> Model:
    """The network and images of both splits."""
    with zipfile.ZipFile(sources.find(IMAGES)) as archive:
        train, test = (images_of(archive, split) for split in ("train", "test"))
        generator = torch.Generator().manual_seed(sources.seed)
        drawn = torch.randperm(len(train), generator=generator)[:NUM_TRAINING].tolist()
        chosen = sources.order(len(test))
        parts = []
        for members, order in ((train, drawn), (test, chosen)):
            rows = [members[index] for index in order]
            names = [name for name, _ in rows]
            images = [_image(archive, name) for name in sources.watch(names, "reading images")]
            labels = torch.tensor([label for _, label in rows])
            parts.append(batches((torch.stack(images),), labels, BATCH))
    return Model(
        name="resnet20",
        title="ResNet-20, CIFAR-10",
        kind="convolutional",
        size="3 × 32 × 32",
        network=network(sources),
        names=("x",),
        calibration=parts[0][: NUM_CALIBRATION // BATCH],
        validation=parts[1],
        metric=top1,
        training=parts[0],
    )


def images_of(archive: zipfile.ZipFile, split: str) -> list[tuple[str, int]]:
    """(name, class) of every image of a split; classes are numbered by their names' order."""
    found = sorted(
        name
        for name in archive.namelist()
        if name.startswith(f"{split}/") and name.endswith(".jpg") and name.count("/") == 2
    )
    classes = sorted({name.split("/")[1] for name in found})
    if len(classes) != 10:
        raise InvalidInput(f"{archive.filename}: expected {split}/CLASS/NNNN.jpg of ten classes")
    return [(name, classes.index(name.split("/")[1])) for name in found]


def pixels(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image, RGB [32, 32, 3]. MissingExtra without pillow."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("reading images needs pillow: pip install 'burnish[examples]'") from None
    with Image.open(io.BytesIO(archive.read(name))) as image:
        return np.asarray(image.convert("RGB"))


def _image(archive: zipfile.ZipFile, name: str) -> torch.Tensor:
    shares = pixels(archive, name).astype(np.float32) / 255
    scaled = (shares - np.float32(MEAN)) / np.float32(DEVIATION)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
