"""Losses on logits are their papers' formulas, and none of the formulas one writes by mistake."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.distill import (
    binary_distillation_loss,
    dist,
    distillation_loss,
    dkd,
    jensen_shannon,
    mean_squared_logits,
    regression_distillation_loss,
    reverse_kl,
    standardize,
)
from tests.distill import logits_oracle as oracle

GENERATOR = torch.Generator().manual_seed(5)
STUDENT = torch.randn(4, 5, generator=GENERATOR, dtype=torch.float64) * 2
TEACHER = torch.randn(4, 5, generator=GENERATOR, dtype=torch.float64) * 3
ANSWERS = torch.randn(4, 5, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([0, 3, 4, 3])

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Formula = Callable[[oracle.Rows, oracle.Rows], float]

CASES: dict[str, tuple[Loss, Formula]] = {
    "standardized": (
        lambda s, t: distillation_loss(standardize(s), standardize(t), temperature=2.0),
        lambda s, t: oracle.hinton(oracle.standardized(s), oracle.standardized(t), 2.0),
    ),
    "mean_squared_logits": (
        mean_squared_logits,
        lambda s, t: oracle.ba_and_caruana(s, t) * 2 / 5,  # 5 classes
    ),
    "regression": (
        regression_distillation_loss,
        lambda s, t: oracle.ba_and_caruana(s, t) * 2 / 5,
    ),
}
for temperature in (0.7, 1.0, 4.0, 20.0):
    for name, loss, formula in [
        ("distillation_loss", distillation_loss, oracle.hinton),
        ("reverse_kl", reverse_kl, oracle.reverse),
        ("jensen_shannon", jensen_shannon, oracle.jensen_shannon),
        ("binary", binary_distillation_loss, oracle.one_versus_all),
    ]:
        CASES[f"{name} at T={temperature}"] = (
            partial(loss, temperature=temperature),
            partial(formula, temperature=temperature),
        )
for alpha, beta, temperature in [(1.0, 8.0, 4.0), (0.0, 1.0, 1.0), (1.0, 0.0, 2.0)]:
    CASES[f"dkd {alpha} {beta} at T={temperature}"] = (
        partial(dkd, target=LABELS, alpha=alpha, beta=beta, temperature=temperature),
        partial(
            oracle.dkd, target=LABELS.tolist(), alpha=alpha, beta=beta, temperature=temperature
        ),
    )
for beta, gamma, temperature in [(1.0, 1.0, 1.0), (2.0, 0.0, 4.0), (0.0, 2.0, 4.0)]:
    CASES[f"dist {beta} {gamma} at T={temperature}"] = (
        partial(dist, beta=beta, gamma=gamma, temperature=temperature),
        partial(oracle.dist, beta=beta, gamma=gamma, temperature=temperature),
    )
for margin in (0.0, 8.0):
    CASES[f"teacher-bounded by {margin}"] = (
        partial(regression_distillation_loss, target=ANSWERS, margin=margin),
        partial(oracle.teacher_bounded, target=ANSWERS.tolist(), margin=margin),
    )


@pytest.mark.parametrize("case", CASES)
def test_a_loss_is_its_paper_s_formula(case: str) -> None:
    loss, formula = CASES[case]
    torch.testing.assert_close(
        float(loss(STUDENT, TEACHER)),
        formula(STUDENT.tolist(), TEACHER.tolist()),
        rtol=2e-5,  # of standardize's and dist's epsilons
        atol=1e-12,
    )


@pytest.mark.parametrize("case", CASES)
def test_its_gradient_is_the_formula_s(case: str) -> None:
    """Of the formula by differences, and of the loss by gradcheck."""
    loss, formula = CASES[case]
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, TEACHER), student)
    step, by_differences = 1e-6, torch.zeros_like(STUDENT)
    for row in range(4):
        for column in range(5):
            sides = []
            for sign in (1, -1):
                moved = STUDENT.clone()
                moved[row, column] += sign * step
                sides.append(formula(moved.tolist(), TEACHER.tolist()))
            by_differences[row, column] = (sides[0] - sides[1]) / (2 * step)
    torch.testing.assert_close(gradient, by_differences, rtol=1e-4, atol=1e-5)
    assert torch.autograd.gradcheck(lambda s: loss(s, TEACHER), (student,))


@pytest.mark.parametrize("case", CASES)
def test_the_teacher_is_a_constant(case: str) -> None:
    teacher = TEACHER.clone().requires_grad_()
    student = STUDENT.clone().requires_grad_()
    CASES[case][0](student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("teacher-")])
def test_a_student_that_agrees_has_nothing_to_learn(case: str) -> None:
    student = TEACHER.clone().requires_grad_()
    loss = CASES[case][0](student, TEACHER)
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-5


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith(("dkd", "teacher-"))])
def test_a_sequence_is_that_many_rows(case: str) -> None:
    loss = CASES[case][0]
    folded = loss(STUDENT.view(2, 2, 5), TEACHER.view(2, 2, 5))
    torch.testing.assert_close(folded, loss(STUDENT, TEACHER))


def test_dkd_of_a_sequence_counts_what_has_no_label_as_0() -> None:
    student, teacher = STUDENT.view(2, 2, 5), TEACHER.view(2, 2, 5)
    target = torch.tensor([[0, -100], [4, -100]])
    torch.testing.assert_close(
        dkd(student, teacher, target),
        dkd(STUDENT[[0, 2]], TEACHER[[0, 2]], LABELS[[0, 2]]) / 2,  # two of four rows
    )
    student = STUDENT.clone().requires_grad_()
    nothing = dkd(student, TEACHER, torch.full((4,), -100))
    nothing.backward()
    assert nothing.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_dkd_taken_together_again_is_hinton_s_loss() -> None:
    """Equation 7 of the paper: beta = 1 - p_target of the teacher, for each sample."""
    for row in range(4):
        sample = slice(row, row + 1)
        p_target = float((TEACHER[row] / 4.0).softmax(0)[LABELS[row]])
        both = dkd(STUDENT[sample], TEACHER[sample], LABELS[sample], alpha=1.0, beta=1 - p_target)
        torch.testing.assert_close(both, distillation_loss(STUDENT[sample], TEACHER[sample]))


def test_squared_logits_are_what_a_high_temperature_tends_to() -> None:
    student, teacher = (x - x.mean(1, keepdim=True) for x in (STUDENT, TEACHER))
    hot = distillation_loss(student, teacher, temperature=1e4)
    torch.testing.assert_close(hot, mean_squared_logits(student, teacher) / 2, rtol=1e-3, atol=0)


def test_two_classes_are_one_yes_or_no() -> None:
    pair = [torch.stack([torch.zeros(4).double(), x[:, 0]], 1) for x in (STUDENT, TEACHER)]
    torch.testing.assert_close(
        distillation_loss(*pair, temperature=3.0),
        binary_distillation_loss(STUDENT[:, 0], TEACHER[:, 0], temperature=3.0),
    )


@pytest.mark.parametrize("loss", [distillation_loss, reverse_kl, jensen_shannon, dist])
def test_what_is_added_to_a_whole_row_changes_nothing(loss: Callable[..., torch.Tensor]) -> None:
    shift = torch.tensor([[3.0], [-7.0], [100.0], [0.5]], dtype=torch.float64)
    torch.testing.assert_close(loss(STUDENT + shift, TEACHER), loss(STUDENT, TEACHER))


def test_standardized_logits_are_the_same_at_every_scale() -> None:
    scaled = standardize(7 * STUDENT - 2)
    torch.testing.assert_close(scaled, standardize(STUDENT), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        scaled.std(1, correction=0), torch.ones(4).double(), rtol=1e-5, atol=0
    )


@pytest.mark.filterwarnings("ignore:.*batchmean:UserWarning")  # of mean, rightly
class TestMistakes:
    """Each mistake people make with Hinton's loss gives another number than ours."""

    ours = float(distillation_loss(STUDENT, TEACHER))

    def test_the_right_one_by_hand(self) -> None:
        assert self.by_hand() == pytest.approx(self.ours, rel=1e-9)

    @pytest.mark.parametrize(
        "mistake",
        [
            {"of_student": F.softmax},  # probabilities where kl_div wants their logarithms
            {"factor": 1.0},  # no T^2
            {"factor": 4.0},  # T
            {"reduction": "mean"},  # over samples and classes
            {"reduction": "sum"},
            {"swapped": True},
            {"dim": 0},  # a softmax over the batch
        ],
        ids=str,
    )
    def test_a_mistake_differs(self, mistake: dict) -> None:
        assert self.by_hand(**mistake) != pytest.approx(self.ours, rel=0.05)

    def by_hand(
        self,
        of_student=F.log_softmax,
        of_teacher=F.softmax,
        factor: float = 16.0,
        reduction: str = "batchmean",
        swapped: bool = False,
        dim: int = 1,
    ) -> float:
        student, teacher = (TEACHER, STUDENT) if swapped else (STUDENT, TEACHER)
        q, p = of_student(student / 4.0, dim=dim), of_teacher(teacher / 4.0, dim=dim)
        return float(F.kl_div(q, p, reduction=reduction)) * factor

    def test_mean_for_batchmean_is_small_by_the_number_of_classes(self) -> None:
        assert self.by_hand(reduction="mean") * 5 == pytest.approx(self.ours, rel=1e-9)

    @pytest.mark.parametrize("layer", [nn.Dropout(0.3), nn.BatchNorm1d(5)], ids=["dropout", "bn"])
    def test_a_teacher_in_training_mode_differs(self, layer: nn.Module) -> None:
        torch.manual_seed(0)
        teacher = nn.Sequential(nn.Linear(5, 5), layer, nn.Linear(5, 5)).double()
        with torch.no_grad():
            right = float(distillation_loss(STUDENT, teacher.eval()(ANSWERS)))
            wrong = float(distillation_loss(STUDENT, teacher.train()(ANSWERS)))
        assert wrong != pytest.approx(right, rel=0.01)
