"""What a rewrite owes besides: deciding is split from doing, and the decision survives a file.

    class TestMyRewrite(RewriteContract):
        def step(self):
            return MyRewrite(ratio=0.3)

The choices a step made are rewritten twice, on the model it saw and on a fresh one, and once more
after they went through JSON and safetensors: all must give what the step gave, bit for bit.

Left out: a proof that `rewrite` reads no clock and no data. It is shown only that another state of
torch's generator, and another build of the model, make no difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from burnish.core import Candidate, Choices, Rewrite
from burnish.graph import Traced, operator_names
from burnish.testing._fingerprint import differences, fingerprint, same_outputs
from burnish.testing._step import StepContract, Trial, effective
from burnish.testing._tiny import Tiny


class RewriteContract(StepContract):
    """Inherit, give `step` (a `Rewrite`) and, where the plan nests, `names_in`."""

    def names_in(self, choices: Choices) -> Iterable[str]:
        """The names of modules or operators in the plan: its keys, unless it nests."""
        return list(choices.plan)

    def known_names(self, tiny: Tiny, model: nn.Module) -> set[str]:
        """What a plan may name: module paths, and the operators of the traced model."""
        traced = model if isinstance(model, Traced) else tiny.trace()
        paths = {name for name, _ in tiny.build().named_modules()}
        return paths | set(operator_names(traced.graph_module).values())

    def test_is_a_rewrite(self) -> None:
        """`choose`, `rewrite` and what joins them come from the interface."""
        assert isinstance(self.step(), Rewrite), "RewriteContract is for a Rewrite"

    def test_rewrites_alike(self, tiny: Tiny) -> None:
        """Twice the same choices, twice the same model, whatever torch's generator holds."""
        tried = effective(type(self), tiny)
        self._same_as_applied(tiny, tried, tried.before, _choices(tried))
        self._same_as_applied(tiny, tried, tried.before, _choices(tried))

    def test_rewrites_without_touching_the_model(self, tiny: Tiny) -> None:
        """`rewrite` alone leaves its input as it was."""
        tried = effective(type(self), tiny)
        model = self.candidate(tiny).model
        before = fingerprint(model)
        self._rewrite(model, _choices(tried))
        changed = differences(before, fingerprint(model))
        assert not changed, f"rewrite() changed its input: {changed}"

    def test_replays_on_a_fresh_model(self, tiny: Tiny) -> None:
        """The choices hold for the model, not for one object of it."""
        tried = effective(type(self), tiny)
        self._same_as_applied(tiny, tried, self.candidate(tiny), _choices(tried))

    def test_replays_from_a_file(self, tiny: Tiny) -> None:
        """Choices survive JSON and safetensors: same key, same model."""
        tried = effective(type(self), tiny)
        choices = _choices(tried)
        record, tensors = _written(choices)
        again = Choices.from_json(json.loads(record), load(tensors))
        assert again.to_json() == choices.to_json(), (
            "the choices changed on their way through a file"
        )
        self._same_as_applied(tiny, tried, self.candidate(tiny), again)

    def test_stays_in_eval_mode(self, tiny: Tiny) -> None:
        """A model that was asked for in eval mode is in eval mode, all that is new in it too."""
        tried = effective(type(self), tiny)
        model = tried.result.model
        # A graph has one mode, whatever the modules say that hold its tensors.
        modules = [("", model)] if isinstance(model, Traced) else model.named_modules()
        training = [name for name, module in modules if module.training]
        assert not training, f"{training[:4]} of a model in eval mode are in train mode"

    def test_plan_names_what_is_there(self, tiny: Tiny) -> None:
        """Every name in the plan is a module or an operator of the model."""
        tried = effective(type(self), tiny)
        names = set(self.names_in(_choices(tried)))
        unknown = sorted(names - self.known_names(tiny, tried.before.model))
        assert names, "the plan names nothing; override names_in() if it nests"
        assert not unknown, f"the plan names what the model does not have: {unknown[:4]}"

    def _rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        step = self.step()
        assert isinstance(step, Rewrite)
        with torch.random.fork_rng(devices=[]):
            return step.rewrite(model, choices)

    def _same_as_applied(
        self, tiny: Tiny, tried: Trial, candidate: Candidate, choices: Choices
    ) -> None:
        torch.rand(1)  # move torch's generator on: nothing may depend on it
        model = self._rewrite(candidate.model, choices)
        changed = differences(fingerprint(tried.result.model), fingerprint(model))
        assert not changed, f"rewritten again, the model differs: {changed}"
        inputs = tiny.inputs(3, seed=8)
        same: Any = same_outputs(tiny.call(model, inputs), tiny.call(tried.result.model, inputs))
        assert same, "rewritten again, the model gives other outputs"


def _choices(tried: Trial) -> Choices:
    return tried.result.history[-1].choices


def _written(choices: Choices) -> tuple[str, bytes]:
    """The plan as JSON text, and the tensors as a safetensors file under their hashes."""
    record = choices.to_json()
    tensors = {
        record["tensors"][name]: tensor.detach().contiguous().clone()
        for name, tensor in choices.tensors.items()
    }
    return json.dumps(record), save(tensors)
