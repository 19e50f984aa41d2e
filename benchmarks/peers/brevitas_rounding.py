"""Brevitas's learned rounding (AdaRound) at 4-bit weights and 8-bit activations, simulated.

By the functions and defaults of its own program for image classification: layer by layer, 1,000
steps each with Adam at 0.001, hard sigmoid, regularised squared error. Changed: the batch, from
one image to 16; float32 in place of float16, in which a CPU is far slower; scales of weights per
channel by squared error, as ours are; 4 bits in every layer. In the environment NUM says how many
validation samples answer, STEPS another number of steps.
"""

from __future__ import annotations

import os
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from brevitas.graph.quantize import preprocess_for_quantize
from brevitas_examples.common.learned_round.learned_round_trainer import (
    LearnedRoundTrainer,
    get_blocks,
)
from brevitas_examples.imagenet_classification.ptq.learned_round_utils import (
    CacheVision,
    is_layer,
    parse_args_to_dataclass,
    vision_block_forward,
    vision_forward,
)
from brevitas_examples.imagenet_classification.ptq.ptq_common import calibrate, quantize_model
from handover import Done, Given, Stopwatch, run, versions
from networks.resnet20 import ResNet20
from safetensors.torch import load_file
from torch import nn

ANSWER_BATCH = 64
BATCH = 16
ROUNDING = {
    "learned_round": "hard_sigmoid",
    "learned_round_mode": "layerwise",
    "learned_round_loss": "regularised_mse",
    "learned_round_iters": int(os.environ.get("STEPS", "1000")),
    "learned_round_lr": 1e-3,
    "learned_round_lr_scheduler": None,
    "learned_round_batch_size": BATCH,
}
BITS = {
    "weight_bit_width": 4,
    "act_bit_width": 8,
    "bias_bit_width": 32,
    "layerwise_first_last_bit_width": 4,
    "weight_quant_granularity": "per_channel",
    "weight_param_method": "mse",
    "act_quant_percentile": 99.999,
    "act_quant_type": "asym",
    "scale_factor_type": "float_scale",
    "quant_format": "int",
}


def quantize(given: Given, out: Path) -> Done:
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    network = ResNet20()
    network.load_state_dict(load_file(given.work / "network.safetensors"))
    network.eval()
    answer(given, network, out / "float.npy")
    loader = [
        (torch.from_numpy(given.only(at, at + BATCH)), torch.zeros(BATCH))
        for at in range(0, given.num_calibration, BATCH)
    ]
    watch = Stopwatch()
    prepared = preprocess_for_quantize(network)
    watch.lap("trace")
    quantized = quantize_model(prepared, "layerwise", **BITS).eval()
    with torch.no_grad():
        quantized(loader[0][0])
        calibrate(loader, quantized)
    watch.lap("nearest")
    answer(given, quantized, out / "nearest.npy")
    watch.lap("answer")
    learn(quantized, loader)
    watch.lap("learned rounding")
    answer(given, quantized, out / "learned.npy")
    seconds = watch.seconds
    seconds["quantize"] = seconds["nearest"] + seconds["learned rounding"]
    settings: dict[str, object] = {**ROUNDING, **BITS}
    return Done("brevitas", "", seconds, versions("brevitas", "torch"), settings)


def learn(quantized: nn.Module, loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """The program's `apply_learned_round`, in float32."""
    config = parse_args_to_dataclass(Namespace(**ROUNDING))
    config.training_args.use_amp = False
    LearnedRoundTrainer(config=config).train(
        model=quantized,
        model_forward=vision_forward,
        block_forward=vision_block_forward,
        data_loader=loader,
        cache=CacheVision(),
        get_blocks_fn=partial(get_blocks, block_check_fn=is_layer),
        keep_gpu=True,
    )


def answer(given: Given, module: nn.Module, path: Path) -> None:
    """Write the logits of the validation samples, float32 [n, classes]."""
    start = given.num_calibration
    stop = min(given.num_samples, start + int(os.environ["NUM"]))
    with torch.no_grad():
        logits = [
            module(torch.from_numpy(given.only(at, min(at + ANSWER_BATCH, stop)))).numpy()
            for at in range(start, stop, ANSWER_BATCH)
        ]
    np.save(path, np.concatenate(logits))


if __name__ == "__main__":
    run(quantize)
