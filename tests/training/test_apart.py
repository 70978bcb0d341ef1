"""`loss.apart`: against numpy, in training, and where it does not fit."""

import itertools
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from coadvise.errors import ModelError, RecipeError
from coadvise.losses import Objective
from coadvise.losses.apart import heads_apart
from coadvise.models.advised import add_tokens
from coadvise.recipe.reading import recipe_from
from coadvise.recipe.schema import Loss
from coadvise.training.student import make_apart
from coadvise.training.trained import Trained

TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 5}


def by_hand(weights: list[np.ndarray]) -> float:
    found = []
    for a, b in itertools.combinations([w - w.mean(axis=0) for w in weights], 2):
        cosines = [x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for x in a for y in b]
        found.append(np.mean(np.square(cosines)))
    return float(np.mean(found))


def test_the_term_is_the_mean_squared_cosine() -> None:
    generator = np.random.default_rng(0)
    weights = [generator.normal(1.0, size=(7, 24)) for _ in range(3)]
    given = [torch.tensor(w, dtype=torch.float32) for w in weights]
    assert float(heads_apart(given)) == pytest.approx(by_hand(weights), rel=1e-5)
    assert float(heads_apart([given[0], 3 * given[0] + 5])) == pytest.approx(by_hand([weights[0]] * 2), rel=1e-5)
    apart = torch.eye(8)
    assert float(heads_apart([apart[:3], apart[3:6]])) == pytest.approx(0, abs=1e-12)


def test_it_is_part_of_what_is_trained() -> None:
    torch.manual_seed(0)
    student: Any = timm.create_model("cit_tiny", **TINY)
    settings = Loss(apart=0.5)
    names = student.token_names
    plain = Trained(student, Objective(), names, ("conv", "inv"))
    apart = Trained(student, Objective(), names, ("conv", "inv"), apart=make_apart(settings, student))
    assert apart.names == (*plain.names, "apart")
    x, target = torch.randn(4, 3, 16, 16), torch.randn(4, 5).softmax(1)
    advice = {name: torch.randn(4, 5) for name in ("conv", "inv")}
    before, after = plain(x, advice, target), apart(x, advice, target)
    heads = [student.advised_heads[name].weight for name in ("conv", "inv")]
    term = by_hand([head.detach().numpy() for head in heads])
    assert float(after.values[-1]) == pytest.approx(term, rel=1e-5)
    assert (after.total - before.total).item() == pytest.approx(0.5 * term, abs=1e-5)
    optimizer = torch.optim.SGD(heads, lr=20.0)
    for _ in range(60):  # descending it alone
        optimizer.zero_grad()
        heads_apart(heads).backward()
        optimizer.step()
    assert float(heads_apart(heads)) < 0.1 * term
    compiled = torch.compile(apart._plain, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, advice, target, None), apart(x, advice, target))


def test_of_a_vit_and_of_what_has_no_two_heads() -> None:
    vit = timm.create_model("deit_tiny_distilled_patch16_224", **TINY)
    student = add_tokens(vit, {"a": "conv", "b": "inv"})
    heads = make_apart(Loss(apart=1.0), student).heads
    assert [id(head) for head in heads] == [id(vit.head_dist), id(student.advised_heads["b"])]
    one: nn.Module = timm.create_model("cit_tiny", **TINY, teachers={"a": "conv"})
    with pytest.raises(ModelError, match="this student has 1 of them; take a student with two or more"):
        make_apart(Loss(apart=1.0), one)
    teachers = {name: {"model": "resnet10", "checkpoint": "none.safetensors"} for name in ("apart", "b")}
    content = {"name": "x", "data": {"source": "digits"}, "teachers": teachers}
    content |= {"schedule": {"epochs": 1, "warmup_epochs": 0}}
    recipe = recipe_from(content, where="here")
    assert recipe.fingerprint() == recipe_from(content | {"loss": {"apart": 0}}, where="here").fingerprint()
    with pytest.raises(RecipeError, match=r"loss.apart: the term of that name stands .*; rename 'apart'"):
        recipe_from(content | {"loss": {"apart": 1}}, where="here")
