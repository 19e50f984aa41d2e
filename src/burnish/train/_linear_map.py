"""A layer and the batch-norm right behind it as one linear map, and back again.

In eval mode a batch-norm multiplies each channel by a number and adds another, so that it and the
convolution or linear before it compute v z together, for z = (x, 1): what a repair fits. Going
back, a change is laid into tensors that may be written: a new constant into the batch-norm's shift,
where there is one, and else into the bias; a factor into its gain, and else into the weights.

Left out: adding a bias, a gain or a shift where there is none.
"""

from __future__ import annotations

import torch

from burnish.train._layers import Layer


class LinearMap:
    """A layer and its batch-norm: scale * (W x + bias - mean) + shift = v z.

    Args:
        layer: whose it is, and what of it may be written.
        parts: its tensors (`tensors_of`).
        inputs: the shape of one of its inputs, [n, channels, ...spatial] or [..., features].

    `v` is float64 [groups, outputs, columns + 1], the constant last. `can_shift` says whether the
    constant may change: the layer has a bias, or its batch-norm a shift, that is its own.
    """

    def __init__(self, layer: Layer, parts: dict[str, torch.Tensor], inputs: torch.Size) -> None:
        self._parts = {name: tensor.double().cpu() for name, tensor in parts.items()}
        weight = self.weight = self._parts["weight"]
        groups = inputs[1] // weight.shape[1] if weight.dim() > 2 else 1
        self.shape = (groups, weight.shape[0] // groups)
        self._has_gain = "gain" in layer.own
        self._constant = next((part for part in ("shift", "bias") if part in layer.own), None)
        self.can_shift = self._constant is not None
        self._scale = torch.ones(len(weight), dtype=torch.float64)
        if layer.norm is not None:
            eps = layer.norm.args[7]
            assert isinstance(eps, float)
            self._scale = self._part("gain", 1.0) * (self._parts["variance"] + eps).rsqrt()
        constant = self._scale * (self._part("bias") - self._part("mean")) + self._part("shift")
        matrix = weight.reshape(*self.shape, -1) * self._scale.reshape(*self.shape, 1)
        self.v = torch.cat([matrix, constant.reshape(*self.shape, 1)], -1)

    def _part(self, name: str, default: float = 0.0) -> torch.Tensor:
        """One number for each output channel."""
        if name in self._parts:
            return self._parts[name]
        return torch.full((len(self.weight),), default, dtype=torch.float64)

    def parts_for(
        self, v: torch.Tensor, factor: torch.Tensor, changed: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The tensors that make the layer compute `v` in its `changed` channels.

        Args:
            v: as of this map.
            factor: what of `v` is a factor on a channel's weights, [groups, outputs]; it goes into
                the batch-norm's gain where that may be written, and else into the weights.
            changed: which channels, [groups, outputs]; the others stay bit for bit.
        """
        channels, turned = changed.reshape(-1), torch.ones_like(self._scale)
        new = {}
        if self._has_gain and bool((factor != 1).any()):
            turned = factor.reshape(-1)
            new["gain"] = self._part("gain", 1.0) * turned
        scale = self._scale * turned
        moved = (v[..., :-1] != self.v[..., :-1]).any(-1).reshape(-1) & channels & (turned == 1)
        if bool(moved.any()):
            matrix = v[..., :-1].reshape(len(scale), -1) / scale.unsqueeze(1)
            kept = self.weight.reshape(len(scale), -1)
            new["weight"] = torch.where(moved.unsqueeze(1), matrix, kept).reshape(self.weight.shape)
        if self._constant is not None:
            bias, mean, constant = self._part("bias"), self._part("mean"), v[..., -1].reshape(-1)
            if self._constant == "shift":
                wanted = constant - scale * (bias - mean)
            else:
                wanted = (constant - self._part("shift")) / scale + mean
            new[self._constant] = torch.where(channels, wanted, self._part(self._constant))
        return new
