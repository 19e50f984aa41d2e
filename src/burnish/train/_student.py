"""The copy of a model that learns, and how it is switched between training and evaluation.

A module carries its mode in flags; an exported graph has it built into its nodes, so that switching
makes another graph over the same tensors. Here both look alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from burnish.core import copied_model
from burnish.errors import InvalidInput, Unsupported
from burnish.graph import Traced, set_mode


class Student:
    """A deep copy of `model`, in train mode.

    `module` is what learns. `lost` names what a traced model no longer has in training.

    Raises:
        InvalidInput: no parameter takes gradients.
        Unsupported: the model cannot be copied.
    """

    def __init__(self, model: nn.Module) -> None:
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InvalidInput(
                "no parameter of the model takes gradients: there is nothing to train; call "
                "model.requires_grad_(True), or train another model"
            )
        self._device = next(model.parameters()).device
        self._flags = {name: module.training for name, module in model.named_modules()}
        try:
            copied = copied_model(model)
        except Exception as error:
            raise Unsupported(
                f"the model cannot be copied ({type(error).__name__}: {error}), and fit trains a "
                "copy so that yours stays as it is: take out what is no part of the network"
            ) from error
        self._keeps_mode = isinstance(copied, Traced) and model.training
        self.lost = copied.lost if isinstance(copied, Traced) else ()
        if isinstance(copied, Traced):
            self.module: nn.Module = set_mode(copied, True, share=True)
        else:
            self.module = copied.train()

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The model in eval mode, with the weights it has now."""
        if isinstance(self.module, Traced):
            yield set_mode(self.module, False, share=True)
            return
        self.module.eval()
        try:
            yield self.module
        finally:
            self.module.train()

    def result(self) -> nn.Module:
        """The trained model: without gradients, its mode and its device as they were."""
        for parameter in self.module.parameters():
            parameter.grad = None
        trained = self.module.to(self._device)
        if isinstance(trained, Traced):
            return trained if self._keeps_mode else set_mode(trained, False, share=True)
        for name, module in trained.named_modules():
            module.training = self._flags[name]
        return trained


def not_finite(model: nn.Module) -> str | None:
    """The name of a parameter that holds NaN or infinity; None where there is none."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            return name
    return None
