"""Which modules draw at random in training and leave no trace in a graph of eval mode.

A dropout in eval mode is nothing, so there is no node for it; stochastic depth is a Python `if`. A
graph cannot tell that they were there, and the modules can: whoever drops things keeps the chance
of it in an attribute, and calls it by that name.

Left out: modules that draw without saying so (noise added in `forward`).
"""

from __future__ import annotations

from torch import nn


def lost_in_eval(model: nn.Module) -> tuple[str, ...]:
    """Modules that drop something at random in training, of which eval mode leaves no trace.

    They are told by a number above 0 in an attribute named for it (`p` of a dropout, `drop_prob`,
    `attention_dropout`). Recurrent networks are not among them: their operator keeps its dropout.
    """
    found = []
    for path, module in model.named_modules():
        if isinstance(module, nn.RNNBase):
            continue
        for name, value in vars(module).items():
            kind = type(module).__name__
            named = "drop" in name.lower() or (name == "p" and "drop" in kind.lower())
            if named and type(value) in (int, float) and value > 0:
                found.append(f"{path or 'the model'} ({kind}, {name}={value})")
    return tuple(found)
