"""Quantization: number formats, observers, and the steps that turn float models into int8 ones."""

from __future__ import annotations

from burnish.quantize._allocate import Allocation, Option, Seam, allocate
from burnish.quantize._blocks import QuantizeWeights, quantize_weights
from burnish.quantize._calibrate import Statistics, calibrate
from burnish.quantize._cast import Cast, cast
from burnish.quantize._choose_scale import choose_scale, quantize_tensor_dynamic
from burnish.quantize._coverage import Coverage, coverage
from burnish.quantize._cross_layer import CrossLayerEqualization, equalize_cross_layer
from burnish.quantize._dynamic import QuantizeDynamic
from burnish.quantize._dynamic_call import DynamicModel, quantize_dynamic
from burnish.quantize._entry import fold
from burnish.quantize._mixed import MixedPrecision, mixed_precision
from burnish.quantize._mixed_survey import Survey, survey
from burnish.quantize._observer import Observer
from burnish.quantize._qat import ConvertQat, PrepareQat, convert_qat, prepare_qat
from burnish.quantize._quantize_tensor import quantize_tensor
from burnish.quantize._saturate import Saturation, saturation, without_vnni
from burnish.quantize._sensitivity import sensitivity
from burnish.quantize._sensitivity_table import Sensitivity
from burnish.quantize._settings import Weights
from burnish.quantize._smooth import SmoothQuant, smooth
from burnish.quantize._spec import QSpec
from burnish.quantize._static import QuantizeStatic, quantize_static
from burnish.quantize._tensor import QTensor

__all__ = [
    "Allocation",
    "Cast",
    "ConvertQat",
    "Coverage",
    "CrossLayerEqualization",
    "DynamicModel",
    "MixedPrecision",
    "Observer",
    "Option",
    "PrepareQat",
    "QSpec",
    "QTensor",
    "QuantizeDynamic",
    "QuantizeStatic",
    "QuantizeWeights",
    "Saturation",
    "Seam",
    "Sensitivity",
    "SmoothQuant",
    "Statistics",
    "Survey",
    "Weights",
    "allocate",
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
