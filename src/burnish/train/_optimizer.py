"""The optimizer and its learning rate, each by name or by torch's own objects.

The model that learns is a copy made by `fit`, so an optimizer cannot be handed over ready-made: it
would hold the parameters of the original. What is handed over is whatever makes one: a class, a
`functools.partial` of a class, any function.

Weight decay is for matrices and kernels. Vectors (biases, the scales of normalisation) have none:
shrinking those costs accuracy and regularises nothing (He et al., 2019, "Bag of tricks").

Left out: a rate per layer, which a function for the optimizer can give; `ReduceLROnPlateau`, which
needs a score where all other schedules need the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from burnish.errors import InvalidInput
from burnish.train._schedule import Schedule

OptimizerFactory = Callable[..., Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler]

_OPTIMIZERS: Mapping[str, OptimizerFactory] = {
    "adamw": AdamW,
    "sgd": lambda groups, **settings: SGD(groups, momentum=0.9, nesterov=True, **settings),
}


def check_optimizer(optimizer: str | OptimizerFactory) -> None:
    """InvalidInput for a name we do not know, or an optimizer that is bound to parameters."""
    if isinstance(optimizer, Optimizer):
        raise InvalidInput(
            f"fit(optimizer=…) is an {type(optimizer).__name__} that holds parameters already, and "
            "fit trains a copy of the model: give the class, or "
            "lambda groups, lr: SGD(groups, lr=lr, momentum=0.9)"
        )
    if not callable(optimizer) and optimizer not in _OPTIMIZERS:
        raise InvalidInput(
            f"fit(optimizer={optimizer!r}): one of {', '.join(sorted(_OPTIMIZERS))}, or a function "
            "of the parameter groups and lr"
        )


def make_optimizer(
    optimizer: str | OptimizerFactory, model: nn.Module, learning_rate: float, weight_decay: float
) -> Optimizer:
    """The optimizer of all parameters of `model` that take gradients."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    factory = _OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    made = factory(groups, lr=learning_rate)
    if not isinstance(made, Optimizer):
        raise InvalidInput(
            f"fit(optimizer=…) returned a {type(made).__name__}: a torch.optim.Optimizer is wanted"
        )
    return made


class Rate:
    """The learning rate over the training: a `Schedule` of ours, or torch's scheduler."""

    def __init__(
        self,
        optimizer: Optimizer,
        learning_rate: float,
        schedule: Schedule | SchedulerFactory,
        num_steps: int,
    ) -> None:
        self._optimizer = optimizer
        self._learning_rate = learning_rate
        self._num_steps = num_steps
        self._schedule = schedule if isinstance(schedule, Schedule) else None
        self._scheduler = None
        if not isinstance(schedule, Schedule):
            self._scheduler = _scheduler(schedule(optimizer, num_steps))

    @property
    def now(self) -> float:
        """The rate of the first parameter group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def set(self, step: int) -> None:
        """Before optimizer step `step`."""
        if self._schedule is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = self._learning_rate * self._schedule.at(step / self._num_steps)

    def stepped(self, step: int) -> None:
        """After optimizer step `step`, where it was not skipped. InvalidInput past its end."""
        if self._scheduler is None or step + 1 >= self._num_steps:
            return
        try:
            self._scheduler.step()
        except ValueError as error:  # OneCycleLR counts
            raise InvalidInput(
                f"the schedule of the learning rate is over at step {step + 1}, and the training "
                f"has {self._num_steps} steps ({error}): make it with the number of steps that "
                "fit(schedule=lambda optimizer, steps: …) is given"
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """Of torch's scheduler; ours has none."""
        return {} if self._scheduler is None else self._scheduler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        if self._scheduler is not None:
            self._scheduler.load_state_dict(dict(state))


def _scheduler(made: Any) -> LRScheduler:
    if isinstance(made, ReduceLROnPlateau) or not isinstance(made, LRScheduler):
        raise InvalidInput(
            f"fit(schedule=…) returned a {type(made).__name__}: an LRScheduler that is stepped "
            "once an optimizer step is wanted, and ReduceLROnPlateau is not"
        )
    return made
