"""Advice and gates of later work, against SciPy and plain loops in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import pearsonr, zscore

from coadvise.errors import ModelError
from coadvise.losses import (
    co_advise_loss,
    decoupled_advice,
    dist_advice,
    hard_advice,
    several_hard_advice,
    several_soft_advice,
    soft_advice,
    standardised_advice,
)
from coadvise.recipe.loss import Loss
from coadvise.training.student import make_objective

RNG = np.random.default_rng(0)
STUDENT, OTHER, TEACHER, SECOND = RNG.normal(size=(4, 7, 5)) * 2.5
LABELS = np.array([0, 1, 2, 3, 4, 0, 3])
MIXED = RNG.dirichlet(np.ones(5), size=7)
MIXED[0] = [0.1, 0.45, 0.0, 0.45, 0.0]  # of two equal shares the first


def kl(teacher: np.ndarray, student: np.ndarray, tau: float) -> np.ndarray:
    """τ² · KL of each image."""
    return tau**2 * rel_entr(softmax(teacher / tau, axis=1), softmax(student / tau, axis=1)).sum(axis=1)


def of_z_scores(teacher: np.ndarray, student: np.ndarray, tau: float) -> np.ndarray:
    return kl(zscore(teacher, axis=1), zscore(student, axis=1), tau)


def dist(teacher: np.ndarray, student: np.ndarray, tau: float, inter: float, intra: float) -> float:
    p, q = softmax(teacher / tau, axis=1), softmax(student / tau, axis=1)
    rows = [1 - pearsonr(a, b).statistic for a, b in zip(p, q, strict=True)]
    columns = [1 - pearsonr(a, b).statistic for a, b in zip(p.T, q.T, strict=True)] if intra else [0.0]
    return tau**2 * (inter * float(np.mean(rows)) + intra * float(np.mean(columns)))


def decoupled(
    teacher: np.ndarray, student: np.ndarray, labels: np.ndarray, tau: float, alpha: float, beta: float
) -> np.ndarray:
    """By the definition: of each image the class or not, and the others given that it is one of them."""
    found = []
    for t, s, label in zip(teacher, student, labels, strict=True):
        p, q = softmax(t / tau), softmax(s / tau)
        own = 0.0
        if label >= 0:
            own = rel_entr([p[label], 1 - p[label]], [q[label], 1 - q[label]]).sum()
            p, q = np.delete(p, label), np.delete(q, label)
        found.append(tau**2 * (alpha * own + beta * rel_entr(p / p.sum(), q / q.sum()).sum()))
    return np.array(found)


def tensor(z: np.ndarray) -> torch.Tensor:
    return torch.tensor(z)


def term(student: np.ndarray, teacher: np.ndarray, target: np.ndarray = LABELS, **options: Any) -> float:
    logits = {"class": tensor(OTHER), "conv": tensor(student)}
    return float(co_advise_loss(logits, {"conv": tensor(teacher)}, tensor(target), **options)["conv"])


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_z_scores(tau: float) -> None:
    """Neither scale nor offset of either side matters, image by image."""
    expected = of_z_scores(TEACHER, STUDENT, tau).mean()
    given = {"kind": "standardised", "temperatures": {"conv": tau}}
    assert term(STUDENT, TEACHER, **given) == pytest.approx(expected, rel=1e-5)
    scale, offset = RNG.uniform(0.5, 2, (7, 1)), RNG.normal(size=(7, 1))
    assert term(scale * STUDENT + offset, TEACHER / scale, **given) == pytest.approx(expected, rel=1e-5)
    known = [0, 2, 3]
    masked = np.where(np.isin(np.arange(5), known), TEACHER, -np.inf)
    expected = of_z_scores(TEACHER[:, known], STUDENT[:, known], tau).mean()
    assert term(STUDENT, masked, known={"conv": known}, **given) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("parts", [(1.0, 1.0), (2.0, 0.0), (0.5, 3.0)])
def test_correlation(tau: float, parts: tuple[float, float]) -> None:
    given = {"kind": "dist", "parts": parts, "temperatures": {"conv": tau}}
    assert term(STUDENT, TEACHER, **given) == pytest.approx(dist(TEACHER, STUDENT, tau, *parts), rel=1e-5)
    # Classes of which hardly an image is count like all others.
    rare = TEACHER - np.array([0, 30, 0, 0, 0])
    assert term(STUDENT, rare, **given) == pytest.approx(dist(rare, STUDENT, tau, *parts), rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("target", [LABELS, MIXED], ids=["labels", "mixed"])
def test_target_class_and_others_apart(tau: float, target: np.ndarray) -> None:
    labels = target if target.ndim == 1 else target.argmax(axis=1)
    given = {"kind": "decoupled", "parts": (0.5, 3.0), "temperatures": {"conv": tau}}
    expected = decoupled(TEACHER, STUDENT, labels, tau, 0.5, 3.0).mean()
    assert term(STUDENT, TEACHER, target, **given) == pytest.approx(expected, rel=1e-5)
    # Of a class that the teacher does not know, all that it knows are others.
    known = [1, 3, 4]
    places = np.array([known.index(label) if label in known else -1 for label in labels])
    expected = decoupled(TEACHER[:, known], STUDENT[:, known], places, tau, 0.5, 3.0).mean()
    for listed in (known, torch.tensor(known)):
        assert term(STUDENT, TEACHER, target, known={"conv": listed}, **given) == pytest.approx(expected, rel=1e-5)
    sure = TEACHER + 60 * np.eye(5)[labels]  # whose probability of the others is 1e-26
    expected = decoupled_others(sure, STUDENT, labels, tau)
    found = term(STUDENT, sure, target, kind="decoupled", parts=(0.0, 1.0), temperatures={"conv": tau})
    assert found == pytest.approx(expected, rel=1e-4)


def decoupled_others(teacher: np.ndarray, student: np.ndarray, labels: np.ndarray, tau: float) -> float:
    rows = [(np.delete(t, y), np.delete(s, y)) for t, s, y in zip(teacher, student, labels, strict=True)]
    return float(np.mean([kl(t[None], s[None], tau)[0] for t, s in rows]))


def test_half_labels_and_half_the_teachers_class_as_deit_has_it() -> None:
    terms = co_advise_loss(
        {"class": tensor(OTHER), "conv": tensor(STUDENT)}, {"conv": tensor(TEACHER)}, tensor(MIXED), kind="hard",
        weights={"class": 0.5, "conv": 0.5},
    )  # fmt: skip
    labels = -(MIXED * log_softmax(OTHER, axis=1)).sum(axis=1).mean()
    taught = -np.mean([log_softmax(s)[t.argmax()] for s, t in zip(STUDENT, TEACHER, strict=True)])
    assert float(terms.total) == pytest.approx(0.5 * labels + 0.5 * taught, rel=1e-6)


ADVICE: dict[str, Callable[..., torch.Tensor]] = {
    "soft": lambda s, t, **how: soft_advice(s, t, 2.0, **how),
    "hard": hard_advice,
    "standardised": lambda s, t, **how: standardised_advice(s, t, 2.0, **how),
    "dist": lambda s, t, **how: dist_advice(s, t, 2.0, 1.5, 0.0, **how),
    "both of dist": lambda s, t: dist_advice(s, t, 2.0, 1.5, 0.7),
    "decoupled": lambda s, t, **how: decoupled_advice(s, t, torch.tensor([0, 4, -1, 2, 2, 1, 3]), 2.0, 0.5, 3.0, **how),
    "several, soft": lambda s, t, **how: several_soft_advice(s, t, 2.0, **how),
    "several, hard": several_hard_advice,
}


@pytest.mark.parametrize("name", ADVICE)
def test_gradients_and_values_of_single_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finite differences in double precision, which training does not use: `float` is left out."""
    advise, teacher = ADVICE[name], tensor(TEACHER)
    if name != "both of dist":
        each = advise(tensor(STUDENT), teacher, reduction="none")
        assert each.shape == (7,)
        assert float(each.mean()) == pytest.approx(float(advise(tensor(STUDENT), teacher)), rel=1e-6)
        one = advise(tensor(STUDENT[3:4]), teacher[3:4], reduction="none") if name != "decoupled" else each[3:4]
        assert float(one) == pytest.approx(float(each[3]), rel=1e-6)
    if name == "several, hard":  # which makes numbers of the teacher's answers with it
        return
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    student = tensor(STUDENT).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: advise(z, teacher), (student,))


@pytest.mark.parametrize("name", ["standardised", "both of dist", "decoupled"])
def test_a_student_or_teacher_that_says_nothing_breaks_nothing(name: str) -> None:
    """Heads that begin at zero, a teacher that is alike on all classes, and one image alone."""
    soft = torch.zeros(7, 5, requires_grad=True)
    soft_advice(soft, tensor(TEACHER), 2.0).backward()
    for student, teacher in ((np.zeros((7, 5)), TEACHER), (STUDENT, np.full((7, 5), 0.1)), (TEACHER, TEACHER)):
        z = torch.tensor(student, dtype=torch.float32, requires_grad=True)
        value = ADVICE[name](z, torch.tensor(teacher, dtype=torch.float32))
        value.backward()
        assert value.isfinite() and z.grad is not None and z.grad.isfinite().all()
        assert z.grad.abs().max() < 20 * soft.grad.abs().max()
    z = torch.randn(1, 5, requires_grad=True)
    dist_advice(z, torch.randn(1, 5), 1.0).backward()
    assert z.grad.isfinite().all() and z.grad.abs().max() > 0
    sure = (250 * torch.eye(5)[:3]).requires_grad_()  # to whom no image of the batch is of the last two classes
    dist_advice(sure, torch.randn(3, 5), 1.0, 16.0, 16.0).backward()
    assert sure.grad is not None and sure.grad.isfinite().all()


def gated(
    gate: str, kept: dict[str, np.ndarray], target: np.ndarray, known: list[int] | None = None
) -> dict[str, float]:
    """Terms by plain loops: each image on which a teacher counts adds a seventh of its value."""
    labels = target if target.ndim == 1 else target.argmax(axis=1)
    teachers, students = {"conv": TEACHER, "inv": SECOND}, {"conv": STUDENT, "inv": OTHER}
    columns = {"conv": known or list(range(5)), "inv": list(range(5))}
    each = {name: kl(z[:, columns[name]], students[name][:, columns[name]], 1.0) for name, z in teachers.items()}
    found = dict.fromkeys(teachers, 0.0)
    for i in range(7):
        for name, z in teachers.items():
            drawn = kept[name][i] if name in kept else gate != "harder"
            counts = drawn
            if gate == "right":
                counts = drawn and columns[name][z[i, columns[name]].argmax()] == labels[i]
            elif gate == "harder":
                counts = drawn or each[name][i] == max(one[i] for one in each.values())
            found[name] += each[name][i] / 7 if counts else 0.0
    return found


KEPT = {"conv": np.arange(7) % 2 == 0, "inv": np.arange(7) > 3}


@pytest.mark.parametrize("kept", [{}, KEPT, {"inv": KEPT["inv"]}], ids=["none", "both", "one"])
@pytest.mark.parametrize("gate", ["none", "right", "harder"])
@pytest.mark.parametrize("target", [LABELS, MIXED], ids=["labels", "mixed"])
def test_gates(gate: Any, kept: dict[str, np.ndarray], target: np.ndarray) -> None:
    for known in (None, [1, 3, 4]):
        logits = {"class": tensor(MIXED), "conv": tensor(STUDENT).requires_grad_(), "inv": tensor(OTHER)}
        terms = co_advise_loss(
            logits, {"conv": tensor(TEACHER), "inv": tensor(SECOND)}, tensor(target), gate=gate,
            kept={name: tensor(one) for name, one in kept.items()}, known={"conv": known} if known else None,
        )  # fmt: skip
        expected = gated(gate, kept, target, known)
        assert {name: terms[name].item() for name in expected} == pytest.approx(expected, rel=1e-5)
        assert list(terms) == ["class", "conv", "inv"]
        terms["conv"].backward()
        assert logits["conv"].grad.isfinite().all()


def test_every_kind_of_advice_has_a_gate() -> None:
    """The highest of two teachers' values, image by image; on one head, and where an image has several classes."""
    for kind, each in {
        "standardised": lambda t: of_z_scores(t, OTHER, 1.0),
        "decoupled": lambda t: decoupled(t, OTHER, LABELS, 1.0, 1.0, 1.0),
        "hard": lambda t: -log_softmax(OTHER, axis=1)[np.arange(7), t.argmax(axis=1)],
        "dist": lambda t: np.array([dist(t[i : i + 1], OTHER[i : i + 1], 1.0, 1.0, 0.0) for i in range(7)]),
    }.items():
        values = np.stack([each(TEACHER), each(SECOND)])
        terms = co_advise_loss(
            {"class": tensor(OTHER)}, {"conv": tensor(TEACHER), "inv": tensor(SECOND)}, tensor(LABELS), tokens="single",
            kind=kind, parts=(1.0, 0.0) if kind == "dist" else (1.0, 1.0), gate="harder",
        )  # fmt: skip
        assert float(terms["conv"] + terms["inv"]) == pytest.approx(values.max(axis=0).mean(), rel=1e-5)
    many = co_advise_loss(
        {"class": tensor(OTHER)}, {"conv": tensor(TEACHER)}, tensor(np.eye(5)[LABELS]), tokens="single",
        labels="several", kept={"conv": tensor(KEPT["conv"])},
    )  # fmt: skip
    p, q = 1 / (1 + np.exp(-TEACHER)), 1 / (1 + np.exp(-OTHER))
    binary = (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean(axis=1)
    assert float(many["conv"]) == pytest.approx(binary[KEPT["conv"]].sum() / 7, rel=1e-5)


def test_a_term_that_is_no_number_shows() -> None:
    broken = tensor(np.full((7, 5), np.nan))
    for gate in ("none", "harder"):
        terms = co_advise_loss(
            {"class": tensor(OTHER), "conv": broken, "inv": tensor(OTHER)},
            {"conv": tensor(TEACHER), "inv": tensor(SECOND)}, tensor(LABELS), gate=gate,
        )  # fmt: skip
        assert terms.total.isnan()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "standardized"}, "did you mean standardised"),
        ({"gate": "wright"}, "did you mean right"),
        ({"kind": "dist", "gate": "right"}, r"parts=\(1, 0\)"),
        ({"kind": "dist", "kept": {"conv": torch.ones(7, dtype=torch.bool)}}, r"parts=\(1, 0\)"),
        ({"kind": "decoupled", "labelled": 0.5}, "needs the class of every image"),
        ({"gate": "right", "labelled": 0.5}, "needs the class of every image"),
        ({"kind": "standardised", "labels": "several"}, "images of one class each"),
        ({"gate": "right", "labels": "several"}, "images of one class each"),
        ({"kind": "decoupled", "parts": (-1.0, 1.0)}, "must be ≥ 0"),
        ({"kept": {"con": torch.ones(7, dtype=torch.bool)}}, "no teacher 'con'"),
        ({"kept": {"conv": torch.ones(7)}}, r"bool tensor \(7,\)"),
        ({"kept": {"conv": torch.ones(6, dtype=torch.bool)}}, r"bool tensor \(7,\)"),
        ({"kept": [True]}, "give a mapping"),
    ],
)
def test_what_does_not_go_together_is_named(options: dict[str, Any], words: str) -> None:
    target = np.eye(5)[LABELS] if options.get("labels") == "several" else LABELS
    with pytest.raises(ModelError, match=words):
        term(STUDENT, TEACHER, target, **options)


def test_of_one_class_there_are_no_others() -> None:
    student = torch.randn(3, 1, requires_grad=True)
    loss = decoupled_advice(student, torch.randn(3, 1), torch.tensor([0, -1, 0]), 2.0)
    loss.backward()
    assert loss.item() == 0 and student.grad is not None and not student.grad.any()


def test_a_teacher_that_knows_one_class_is_refused() -> None:
    with pytest.raises(ModelError, match="teacher 'cnn' knows one of the classes"):
        make_objective(Loss(), ("class", "cnn"), ("cnn",), known={"cnn": [2]})


def test_a_token_that_would_learn_nothing_is_refused() -> None:
    """Its teacher advises the class token; a token of another name learns the labels."""
    single = Loss(tokens="single")
    with pytest.raises(ModelError, match="the student's token 'cnn' has the name of a teacher and would learn nothing"):
        make_objective(single, ("class", "cnn"), ("cnn",))
    assert make_objective(single, ("class", "other"), ("cnn",)).weights["class"] == 1.0
