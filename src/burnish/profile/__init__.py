"""What a model costs and what this machine could do: profile, probe, device budgets."""

from __future__ import annotations

from burnish.profile._asking import preflight
from burnish.profile._device import Device, Fit, devices
from burnish.profile._latency import LatencyTable, Prediction
from burnish.profile._operator import Operator
from burnish.profile._preflight import Answer, Preflight
from burnish.profile._probe import Probe
from burnish.profile._probe_run import last_probe, probe
from burnish.profile._profile import Profile, fits
from burnish.profile._profiling import profile
from burnish.profile._shape import OpShape, shapes

__all__ = [
    "Answer",
    "Device",
    "Fit",
    "LatencyTable",
    "OpShape",
    "Operator",
    "Prediction",
    "Preflight",
    "Probe",
    "Profile",
    "devices",
    "fits",
    "last_probe",
    "preflight",
    "probe",
    "profile",
    "shapes",
]
