"""The public names: what `dir` lists, and arguments of a wrong type, each refused by one message that names it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import coadvise
from coadvise.errors import CheckpointError, ModelError, RecipeError

Z = {"class": torch.zeros(2, 5), "conv": torch.zeros(2, 5)}
Y = torch.tensor([0, 1])
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
MAP, KERNEL = torch.zeros(1, 16, 4, 4), torch.zeros(1, 9, 4, 4)


def test_dir_lists_the_public_names_and_nothing_else() -> None:
    assert set(dir(coadvise)) == {*coadvise.__all__, "__version__"}
    assert all(getattr(coadvise, name) is not None for name in dir(coadvise))
    assert coadvise.errors.RecipeError is RecipeError  # modules are found as before


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: coadvise.train("digits"),
            RecipeError,
            "of type str ('digits'); write coadvise.train(coadvise.load_recipe('digits'))",
        ),
        (lambda: coadvise.train({"name": "x"}), RecipeError, "train's recipe is of type dict; write"),
        (lambda: coadvise.train(None), RecipeError, "train's recipe is None; write"),
        (lambda: coadvise.load_recipe(None), RecipeError, "a recipe's source is None; give the path"),
        (lambda: coadvise.load_recipe({"name": "x"}), RecipeError, "a recipe's source is of type dict"),
        (
            lambda: coadvise.load_recipe("digits", "optim.lr=1"),
            RecipeError,
            "overrides is of type str ('optim.lr=1'); give a list",
        ),
        (
            lambda: coadvise.load_recipe("digits", {"optim.lr": 1}),
            RecipeError,
            "overrides is of type dict; give a list of texts",
        ),
        (lambda: coadvise.load_recipe("digits", [3]), RecipeError, "an override is of type int (3)"),
        (
            lambda: coadvise.load_checkpoint("x.pth", nn.Linear(1, 1)),
            ModelError,
            "load_checkpoint's model is of type str ('x.pth')",
        ),
        (
            lambda: coadvise.load_checkpoint(nn.Linear(1, 1), {}),
            CheckpointError,
            "a checkpoint's path is of type dict; give the path",
        ),
        (lambda: coadvise.load_checkpoint(nn.Linear(1, 1), None), CheckpointError, "path is None"),
        (
            lambda: coadvise.co_advise_loss(Z["class"], {}, Y),
            ModelError,
            "co_advise_loss: logits is of type Tensor; give a mapping",
        ),
        (lambda: coadvise.co_advise_loss(Z, Z["conv"], Y), ModelError, "co_advise_loss: advice is of type Tensor"),
        (lambda: coadvise.co_advise_loss(Z, None, Y), ModelError, "co_advise_loss: advice is None"),
        (
            lambda: coadvise.co_advise_loss({"class": np.zeros((2, 5))}, {}, Y),
            ModelError,
            "logits of 'class' is of type ndarray",
        ),
        (lambda: coadvise.co_advise_loss(Z, {}, None), ModelError, "co_advise_loss: target is None; give a tensor"),
        (lambda: coadvise.co_advise_loss(Z, {}, [0, 1]), ModelError, "co_advise_loss: target is of type list"),
        (
            lambda: coadvise.co_advise_loss(Z, {}, Y.float()),
            ModelError,
            "target is of torch.float32; class indices are int64",
        ),
        (lambda: coadvise.co_advise_loss(Z, {}, Y.int()), ModelError, "target.long()"),
        (lambda: coadvise.co_advise_loss(Z, {}, Y + 6), ModelError, "target holds 7; the student has 5 classes"),
        (lambda: coadvise.co_advise_loss(Z, {}, Y - 3), ModelError, "target holds -3; the student has 5 classes"),
        (lambda: coadvise.co_advise_loss(Z, {}, Y[0]), ModelError, "target has shape ()"),
        (lambda: coadvise.co_advise_loss(Z, Z, Y, weights=[1]), ModelError, "co_advise_loss: weights is of type list"),
        (
            lambda: coadvise.co_advise_loss(Z, {}, Y, weights={"conv": "1"}),
            ModelError,
            "weights of 'conv' is of type str ('1')",
        ),
        (
            lambda: coadvise.co_advise_loss(Z, {}, Y, temperatures=3),
            ModelError,
            "co_advise_loss: temperatures is of type int (3)",
        ),
        (lambda: coadvise.involution(None, KERNEL, 3), ModelError, "involution's x is None; give a tensor"),
        (lambda: coadvise.involution(MAP, KERNEL.numpy(), 3), ModelError, "involution's kernel is of type ndarray"),
        (
            lambda: coadvise.involution(MAP[0], KERNEL, 3),
            ModelError,
            "involution's x has shape (16, 4, 4), expected four",
        ),
        (lambda: coadvise.involution(MAP, KERNEL, "3"), ModelError, "involution's kernel_size is of type str ('3')"),
        (lambda: coadvise.FrozenTeacher("resnet18"), ModelError, "FrozenTeacher's model is of type str ('resnet18')"),
        (lambda: coadvise.FrozenTeacher(MODEL, mean="imagenet"), ModelError, "FrozenTeacher's mean is 'imagenet'"),
        (lambda: coadvise.FrozenTeacher(MODEL, mean=0.5), ModelError, "FrozenTeacher's mean is 0.5; give a number for"),
        (lambda: coadvise.Teachers([MODEL]), ModelError, "teachers are a mapping of names to classifiers"),
        (lambda: coadvise.Teachers({"conv": "resnet18"}), ModelError, "teacher 'conv' is no torch.nn.Module but str"),
        (
            lambda: coadvise.Teachers({"conv": MODEL}, input_mean=None),
            ModelError,
            "Teachers' input_mean is None; give a",
        ),
        (
            lambda: coadvise.Teachers({"conv": MODEL}, input_std="x"),
            ModelError,
            "Teachers' input_std is 'x'; give a number",
        ),
        (lambda: coadvise.Teachers({"conv": MODEL}, input_mean=(1, 2)), ModelError, "give one number for each channel"),
        (
            lambda: coadvise.Teachers({"conv": MODEL})(MAP.numpy()),
            ModelError,
            "what the teachers see is of type ndarray",
        ),
        (lambda: coadvise.Teachers({"conv": MODEL})(MAP[0]), ModelError, "of shape (16, 4, 4) and torch.float32"),
        (lambda: coadvise.Teachers({"conv": MODEL})(MAP.byte()), ModelError, "torch.uint8; give normalised ones"),
        (lambda: coadvise.add_tokens("vit_tiny_patch16_224", {}), ModelError, "add_tokens' model is of type str"),
        (lambda: coadvise.add_tokens(MODEL, ["conv"]), ModelError, "teachers must be a mapping name → bias"),
        (lambda: coadvise.add_tokens(MODEL, {"conv": "conv"}), ModelError, "Sequential is no ViT"),
        (lambda: coadvise.small_stem("resnet18"), ModelError, "no small-image stem is known for str"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_arguments_of_a_right_type_are_taken() -> None:
    weights = {"conv": torch.tensor(0.5), "class": np.float32(2)}
    terms = coadvise.co_advise_loss(Z, {}, Y.to(torch.uint8), weights=weights, temperatures=None)
    assert float(terms.total) == pytest.approx(2.5 * np.log(5), rel=1e-6)  # equal logits: log 5 each
    assert coadvise.involution(MAP, KERNEL, np.int64(3)).shape == MAP.shape
