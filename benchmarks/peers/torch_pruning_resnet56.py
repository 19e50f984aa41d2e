"""ResNet-56 pruned by torch-pruning as its README does it, to a share of the multiply-accumulates.

    python torch_pruning_resnet56.py WEIGHTS KEPT OUT

Its defaults: `BasePruner` with the group importance of L2 norms, one ratio for all layers, the
classifier ignored. The ratio is halved in until no more than KEPT of the multiply-accumulates, as
it counts them, are left. OUT is the state dict, as safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch_pruning
from networks.resnet20 import ResNet56
from safetensors.torch import load_file, save_file


def pruned(weights: str, ratio: float) -> tuple[torch.nn.Module, float]:
    """The network, and the share of multiply-accumulates that is left."""
    network = ResNet56().eval()
    network.load_state_dict(load_file(weights))
    example = torch.zeros(1, 3, 32, 32)
    before, _ = torch_pruning.utils.count_ops_and_params(network, example)
    torch_pruning.pruner.BasePruner(
        network,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[network.linear],
    ).step()
    after, _ = torch_pruning.utils.count_ops_and_params(network, example)
    return network, after / before


def main(weights: str, kept: float, out: str) -> None:
    low, high = 0.0, 0.9
    for _ in range(12):
        ratio = (low + high) / 2
        low, high = (low, ratio) if pruned(weights, ratio)[1] <= kept else (ratio, high)
    network, left = pruned(weights, high)
    print(f"ratio {high:.4f} leaves {left:.4f} of the multiply-accumulates")
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, out)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
