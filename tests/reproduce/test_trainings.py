"""How models that teach are trained: by family, as their authors do, and as settings say."""

from pathlib import Path

import pytest

from coadvise.errors import RecipeError
from coadvise.paper.arms import Arm
from coadvise.reproduce.planner import Planner
from coadvise.reproduce.scales import find_scale
from coadvise.reproduce.setup import ExperimentSetup, set_up

SIZES = ["data.train_size=50", "data.val_size=20"]


def at(scale: str, folder: Path, *settings: str) -> ExperimentSetup:
    return set_up(find_scale(scale), folder, source="digits", settings=[*SIZES, *settings])


def test_teachers_of_the_paper_s_scale_are_trained_as_their_authors_do(tmp_path: Path) -> None:
    """Numbers of the papers and of the published configurations, as rates for the whole batch."""
    setup = at("imagenet", tmp_path)
    planner = Planner(setup)
    expected = {
        "resnet18": (90, 256, 0.1, 1e-4, "step", 0.0, 0.0),
        "regnety_160": (100, 1024, 0.8, 5e-5, "cosine", 5.0, 0.0),
        "rednet26": (130, 2048, 0.8, 1e-4, "cosine", 5.0, 0.1),
    }  # fmt: skip
    for model, numbers in expected.items():
        one = planner.run(Arm(model), 0).recipe
        optim, schedule, augment = one.optim, one.schedule, one.data.augment
        assert optim.lr_batch is not None
        rate = optim.lr * optim.batch_size / optim.lr_batch
        found = (schedule.epochs, optim.batch_size, rate, optim.weight_decay, schedule.name, schedule.warmup_epochs)
        assert list(found) == [*numbers[:2], pytest.approx(numbers[2]), *numbers[3:6]]
        assert augment.label_smoothing == numbers[6] and (optim.name, optim.momentum) == ("sgd", 0.9)
        assert augment.randaugment is None and augment.erasing == augment.mixup == augment.cutmix == 0
        assert augment.policy == "deit" and augment.color_jitter == 0 and optim.clip is optim.ema is None
    assert planner.run(Arm("resnet18"), 0).recipe.schedule.decay_epochs == 30
    quarter = planner.run(Arm("resnet18", part=0.25), 0).recipe.schedule
    assert (quarter.epochs, quarter.decay_epochs) == (22, 7.5), "the rate comes down in the same proportion"
    student = planner.run(Arm("transformer_tiny"), 0).recipe
    assert (student.optim.name, student.schedule.epochs, student.optim.clip) == ("adamw", 300, 15)
    words = setup.particulars()
    assert words[1].startswith("ResNets are trained by SGD with Nesterov's momentum (0.9), at 0.1 for 256 images, ")
    assert words[1].endswith("256 at once, weight decay 0.0001, 90 epochs, times 0.1 after every 30.")
    assert words[3].endswith("weight decay 0.0001, 130 epochs, 5 of warm-up, a cosine.")


def test_settings_for_all_teachers_and_for_a_family(tmp_path: Path) -> None:
    all_of_them = ["teachers.epochs=13", "teachers.augment.mixup=0.5"]
    some = ["teachers.resnet.epochs=9", "teachers.rednet.augment.cutmix=0.25", "teachers.regnety.warmup_epochs=2"]
    planner = Planner(at("imagenet", tmp_path, *some, *all_of_them))
    runs = {model: planner.run(Arm(model), 0).recipe for model in ("resnet18", "regnety_002", "rednet26")}
    assert [one.schedule.epochs for one in runs.values()] == [9, 13, 13]
    assert [one.schedule.warmup_epochs for one in runs.values()] == [0, 2, 0.5]
    assert runs["resnet18"].schedule.decay_epochs == 3
    assert [one.data.augment.mixup for one in runs.values()] == [0.5] * 3
    assert [one.data.augment.cutmix for one in runs.values()] == [0, 0, 0.25]
    assert {one.data.augment.randaugment for one in runs.values()} == {None}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("teachers.resnet.seed=1", "the arms of the tables decide teachers.seed"),
        ("teachers.resnet.momentum=2", "resnet.momentum is 2, must be < 1"),
        ("teachers.rednet.decay_epochs=10", "teachers.rednet.decay_epochs is of teachers.rednet.schedule=step"),
        ("teachers=5", "teachers"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, setting: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        at("imagenet", tmp_path, setting)
    assert words in str(caught.value)


def test_another_optimizer_needs_a_rate_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"teachers.optimizer is sgd, the recipe's is adamw: give teachers.lr"):
        at("imagenet", tmp_path, "teachers={}", "teachers.optimizer=sgd")


def test_the_rate_of_a_scale_is_not_taken_for_another_optimizer(tmp_path: Path) -> None:
    for key in ("teachers.optimizer", "teachers.resnet.optimizer"):
        with pytest.raises(RecipeError, match=rf"{key}=sgd: the rate of this scale is meant for adamw; give .*lr, too"):
            at("digits", tmp_path, f"{key}=sgd")
    setup = at("digits", tmp_path, "teachers.optimizer=sgd", "teachers.lr=0.1")
    assert Planner(setup).run(Arm("resnet18"), 0).recipe.optim.name == "sgd"
    with pytest.raises(RecipeError, match="is meant for sgd"):
        at("cifar-long", tmp_path, "teachers.optimizer=lamb")
    at("cifar-long", tmp_path, "teachers.optimizer=sgd")


def test_stored_advice_is_another_where_a_family_is_trained_otherwise(tmp_path: Path) -> None:
    def folder(*settings: str) -> Path:
        planner = Planner(at("imagenet", tmp_path, "data.views=2", *settings))
        return planner.cache(planner.run(Arm("transformer_tiny"), 0).recipe, 0)

    assert folder() == folder() != folder("teachers.rednet.epochs=5")
