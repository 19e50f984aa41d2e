"""Quantization: number formats, observers, and the steps that turn float models into smaller ones.

A folder for each idea, none importing one that stands below it here:

    _tensors      formats, scales, rounding, storage; knows no graph
    _graphs       what there is to quantize in a float graph, and where quantizers stand
    _rescaling    scale moved from one layer to its neighbour
    _calibration  what data say of values and their ranges
    _smooth       SmoothQuant
    _dynamic      int8 with ranges found at run time
    _static       int8 with ranges found before
    _cast         float16 and bfloat16
    _sensitivity  which quantized operators cost quality
    _blocks       weights alone, in blocks of few bits
    _qat          training with the quantizers in place
    _mixed        a precision for each layer
"""

from __future__ import annotations

from burnish.quantize._blocks.blocks import QuantizeWeights, quantize_weights
from burnish.quantize._calibration.calibrate import Statistics, calibrate
from burnish.quantize._calibration.observer import Observer
from burnish.quantize._cast.cast import Cast, cast
from burnish.quantize._dynamic.call import DynamicModel, quantize_dynamic
from burnish.quantize._dynamic.dynamic import QuantizeDynamic
from burnish.quantize._graphs.coverage import Coverage, coverage
from burnish.quantize._graphs.entry import fold
from burnish.quantize._mixed.mixed import MixedPrecision, mixed_precision
from burnish.quantize._mixed.survey import Survey, survey
from burnish.quantize._qat.qat import ConvertQat, PrepareQat, convert_qat, prepare_qat
from burnish.quantize._rescaling.cross_layer import CrossLayerEqualization, equalize_cross_layer
from burnish.quantize._sensitivity.sensitivity import sensitivity
from burnish.quantize._sensitivity.table import Sensitivity
from burnish.quantize._smooth.smooth import SmoothQuant, smooth
from burnish.quantize._static.saturate import Saturation, saturation, without_vnni
from burnish.quantize._static.settings import Weights
from burnish.quantize._static.static import QuantizeStatic, quantize_static
from burnish.quantize._tensors.choose_scale import choose_scale, quantize_tensor_dynamic
from burnish.quantize._tensors.quantize import quantize_tensor
from burnish.quantize._tensors.spec import QSpec
from burnish.quantize._tensors.tensor import QTensor

__all__ = [
    "Cast",
    "ConvertQat",
    "Coverage",
    "CrossLayerEqualization",
    "DynamicModel",
    "MixedPrecision",
    "Observer",
    "PrepareQat",
    "QSpec",
    "QTensor",
    "QuantizeDynamic",
    "QuantizeStatic",
    "QuantizeWeights",
    "Saturation",
    "Sensitivity",
    "SmoothQuant",
    "Statistics",
    "Survey",
    "Weights",
    "calibrate",
    "cast",
    "choose_scale",
    "convert_qat",
    "coverage",
    "equalize_cross_layer",
    "fold",
    "mixed_precision",
    "prepare_qat",
    "quantize_dynamic",
    "quantize_static",
    "quantize_tensor",
    "quantize_tensor_dynamic",
    "quantize_weights",
    "saturation",
    "sensitivity",
    "smooth",
    "survey",
    "without_vnni",
]
