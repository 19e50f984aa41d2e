"""Teacher signals and what learns from them: `distill`, its losses, and students to start from."""

from __future__ import annotations

from burnish.distill._attention import AttentionTransfer, attention_transfer_loss
from burnish.distill._balance import Balanced
from burnish.distill._blockwise import reconstruct
from burnish.distill._contrast import CRD, crd_loss
from burnish.distill._distill import Distill, distill
from burnish.distill._features import FeatureSignal
from burnish.distill._hints import Hint, hint_loss
from burnish.distill._logits import LogitSignal
from burnish.distill._logits_binary import BinaryKD, binary_distillation_loss
from burnish.distill._logits_classes import CommonClasses
from burnish.distill._logits_dist import DIST, dist
from burnish.distill._logits_dkd import DKD, dkd
from burnish.distill._logits_softmax import (
    KD,
    JensenShannon,
    ReverseKL,
    distillation_loss,
    jensen_shannon,
    reverse_kl,
)
from burnish.distill._logits_squared import (
    LogitMSE,
    RegressionKD,
    mean_squared_logits,
    regression_distillation_loss,
)
from burnish.distill._logits_standardize import Standardized, standardize
from burnish.distill._relations import (
    PKT,
    RKD,
    SimilarityPreserving,
    pkt_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    similarity_preserving_loss,
)
from burnish.distill._student import Student, make_student
from burnish.distill._synthesize import Synthesized, synthesize
from burnish.distill._tap import Tap, tapped
from burnish.distill._teachers import SelfTeacher, Teacher
from burnish.distill._variational import VID, vid_loss

__all__ = [
    "CRD",
    "DIST",
    "DKD",
    "KD",
    "PKT",
    "RKD",
    "VID",
    "AttentionTransfer",
    "Balanced",
    "BinaryKD",
    "CommonClasses",
    "Distill",
    "FeatureSignal",
    "Hint",
    "JensenShannon",
    "LogitMSE",
    "LogitSignal",
    "RegressionKD",
    "ReverseKL",
    "SelfTeacher",
    "SimilarityPreserving",
    "Standardized",
    "Student",
    "Synthesized",
    "Tap",
    "Teacher",
    "attention_transfer_loss",
    "binary_distillation_loss",
    "crd_loss",
    "dist",
    "distill",
    "distillation_loss",
    "dkd",
    "hint_loss",
    "jensen_shannon",
    "make_student",
    "mean_squared_logits",
    "pkt_loss",
    "reconstruct",
    "regression_distillation_loss",
    "reverse_kl",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "similarity_preserving_loss",
    "standardize",
    "synthesize",
    "tapped",
    "vid_loss",
]
