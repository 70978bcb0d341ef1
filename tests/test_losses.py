"""Eq. 1 against NumPy in float64."""

import gc
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from coadvise.errors import ModelError
from coadvise.losses import Objective, co_advise_loss, several_soft_advice, soft_advice


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def cross_entropy(z: np.ndarray, target: np.ndarray) -> float:
    return float(-(target * log_softmax(z)).sum(axis=1).mean())


def divergence(teacher: np.ndarray, student: np.ndarray, tau: float) -> float:
    """τ² · KL(teacher ‖ student), summed class by class as the definition has it."""
    p, log_q = np.exp(log_softmax(teacher / tau)), log_softmax(student / tau)
    total = 0.0
    for row_p, row_q in zip(p, log_q, strict=True):
        total += sum(pi * (np.log(pi) - qi) for pi, qi in zip(row_p, row_q, strict=True))
    return tau**2 * total / len(p)


@pytest.fixture
def z() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = ("class", "conv", "inv", "t_conv", "t_inv", "extra")
    return {name: rng.normal(size=(6, 5)) * 3 for name in names}


def tensors(z: dict[str, np.ndarray], *names: str) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(z[f"t_{name}" if f"t_{name}" in z and name not in z else name]) for name in names}


SOFT = np.random.default_rng(1).dirichlet(np.ones(5), size=6)


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("soft", [False, True])
def test_equation_1(z: dict[str, np.ndarray], tau: float, soft: bool) -> None:
    labels = np.array([0, 1, 2, 3, 4, 0])
    target = SOFT if soft else np.eye(5)[labels]
    weights = {"class": 0.5, "conv": 0.25, "inv": 2.0}
    terms = co_advise_loss(
        tensors(z, "class", "conv", "inv"),
        {"conv": torch.tensor(z["t_conv"]), "inv": torch.tensor(z["t_inv"])},
        torch.tensor(target) if soft else torch.tensor(labels),
        weights=weights,
        temperatures={"conv": tau, "inv": tau + 1},
    )
    expected = {
        "class": cross_entropy(z["class"], target),
        "conv": divergence(z["t_conv"], z["conv"], tau),
        "inv": divergence(z["t_inv"], z["inv"], tau + 1),
    }
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=2e-6)
    assert float(terms.total) == pytest.approx(sum(weights[n] * v for n, v in expected.items()), rel=2e-6)
    assert list(terms) == ["class", "conv", "inv"]


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_classes_that_a_teacher_masks_add_nothing(z: dict[str, np.ndarray], tau: float) -> None:
    """The divergence over the classes that are left, in float64; the gradient pushes the masked ones down."""
    z["t_conv"][:, [1, 3]] = -np.inf
    left, log_q = [0, 2, 4], log_softmax(z["conv"] / tau)
    p = np.exp(log_softmax(z["t_conv"][:, left] / tau))
    expected = tau**2 * (p * (np.log(p) - log_q[:, left])).sum() / len(p)
    student = torch.tensor(z["conv"], dtype=torch.float32, requires_grad=True)
    loss = soft_advice(student, torch.tensor(z["t_conv"], dtype=torch.float32), tau)
    assert np.isclose(loss.item(), expected, rtol=1e-5)
    loss.backward()
    q, full = np.exp(log_q), np.zeros_like(log_q)
    full[:, left] = p
    assert np.allclose(student.grad.numpy(), tau * (q - full) / len(p), atol=1e-6)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_of_classes_that_a_teacher_does_not_know_it_says_nothing(z: dict[str, np.ndarray], tau: float) -> None:
    """The divergence of both distributions given one of the known classes, in float64; the student's logits of the
    other classes get no gradient, and those of the known ones none that changes how likely these are together."""
    known = [0, 2, 4]
    expected = divergence(z["t_conv"][:, known], z["conv"][:, known], tau)
    top = np.eye(3)[z["t_conv"][:, known].argmax(axis=1)]
    z["t_conv"][:, [1, 3]] = -np.inf
    student = torch.tensor(z["conv"], dtype=torch.float32, requires_grad=True)
    arguments = {"class": torch.tensor(z["class"]), "conv": student}, {"conv": torch.tensor(z["t_conv"])}
    target, options = torch.arange(6) % 5, {"known": {"conv": known}}
    terms = co_advise_loss(*arguments, target, temperatures={"conv": tau}, **options)
    assert float(terms["conv"]) == pytest.approx(expected, rel=2e-6)
    terms["conv"].backward()
    assert not student.grad[:, [1, 3]].any() and student.grad[:, known].abs().max() > 0.01
    assert student.grad.sum(dim=1).abs().max() < 1e-6
    hard = Objective(kind="hard", **options)(*arguments, target)
    assert float(hard["conv"]) == pytest.approx(cross_entropy(z["conv"][:, known], top), rel=2e-6)


def test_hard_advice_is_cross_entropy_to_the_top_class(z: dict[str, np.ndarray]) -> None:
    terms = co_advise_loss(
        tensors(z, "class", "conv"), {"conv": torch.tensor(z["t_conv"])}, torch.arange(6) % 5, kind="hard"
    )
    top = np.eye(5)[z["t_conv"].argmax(axis=1)]
    assert float(terms["conv"]) == pytest.approx(cross_entropy(z["conv"], top), rel=2e-6)


def test_single_token_puts_every_term_on_the_class_token(z: dict[str, np.ndarray]) -> None:
    advice = {"conv": torch.tensor(z["t_conv"]), "inv": torch.tensor(z["t_inv"])}
    terms = co_advise_loss(tensors(z, "class"), advice, torch.arange(6) % 5, tokens="single")
    assert float(terms["conv"]) == pytest.approx(divergence(z["t_conv"], z["class"], 1), rel=2e-6)
    assert float(terms["inv"]) == pytest.approx(divergence(z["t_inv"], z["class"], 1), rel=2e-6)


def test_a_token_without_a_teacher_learns_the_labels(z: dict[str, np.ndarray]) -> None:
    terms = co_advise_loss(tensors(z, "class", "conv"), {}, torch.tensor(SOFT), weights={"conv": 0.5})
    assert float(terms["conv"]) == pytest.approx(cross_entropy(z["conv"], SOFT), rel=2e-6)
    assert float(terms.total) == pytest.approx(float(terms["class"] + 0.5 * terms["conv"]), rel=1e-6)


def test_a_third_teacher_needs_no_new_code(z: dict[str, np.ndarray]) -> None:
    advice = {name: torch.tensor(z["t_conv"]) for name in ("conv", "inv", "extra")}
    terms = co_advise_loss(tensors(z, "class", "conv", "inv", "extra"), advice, torch.arange(6) % 5)
    assert float(terms["extra"]) == pytest.approx(divergence(z["t_conv"], z["extra"], 1), rel=2e-6)


def test_gradient_of_advice_is_softmax_difference(z: dict[str, np.ndarray]) -> None:
    """d(τ² KL)/dz = τ (σ(z/τ) − σ(t/τ)) / b, in closed form; teachers get no gradient."""
    student, teacher = torch.tensor(z["conv"], requires_grad=True), torch.tensor(z["t_conv"], requires_grad=True)
    terms = co_advise_loss(
        {"class": torch.tensor(z["class"]), "conv": student},
        {"conv": teacher},
        torch.arange(6) % 5,
        temperatures={"conv": 3.0},
    )
    terms["conv"].backward()
    closed = 3 * (np.exp(log_softmax(z["conv"] / 3)) - np.exp(log_softmax(z["t_conv"] / 3))) / 6
    np.testing.assert_allclose(student.grad.numpy(), closed, atol=1e-6)
    assert teacher.grad is None


def test_half_precision_logits_are_summed_in_float32(z: dict[str, np.ndarray]) -> None:
    logits = {name: value.bfloat16() for name, value in tensors(z, "class", "conv").items()}
    advice = {"conv": torch.tensor(z["t_conv"]).bfloat16()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = co_advise_loss(logits, advice, torch.arange(6) % 5)
    rounded = {name: value.double().numpy() for name, value in {**logits, "t": advice["conv"]}.items()}
    assert terms.total.dtype == torch.float32
    assert float(terms["conv"]) == pytest.approx(divergence(rounded["t"], rounded["conv"], 1), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": {"conv": -1.0}}, "must be ≥ 0"),
        ({"weights": {"cnv": 1.0}}, "did you mean conv"),
        ({"temperatures": {"conv": 0.0}}, "must be > 0"),
        ({"temperatures": {"other": 1.0}}, "no teacher 'other'"),
        ({"advice": {"cov": torch.zeros(6, 5)}}, "has no token of its own"),
        ({"advice": {"conv": torch.zeros(6, 4)}}, r"expected \(6, 5\)"),
        ({"target": torch.zeros(5, dtype=torch.long)}, "target has shape"),
        ({"logits": {"conv": torch.zeros(6, 5)}}, "no 'class' token"),
    ],
)
def test_what_does_not_fit_is_named(change: dict, words: str) -> None:
    arguments = {
        "logits": {"class": torch.zeros(6, 5), "conv": torch.zeros(6, 5)},
        "advice": {"conv": torch.zeros(6, 5)},
        "target": torch.zeros(6, dtype=torch.long),
        **change,
    }
    with pytest.raises(ModelError, match=words):
        co_advise_loss(arguments.pop("logits"), arguments.pop("advice"), arguments.pop("target"), **arguments)


def test_labelled_images_weigh_as_they_would_alone():
    """However few an update has: over all of its micro-batches the term of the labels is the mean over those images."""
    generator = torch.Generator().manual_seed(0)
    logits, said = (torch.randn(12, 4, generator=generator) for _ in range(2))
    weights = torch.tensor([2.0, 1.0, 0.5, 0.5])  # of each image's class
    target = torch.zeros(12, 4)
    where, label = torch.tensor([1, 2, 5]), torch.tensor([3, 0, 2])
    target[where, label] = weights[label]
    advice = {"conv": said}
    parts = [
        co_advise_loss(
            {"class": logits[at : at + 3], "conv": logits[at : at + 3], "free": logits[at : at + 3]},
            {"conv": said[at : at + 3]}, target[at : at + 3], labelled=3 / 12,
        )
        for at in range(0, 12, 3)
    ]  # fmt: skip
    log_q = logits.double() - logits.double().exp().sum(1, keepdim=True).log()
    expected = -sum(weights[k].item() * log_q[i, k].item() for i, k in zip(where, label, strict=True)) / 3
    for name in ("class", "free"):
        assert sum(part[name].item() for part in parts) / 4 == pytest.approx(expected, rel=1e-6)
    assert parts[2]["class"] == 0 and parts[3].total == parts[3]["conv"]
    whole = co_advise_loss({"class": logits, "conv": logits}, advice, target, labelled=3 / 12)
    assert whole["class"].item() == pytest.approx(expected, rel=1e-6)
    assert whole["conv"] == soft_advice(logits, said, 1.0)
    with pytest.raises(ModelError, match="labelled is 0, must be a share"):
        co_advise_loss({"class": logits}, {}, target, labelled=0)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_any_number_of_classes(z: dict[str, np.ndarray], tau: float) -> None:
    """Binary cross entropy and KL of each class by their definitions, mean over all of them."""
    target = np.random.default_rng(2).random((6, 5)).round(1)
    terms = co_advise_loss(
        tensors(z, "class", "conv", "inv", "extra"),
        {"conv": torch.tensor(z["t_conv"]), "inv": torch.tensor(z["t_inv"])},
        torch.tensor(target), labels="several", temperatures={"conv": tau}, known={"inv": (1, 4)},
    )  # fmt: skip

    def entropy(q: np.ndarray, p: np.ndarray) -> float:
        return float(-(p * np.log(q) + (1 - p) * np.log(1 - q)).mean())

    def binary(teacher: np.ndarray, student: np.ndarray, t: float) -> float:
        p, q = sigmoid(teacher / t), sigmoid(student / t)
        return t**2 * float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean())

    expected = {
        "class": entropy(sigmoid(z["class"]), target),
        "conv": binary(z["t_conv"], z["conv"], tau),
        "inv": binary(z["t_inv"][:, [1, 4]], z["inv"][:, [1, 4]], 1.0),
        "extra": entropy(sigmoid(z["extra"]), target),
    }
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    assert float(terms.total) == pytest.approx(sum(expected.values()), rel=1e-5)
    hard = co_advise_loss(
        tensors(z, "class", "conv"), {"conv": torch.tensor(z["t_conv"])}, torch.tensor(target), labels="several",
        kind="hard",
    )  # fmt: skip
    said = (sigmoid(z["t_conv"]) > 0.5).astype(float)
    assert float(hard["conv"]) == pytest.approx(entropy(sigmoid(z["conv"]), said), rel=1e-5)


def test_several_agrees_with_timm_and_takes_extreme_logits() -> None:
    from timm.loss import BinaryCrossEntropy

    logits, target = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.rand(4, 3)
    assert Objective(labels="several")({"class": logits}, {}, target).total == BinaryCrossEntropy(0.0)(logits, target)
    extreme = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, -float("inf")]])
    one = co_advise_loss(
        {"class": torch.zeros(1, 3), "conv": extreme}, {"conv": teacher}, torch.ones(1, 3), labels="several"
    )
    one.total.backward()
    assert one["conv"].isfinite()
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()


def test_several_needs_a_row_for_each_image() -> None:
    with pytest.raises(ModelError, match="takes a target"):
        Objective(labels="several")({"class": torch.zeros(2, 3)}, {}, torch.tensor([0, 1]))


class Alive(TorchDispatchMode):
    """Bytes of the results that are still there."""

    def __init__(self, given: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.given = {one.untyped_storage().data_ptr() for one in given}
        self.storages: dict[int, tuple[weakref.ref[Any], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.untyped_storage().data_ptr() not in self.given:
            storage = found.untyped_storage()
            self.storages[storage.data_ptr()] = weakref.ref(found), storage.nbytes()
        return found

    @property
    def bytes(self) -> int:
        return sum(size for one, size in self.storages.values() if one() is not None)


@pytest.mark.parametrize("labels", ["one", "several"])
def test_large_16_bit_logits_keep_no_copies_and_lose_nothing(labels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the backward pass there is one float32 copy, that of the labels' term, and not one or more a teacher."""
    b, k = 64, 5000
    generator = torch.Generator().manual_seed(0)
    names = ("class", "conv", "inv", "third")
    given = {name: torch.randn(b, k, generator=generator).bfloat16() for name in names}
    advice = {name: torch.randn(b, k, generator=generator) for name in names[1:]}
    target = torch.randn(b, k, generator=generator).softmax(1) if labels == "one" else torch.eye(b, k)
    found = {}
    for large in (0, 10**9):
        monkeypatch.setattr("coadvise.losses.objective.LARGE", large)
        logits = {name: one.clone().requires_grad_() for name, one in given.items()}
        gc.collect()
        with Alive([*logits.values(), *advice.values(), target]) as alive:
            terms = co_advise_loss(logits, advice, target, temperatures={"conv": 3.0}, labels=labels)
            gc.collect()
            held = alive.bytes
        terms.total.backward()
        found[large] = held, terms, {name: one.grad for name, one in logits.items()}
    (lean, terms, gradients), (plain, expected, exact) = found[0], found[10**9]
    copy = 4 * b * k
    assert lean < 1.1 * copy and plain > lean + 5 * copy, (lean / copy, plain / copy)
    assert all(torch.equal(terms[name], expected[name]) for name in names)
    assert all(torch.equal(gradients[name], exact[name]) for name in names)


def test_gradients_against_finite_differences_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the advice alone in double precision, which training does not use: `float` is left out."""
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64)
    student.requires_grad_()
    for advise in (soft_advice, several_soft_advice):
        assert torch.autograd.gradcheck(lambda z, advise=advise: advise(z, teacher, 2.5), (student,))
