"""EfficientNet-Lite0 with its ImageNet weights on photos of 44 classes, as in the example.

The network, the reading of photos, the split and the metric are the example's
(examples/efficientnet_lite0.py); its validation and test photos are one here, since nothing is
chosen on them.
"""

from __future__ import annotations

import torch
from efficientnet_lite0 import BATCH, find_photos, preprocess, pretrained, split, top1_accepted
from torch import nn

from models.model import Model, Sources, batches

FOLDER = "caltech44_mini"
LABELS = "imagenet_map.json"


def network(sources: Sources) -> nn.Module:
    """With the weights of the package."""
    return pretrained()


def load(sources: Sources) -> Model:
    """128 photos calibrate, the other 752 are validation."""
    folder = sources.find(FOLDER)
    photos = find_photos(folder, folder / LABELS)
    calibration, *others = split(len(photos.paths), sources.seed)
    rest = [index for part in others for index in part][: sources.num_validation]
    parts = []
    for chosen, what in ((calibration, "calibration"), (rest, "validation")):
        paths = [photos.paths[index] for index in chosen]
        images = [preprocess(path) for path in sources.watch(paths, f"reading {what} photos")]
        parts.append(batches((torch.stack(images),), photos.accepted[chosen], BATCH))
    return Model(
        name="lite0",
        title="EfficientNet-Lite0, photos of 44 classes",
        kind="convolutional",
        size="3 × 224 × 224",
        network=network(sources),
        names=("inputs",),
        calibration=parts[0],
        validation=parts[1],
        metric=top1_accepted,
        training=parts[0],
    )
