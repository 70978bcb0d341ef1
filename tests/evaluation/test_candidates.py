"""Candidates for teachers: κ against scikit-learn, CKA against the Gram matrices, averages against a loop."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from helpers.recipes import tiny
from safetensors.torch import save_file
from scipy.stats import chi2
from sklearn.metrics import cohen_kappa_score
from torch import Tensor, nn

from coadvise.checkpoints import teachers
from coadvise.checkpoints.build import build_student
from coadvise.checkpoints.model_file import save_model
from coadvise.data.loader import EvalLoader
from coadvise.data.sources.opening import open_sources
from coadvise.data.sources.subsets import Subset
from coadvise.errors import CoadviseError, DataError
from coadvise.evaluation import probe
from coadvise.evaluation.asking import ask, short_names
from coadvise.evaluation.candidates import Candidate, as_json, choose, pairs_of
from coadvise.evaluation.pair_figure import pairs_drawing
from coadvise.models.elsewhere import Found
from coadvise.recipe.data import Data
from coadvise.system.progress import QUIET, Display

IMAGES, CLASSES = 400, 5


def candidate(name: str, log_p: Tensor, seed: int = 0) -> Candidate:
    features = torch.randn(IMAGES, 7 + seed, generator=torch.Generator().manual_seed(seed))
    return Candidate(name, "conv", True, 10, log_p.log_softmax(dim=1), features @ torch.randn(7 + seed, 12), 3.0)


@pytest.fixture
def label() -> Tensor:
    return torch.randint(CLASSES, (IMAGES,), generator=torch.Generator().manual_seed(9))


def knowing(label: Tensor, wrong: list[int], surety: float = 2.0) -> Tensor:
    """Logits that are wrong on some images, to the next class."""
    answer = label.clone()
    answer[wrong] = (answer[wrong] + 1) % CLASSES
    return surety * torch.nn.functional.one_hot(answer, CLASSES).float()


def test_pairs_against_other_libraries(label: Tensor) -> None:
    torch.manual_seed(0)
    ones = [candidate(str(i), torch.randn(IMAGES, CLASSES) + 1.5 * knowing(label, []), i) for i in range(4)]
    pairs = {pair.names: pair for pair in pairs_of(ones, label)}
    assert set(pairs) == {(str(i), str(j)) for i, j in itertools.combinations(range(4), 2)}
    for (i, j), pair in pairs.items():
        a, b = ones[int(i)], ones[int(j)]
        right = [np.asarray(one.right(label)) for one in (a, b)]
        assert pair.kappa == pytest.approx(cohen_kappa_score(*right), abs=1e-12)
        assert pair.cka == pytest.approx(cka_of_gram_matrices(a.features, b.features), rel=1e-9)
        assert pair.either == (right[0] | right[1]).mean()
        mean = (a.log_p.double().exp() + b.log_p.double().exp()) / 2
        assert pair.average == np.mean([int(row.argmax()) == int(y) for row, y in zip(mean, label, strict=True)])


def cka_of_gram_matrices(x: Tensor, y: Tensor) -> float:
    """HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)) with centred n × n Gram matrices, in float64."""
    centre = np.eye(IMAGES) - 1 / IMAGES
    k, m = (centre @ (z.double().numpy() @ z.double().numpy().T) @ centre for z in (x, y))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def test_the_pair_that_errs_on_different_images_is_proposed(label: Tensor) -> None:
    best, same, other = (
        candidate("best", knowing(label, list(range(60)), 3.0)),
        candidate("same", knowing(label, list(range(62)), 3.0)),
        candidate("other", knowing(label, list(range(300, 361)), 2.9)),
    )
    choice = choose([same, best, other], label, 2)
    assert choice.names == ("best", "other") and choice.best == "best"
    pair = next(p for p in pairs_of([best, same], label))
    assert pair.kappa is not None and pair.kappa > 0.97 and pair.either == best.accuracy(label)


def test_a_weak_candidate_is_left_out_however_different_its_errors(label: Tensor) -> None:
    best = candidate("best", knowing(label, list(range(20)), 3.0))
    near = candidate("near", knowing(label, list(range(15, 55)), 3.0))
    weak = candidate("weak", knowing(label, list(range(200, 300)), 0.1))
    choice = choose([weak, near, best], label, 2)
    assert choice.names == ("best", "near") and choice.weak == ("weak",)
    alone = choose([weak, best], label, 2)
    assert alone.names == ("best",) and (alone.gained, alone.lost, alone.p, alone.kappa) == (0, 0, 1.0, None)


def test_gain_over_the_best_is_tested_by_mcnemar(label: Tensor) -> None:
    sure, unsure = torch.full((IMAGES, 1), 5.0), torch.full((IMAGES, 1), 1.0)
    split = torch.arange(IMAGES)[:, None] < IMAGES // 2
    # Each errs on a tenth of the half in which it is not sure, and is overruled there.
    first = knowing(label, list(range(200, 240)), 1.0) * torch.where(split, sure, unsure)
    second = knowing(label, list(range(44)), 1.0) * torch.where(split, unsure, sure)
    choice = choose([candidate("first", first), candidate("second", second)], label, 2)
    assert (choice.best, choice.gained, choice.lost, choice.average) == ("first", 40, 0, 1.0)
    assert choice.p == pytest.approx(2 * 0.5**40) and choice.sets == 1
    assert choice.p < chi2.sf((40 - 1) ** 2 / 40, 1)  # the usual approximation, far more careful in the tail


def test_a_set_that_was_chosen_for_its_luck_is_not_said_to_know_more() -> None:
    """Eight candidates, of which seven know less than the best on 168 images; on the others all guess.

    So do the averages of any two, which are right on the 168: what the best of them gains is the luck of the choice.
    """
    generator, said, runs = torch.Generator().manual_seed(0), 0, 200
    for _ in range(runs):
        surety = torch.cat([torch.full((8, 168), 3.0), torch.randn(8, 112, generator=generator)], dim=1)
        for i in range(7):
            surety[i + 1, 24 * i : 24 * (i + 1)] = -1
        label = torch.cat([torch.zeros(168, dtype=torch.long), torch.randint(2, (112,), generator=generator)])
        ones = [
            Candidate(str(i), None, True, 1, torch.stack([row, -row], dim=1).log_softmax(dim=1), row[:, None], 1.0)
            for i, row in enumerate(surety)
        ]
        choice = choose(ones, label, 2)
        assert choice.sets == math.comb(8 - len(choice.weak), 2)
        said += choice.p < 0.05
    assert said / runs <= 0.05  # 1 in 10 without a correction


def test_two_that_are_always_right_have_no_kappa(label: Tensor) -> None:
    (pair,) = pairs_of([candidate("a", knowing(label, [])), candidate("b", knowing(label, []))], label)
    assert pair.kappa is None and pair.average == 1.0


def test_the_figure_frames_the_proposed_pair(label: Tensor) -> None:
    ones = [
        candidate(name, knowing(label, list(range(k, k + 50)))) for name, k in (("a", 0), ("b $x$", 20), ("c", 200))
    ]
    drawing = pairs_drawing(ones, label, ["a", "c"])
    assert "b $x$" in drawing.svg and drawing.png.startswith(b"\x89PNG") and "a + c" in drawing.alt


def saved(folder: Path, changes: dict[str, Any], classes: tuple[str, ...]) -> nn.Module:
    """A run's model file, of random weights."""
    recipe = tiny(folder, changes)
    student = build_student(recipe.student, recipe.tokens(), len(classes), recipe.data.image_size)
    folder.mkdir()
    save_model(folder / "best.safetensors", student, recipe, classes, weights="student", epoch=1, metrics={})
    return student.eval()


def test_candidates_are_asked_as_they_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs answer themselves, in the order of the data's classes; other networks through a probe."""
    monkeypatch.setattr(probe, "STRENGTHS", (1e-2,))
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10").state_dict(), tmp_path / "some.safetensors")
    data = Data(source="digits", train_size=150, val_size=101, image_size=8, eval_crop=1.0, workers=0)
    sources = open_sources(data)
    names = sources[1].class_names
    cnn = {"student.model": "resnet10", "student.options": {"channels": [8, 8, 8, 8]}, "student.small_stem": True}
    models = {"vit": saved(tmp_path / "vit", {}, names[::-1]), "cnn": saved(tmp_path / "cnn", cnn, names)}
    texts = [str(tmp_path / "vit"), str(tmp_path / "cnn"), f"resnet10={tmp_path / 'some.safetensors'}"]
    asked = ask(texts, sources, data, 16, device=torch.device("cpu"), display=QUIET)
    assert [one.name.split("/")[-1] for one in asked.candidates] == ["vit", "cnn", "resnet10"]
    assert [one.probed for one in asked.candidates] == [False, False, True] and asked.probes == 1
    assert [one.bias for one in asked.candidates] == ["attn", "conv", "conv"]
    (batch,) = EvalLoader(sources[1], tiny(tmp_path).data, 101)
    assert torch.equal(asked.label, batch.label)
    for one, (name, model) in zip(asked.candidates, models.items(), strict=False):
        with torch.no_grad():
            said = model(batch.images).log_softmax(dim=1)
        torch.testing.assert_close(one.log_p, said.flip(1) if name == "vit" else said)
    assert asked.candidates[2].accuracy(asked.label) > 0.3


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["runs/A/teachers/conv", "runs/A/teachers/inv", "regnety_002"],
         ["teachers/conv", "teachers/inv", "regnety_002"]),
        (["runs/A/teachers/conv", "runs/B/teachers/conv/best.safetensors", "regnety_002"],
         ["A/teachers/conv", "B/teachers/conv", "regnety_002"]),
        (["resnet18=a.pth", "resnet50=a.pth"], ["resnet18", "resnet50"]),
        (["resnet18=a.pth", "resnet18=b.pth"], ["resnet18=a.pth", "resnet18=b.pth"]),
        (["resnet18=x/a.pth", "resnet18=y/a.pth"], ["resnet18=x/a.pth", "resnet18=y/a.pth"]),
        (["some/resnet10.safetensors", "other/resnet10.safetensors"], ["some/resnet10", "other/resnet10"]),
        (["resnet10.safetensors", "resnet10"], ["resnet10.safetensors", "resnet10"]),
        (["runs/A", "runs/A/"], ["runs/A", "runs/A/"]),
        (["best.safetensors", "transformers:org/vit"], ["best", "transformers:org/vit"]),
    ],
)  # fmt: skip
def test_no_two_candidates_have_the_same_name(texts: list[str], names: list[str]) -> None:
    assert short_names(texts) == names


def test_each_candidate_keeps_its_own_numbers(tmp_path: Path) -> None:
    """Two teachers of two runs are both called `teachers/conv`."""
    data = Data(source="digits", train_size=150, val_size=101, image_size=8, eval_crop=1.0, workers=0)
    sources = open_sources(data)
    cnn = {"student.model": "resnet10", "student.options": {"channels": [8, 8, 8, 8]}, "student.small_stem": True}
    wanted = {}
    for run, changes in (("A", {}), ("B", cnn)):
        (tmp_path / run / "teachers").mkdir(parents=True)
        model = saved(tmp_path / run / "teachers" / "conv", changes, sources[1].class_names)
        wanted[f"{run}/teachers/conv"] = sum(one.numel() for one in model.parameters())
    texts = [str(tmp_path / name) for name in wanted]
    asked = ask(texts, sources, data, 16, device=torch.device("cpu"), display=QUIET)
    told: dict[str, Any] = dict(as_json(asked.candidates, asked.label, choose(asked.candidates, asked.label, 2)))
    assert {name: one["parameters"] for name, one in told["candidates"].items()} == wanted
    assert set(told["pairs"][0]["of"]) == set(wanted)
    assert "A/teachers/conv + B/teachers/conv" in pairs_drawing(asked.candidates, asked.label, list(wanted)).alt


def test_every_address_of_a_recipe_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name where classes are the same, some of them where only some are, and else through a probe on the outputs."""
    monkeypatch.setattr(probe, "STRENGTHS", (1e-2,))
    data = Data(source="digits", train_size=150, val_size=101, image_size=8, eval_crop=1.0, workers=0)
    sources = open_sources(data)
    names = sources[1].class_names
    model = saved(tmp_path / "vit", {}, names)
    found = {
        "torchvision:all": tuple(reversed(names)),
        "onnx:some.onnx": tuple(name if i < 4 else f"not {name}" for i, name in enumerate(names)),
        "transformers:none": tuple(f"x{i}" for i in range(10)),
    }

    def opened(kind: str, place: str, settings: object) -> Found:
        return Found(model, (0.5,) * 3, (0.5,) * 3, (8, 8), found[f"{kind}:{place}"])

    monkeypatch.setattr(teachers, "_found", opened)
    asked = ask([f"run:{tmp_path}/vit", *found], sources, data, None, device=torch.device("cpu"), display=Display())
    run, whole, some, none = asked.candidates
    assert [one.probed for one in asked.candidates] == [False, False, False, True] and asked.probes == 1
    torch.testing.assert_close(whole.log_p, run.log_p.flip(1))
    torch.testing.assert_close(some.log_p[:, :4], run.log_p[:, :4].log_softmax(dim=1))
    assert bool(some.log_p[:, 4:].isneginf().all()) and none.accuracy(asked.label) > run.accuracy(asked.label)
    shown = " ".join(capsys.readouterr().err.split())
    assert "some.onnx knows 4 of the 10 classes by name" in shown and "transformers:none knows none of" in shown


def test_all_candidates_answer_on_the_images_that_can_be_read(
    write_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(probe, "STRENGTHS", (1e-2,))
    root = write_folder(tmp_path / "photos", count=20)
    (root / "cat" / "03.png").write_bytes(b"nothing")
    data = Data(source=str(root), val_fraction=0.5, image_size=8, workers=0)
    sources = open_sources(data)
    saved(tmp_path / "vit", {}, ("cat", "dog"))
    save_file(timm.create_model("resnet10").state_dict(), tmp_path / "resnet10.safetensors")
    texts = [str(tmp_path / "vit"), str(tmp_path / "resnet10.safetensors")]
    asked = ask(texts, sources, data, 16, device=torch.device("cpu"), display=Display())
    assert {len(one.log_p) for one in asked.candidates} == {len(asked.label)}
    assert len(asked.label) in (19, 20) and "1 image left out: " in capsys.readouterr().err


def test_candidates_that_cannot_be_asked(tmp_path: Path) -> None:
    sources = open_sources(Data(source="digits"))
    for text, words in {"resnet81": "no model is called 'resnet81'", "gone/resnet18.pth": "does not exist"}.items():
        with pytest.raises(CoadviseError, match=words):
            ask([text, "resnet10"], sources, Data(source="digits"), 16, device=torch.device("cpu"), display=QUIET)


def test_a_probe_that_cannot_be_fitted_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else scikit-learn's traceback for a class with one image, or hours for many classes."""
    save_file(timm.create_model("resnet10").state_dict(), tmp_path / "resnet10.pth.safetensors")
    data = Data(source="digits", image_size=8, eval_crop=1.0, workers=0)
    train, val = open_sources(data)
    order = np.argsort(train.labels, kind="stable")
    ask_one = lambda sources: ask(
        [f"resnet10={tmp_path / 'resnet10.pth.safetensors'}"], sources, data, 16, device=torch.device("cpu"),
        display=QUIET,
    )  # fmt: skip
    val = Subset(val, np.arange(20))
    rare = Subset(train, np.append(order[:40], order[-1]))
    with pytest.raises(DataError, match=r"no linear probe can be fitted for resnet10: each class needs two training"):
        ask_one((rare, val))
    monkeypatch.setattr(probe, "WORK", 1e4)
    with pytest.raises(DataError, match=r"for resnet10: 10 classes of 512 features would take too long .*; give fold"):
        ask_one((Subset(train, np.arange(60)), val))
