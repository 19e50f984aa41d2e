"""What there is to choose for mixed precision: layers, their precisions, losses, bytes and seams.

A survey is taken once for a model and a runtime; any number of budgets are allocated from it. It
holds no decision. Precisions, and what they are to a runtime:

    float32     as it was
    bfloat16    what is not quantized computes in bfloat16: OpenVINO's execution type, which is one
                for a whole file, so that it stands in the place of float32 and not beside it
    int8        statically quantized weights and activations (`QuantizeStatic`)
    int4        weights stored in blocks of 4 bits, computed in float (`QuantizeWeights`)

Left out: int8 weights without int8 activations; float32 beside bfloat16 in one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from burnish.core import Choices, Option, check_figure
from burnish.errors import InvalidInput, NoEffect, Unsupported
from burnish.graph import Traced, matching
from burnish.quantize._blocks.blocks import QuantizeWeights
from burnish.quantize._blocks.round import BlockSpec
from burnish.quantize._calibration.calibrate import Statistics
from burnish.quantize._graphs.coverage import INT8, Coverage, coverage
from burnish.quantize._graphs.entry import refuse_quantized
from burnish.quantize._graphs.place import place
from burnish.quantize._graphs.policy import policy_for
from burnish.quantize._mixed.layers import Layer, between, layers_of, stored_bytes
from burnish.quantize._mixed.loss import losses
from burnish.quantize._static.static import QuantizeStatic

FLOATS = ("float32", "bfloat16")
PRECISIONS = (*FLOATS, INT8, "int4")
SPEC = BlockSpec(bits=4)
STATES = {INT8: INT8, "int4": "int4 weights"}
_COMPUTES_BFLOAT16 = ("openvino",)
Cost = Callable[[str, str], float]


@dataclass(frozen=True)
class Survey:
    """What each layer of a model could be, on one runtime.

    `losses` and `num_bytes` are by layer and precision; `between` holds the elements that go from
    one layer to another (`layers`).
    """

    runtime: str
    precisions: tuple[str, ...]
    layers: tuple[Layer, ...]
    losses: Mapping[str, Mapping[str, float]]
    num_bytes: Mapping[str, Mapping[str, float]]
    between: Mapping[tuple[str, str], int]

    @property
    def base(self) -> str:
        """What a layer is that is not quantized: "float32" or "bfloat16"."""
        return next(p for p in self.precisions if p in FLOATS)

    @property
    def refused(self) -> dict[str, Mapping[str, str]]:
        """For each layer the precisions it cannot have, with reasons."""
        return {layer.name: layer.refused for layer in self.layers}

    def options(self, cost: Cost) -> dict[str, dict[str, Option]]:
        """What there is to choose from, with a cost for each layer and precision.

        Raises:
            InvalidInput: the cost function gives NaN, a negative, infinity or no number; the
                message names the layer.
        """
        return {
            name: {
                precision: Option(
                    check_figure(cost(name, precision), "cost", name, precision),
                    loss,
                    form_of(precision),
                )
                for precision, loss in mine.items()
            }
            for name, mine in self.losses.items()
        }

    def uniform(self, precision: str) -> dict[str, str]:
        """Every layer in one precision; in the float one where it cannot have that."""
        return {
            name: precision if precision in mine else self.base
            for name, mine in self.losses.items()
        }


def form_of(precision: str) -> str:
    """What neighbours see: integers of int8 operators, floats of all others."""
    return "int8" if precision == INT8 else "float"


def survey(
    folded: Traced,
    statistics: Statistics,
    runtime: str = "onnxruntime",
    precisions: Sequence[str] = ("float32", INT8),
    exclude: Sequence[str] = (),
) -> Survey:
    """Look at every layer in every precision.

    Args:
        folded: the float graph, its batch-norms folded; left as it was.
        statistics: what `calibrate` saw of it; up to 32 of its samples are run again.
        runtime: "onnxruntime" or "openvino".
        precisions: one of "float32" and "bfloat16", with "int8", "int4" or both.
        exclude: layers to keep in float: names, module paths, patterns.

    Raises:
        InvalidInput: precisions that are not known or do not go together; an entry of `exclude`
            that matches nothing; a model that is quantized already; statistics without samples.
        Unsupported: a precision that the runtime cannot hold.
        NoEffect: no layer could have a precision other than the float one.
    """
    precisions = check_precisions(precisions, runtime)
    refuse_quantized(folded, "MixedPrecision")
    if statistics.sample.num == 0:
        raise InvalidInput(
            "mixed precision runs calibration samples again, and these statistics kept none: "
            "calibrate on data"
        )
    plans: dict[str, tuple[Coverage, ...]] = {}
    static = None
    if INT8 in precisions:
        static = _everything_int8(folded, statistics, runtime)
        plans[INT8] = _int8_rows(folded, runtime, static)
    if "int4" in precisions:
        plans["int4"] = _int4_rows(folded, runtime)
    layers = layers_of(folded, plans, STATES)
    layers = _without(layers, exclude, tuple(plans))
    if all(set(plans) <= set(layer.refused) for layer in layers):
        raise NoEffect(_nothing(layers, runtime))
    found = losses(folded, statistics, layers, precisions, static, SPEC)
    num_bytes = {
        layer.name: {
            precision: stored_bytes(folded, layer, precision, SPEC.block_size)
            for precision in found[layer.name]
        }
        for layer in layers
    }
    return Survey(runtime, precisions, layers, found, num_bytes, between(folded, layers))


def check_precisions(precisions: Sequence[str], runtime: str) -> tuple[str, ...]:
    """The precisions as a tuple. InvalidInput or Unsupported as `survey` says."""
    policy_for(runtime)
    if isinstance(precisions, str) or not all(p in PRECISIONS for p in precisions):
        raise InvalidInput(f"precisions={precisions!r}: some of {', '.join(PRECISIONS)}")
    floats = [p for p in FLOATS if p in precisions]
    if "bfloat16" in floats and runtime not in _COMPUTES_BFLOAT16:
        raise Unsupported(
            f"precisions={tuple(precisions)}: {runtime} has no bfloat16 kernels for convolutions "
            f"and products on the CPU; take float32, or runtime={_COMPUTES_BFLOAT16[0]!r}"
        )
    if len(floats) != 1 or len(set(precisions)) < 2:
        raise InvalidInput(
            f"precisions={tuple(precisions)}: one of float32 and bfloat16 (what is not quantized "
            "computes in one type in a whole file), and int8, int4 or both"
        )
    return tuple(p for p in PRECISIONS if p in precisions)


def _everything_int8(
    folded: Traced, statistics: Statistics, runtime: str
) -> tuple[QuantizeStatic, Choices] | None:
    step = QuantizeStatic(runtime)
    try:
        return step, step.choose_from(folded, statistics)
    except NoEffect:
        return None


def _int8_rows(
    folded: Traced, runtime: str, static: tuple[QuantizeStatic, Choices] | None
) -> tuple[Coverage, ...]:
    if static is not None:
        return coverage(static[1])
    return place(folded.graph_module, policy_for(runtime)).coverage


def _int4_rows(folded: Traced, runtime: str) -> tuple[Coverage, ...]:
    try:
        return coverage(QuantizeWeights(runtime, bits=SPEC.bits).choose_from(folded))
    except NoEffect:
        return ()


def _without(
    layers: Sequence[Layer], exclude: Sequence[str], precisions: Sequence[str]
) -> tuple[Layer, ...]:
    """The layers, those of `exclude` with nothing but float to choose."""
    names = [layer.name for layer in layers]
    kept = {name for found in matching(names, exclude, "exclude").values() for name in found}
    refused = dict.fromkeys(precisions, "excluded")
    return tuple(
        replace(layer, refused=refused) if layer.name in kept else layer for layer in layers
    )


def _nothing(layers: Sequence[Layer], runtime: str) -> str:
    lines = [
        f"  {layer.name}: {'; '.join(f'{p}: {why}' for p, why in layer.refused.items())}"
        for layer in layers
    ]
    head = f"no layer can have another precision than the float one on {runtime}"
    return "\n".join([f"{head}:" if lines else f"{head}: it has none with weights", *lines[:6]])
