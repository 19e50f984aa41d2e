"""Which models the zoo holds, how each is built, and the size of its images.

torchvision's own list is asked, so that a model it adds is not forgotten. Images are small where
the architecture allows it: what is checked is shapes and sums, not quality. No weights are
downloaded.

Left out: detectors as a whole. Their forward loops over boxes, which torch.export refuses (a row
tells how); what carries their channels is taken instead, and the row names it.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torchvision.models import detection, get_model, list_models, segmentation

from zoo.entry import Entry

PIXELS = 64
# Where 64 is too few, or was fixed when the model was built.
_PIXELS = {"inception_v3": 299, "maxvit": 224, "vit_h_14": 56, "vit_": 96, "swin": 96}
_SETTINGS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    "vit_h_14": {"image_size": 56},
    "vit_": {"image_size": 96},
    "maxvit": {"input_size": (224, 224)},
}
# A hundred million parameters and more: last, one after the other.
_LARGE = (
    *("vit_l", "vit_h", "regnet_y_128gf", "regnet_y_32gf", "regnet_x_32gf", "convnext_large"),
    *("vgg", "wide_resnet101", "efficientnet_v2_l", "swin_b", "swin_v2_b", "convnext_base"),
    *("resnext101", "vit_b", "efficientnet_b7", "regnet_y_16gf"),
)
# One of the smallest of each family, and its pixels.
_TIMM = {
    "vit_tiny_patch16_224": 224,
    "deit_tiny_patch16_224": 224,
    "deit_tiny_distilled_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "convnext_atto": 64,
    "convnextv2_atto": 64,
    "efficientnet_b0": 64,
    "efficientnet_lite0": 64,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_035": 64,
    "mobilenetv4_hybrid_medium": 96,
    "regnetx_002": 64,
    "regnety_002": 64,
    "densenet121": 64,
    "res2net50_26w_4s": 64,
    "mixer_s32_224": 224,
    "resmlp_12_224": 224,
    "gmlp_ti16_224": 224,
    "seresnet18": 64,
    "resnest14d": 64,
    "skresnet18": 64,
    "ghostnet_050": 64,
    "repvgg_a0": 64,
    "mobileone_s0": 64,
    "fastvit_t8": 96,
    "hrnet_w18_small": 64,
    "dla34": 64,
    "ese_vovnet19b_dw": 64,
    "cspresnet50": 64,
    "poolformer_s12": 96,
    "levit_128s": 224,
    "pit_ti_224": 224,
    "cait_xxs24_224": 224,
    "coat_lite_tiny": 224,
    "crossvit_tiny_240": 240,
    "edgenext_xx_small": 96,
    "mobilevit_xxs": 96,
    "mobilevitv2_050": 96,
    "xcit_nano_12_p16_224": 224,
    "eva02_tiny_patch14_224": 224,
    "davit_tiny": 96,
    "inception_next_tiny": 96,
    "efficientvit_b0": 96,
    "repvit_m0_9": 96,
    "starnet_s1": 64,
    "hgnetv2_b0": 64,
    "mambaout_femto": 64,
    "sequencer2d_s": 224,
    "swinv2_tiny_window8_256": 256,
    "nfnet_f0": 64,
}


class Parts(nn.Module):
    """A detector's backbone and heads: what it computes before any box is chosen."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = self.head(list(self.backbone(images).values()))
        return found


def entries() -> dict[str, Entry]:
    """All of them by name, the large ones last."""
    found = [_classifier(name) for name in list_models(module=torchvision.models)]
    found += [_segmenter(name) for name in list_models(module=segmentation)]
    found += _detectors()
    found += [_of_timm(name, pixels) for name, pixels in _TIMM.items()]
    found.sort(key=lambda entry: entry.large)
    return {entry.name: entry for entry in found}


def _classifier(name: str) -> Entry:
    settings = _of_prefix(_SETTINGS, name) or {}
    return Entry(
        name,
        "torchvision, classification",
        _of_prefix(_PIXELS, name) or PIXELS,
        lambda: get_model(name, weights=None, **settings),
        name.startswith(_LARGE),
    )


def _of_prefix(table: dict[str, Any], name: str) -> Any:
    return next((value for prefix, value in table.items() if name.startswith(prefix)), None)


def _segmenter(name: str) -> Entry:
    return Entry(
        name,
        "torchvision, segmentation",
        PIXELS,
        lambda: get_model(name, weights=None, weights_backbone=None),
    )


def _detectors() -> list[Entry]:
    kind, lite = "torchvision, detection", "ssdlite320_mobilenet_v3_large"

    def detector(name: str) -> Any:
        return get_model(name, weights=None, weights_backbone=None)

    def backbone(name: str) -> Entry:
        return Entry(f"{name}: backbone", kind, PIXELS, lambda: detector(name).backbone)

    names = [name for name in list_models(module=detection) if name.startswith("fasterrcnn")]
    return [
        Entry(lite, kind, 320, lambda: detector(lite), listed=True),
        Entry(f"{lite}: backbone and heads", kind, 320, lambda: Parts(detector(lite))),
        *(backbone(name) for name in names),
    ]


def _of_timm(name: str, pixels: int) -> Entry:
    return Entry(f"timm: {name}", "timm", pixels, lambda: timm.create_model(name, pretrained=False))
