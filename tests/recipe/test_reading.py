"""Recipes: what a person writes is what is meant, and every problem is named at once."""

import os
import re
import shlex
import textwrap
import threading
from pathlib import Path

import pytest

from coadvise.errors import RecipeError
from coadvise.recipe.reading import apply_setting, builtin_recipes, dump_recipe, json_schema, load_recipe, recipe_from
from coadvise.recipe.schema import FREE, Recipe, flat
from coadvise.recipe.teacher import teacher_recipe
from coadvise.recipe.yaml import parse_yaml

MINIMAL = "name: mine\ndata: {source: digits}\n"


def read(text: str) -> Recipe:
    return recipe_from(parse_yaml(text, "mine.yaml"), "mine.yaml")


def problems(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(text)
    return str(caught.value)


def test_numbers_and_switches_mean_what_a_person_means() -> None:
    recipe = read(MINIMAL + "optim: {lr: 1e-3, eps: 1E-6, weight_decay: 5}\nrun: {tensorboard: off, allow_weak: on}")
    assert (recipe.optim.lr, recipe.optim.eps, recipe.optim.weight_decay) == (0.001, 1e-6, 5.0)
    assert (recipe.run.tensorboard, recipe.run.allow_weak) == (False, True)
    assert parse_yaml("[on, no, 1e3, .5, 1.5e-3, -2E+1, true, 7, 1_000, 010, 2024-05-01]", "x") == [
        "on", "no", 1000.0, 0.5, 0.0015, -20.0, True, 7, 1000, 10, "2024-05-01",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim: {lrr: 1e-3}", ["1 problem in mine.yaml", "optim.lrr is unknown (did you mean lr?)"]),
        ("schedule: {epochs: 0}", ["schedule.epochs is 0, must be ≥ 1"]),
        ("schedule: {epochs: many}", ["schedule.epochs is 'many', must be a valid integer"]),
        ("schedule: {epochs: 1.5}", ["schedule.epochs is 1.5"]),
        ("optim: {lr: on}", ["optim.lr is 'on', must be a valid number"]),
        ("loss: {label_weight: -1}", ["loss.label_weight is -1, must be ≥ 0"]),
        ("loss: {advice: medium}", ["loss.advice is 'medium', must be one of 'soft', 'hard'"]),
        (
            "teachers: {conv: {model: resnet18, train: {}}}\nloss: {weights: {conv: -1}, temperatures: {conv: 0}}",
            ["2 problems", "loss.weights.conv is -1, must be ≥ 0", "loss.temperatures.conv is 0, must be > 0"],
        ),
        ("student: {options: {patch_size: 7, stem: conv}}", ["a conv stem needs an even one"]),
        ("student: {options: {patch_size: 15}}", ["image_size 224 is not divisible by student.options.patch_size 15"]),
        ("teachers: {class: {model: resnet18, train: {}}}", ["'class' is reserved"]),
        ("teachers: {conv: {model: resnet18, train: {}, classes: [1, 0]}}", ["remove classes"]),
        ("loss: {tokens: single}\nstudent: {tokens: {conv: conv}}", ["only the class token learns"]),
        ("teachers: {a b: {model: resnet18, train: {}}}", ["'a b' is no name"]),
        ("teachers: {conv: {model: resnet18}}", ["teachers.conv would advise with random weights"]),
        (
            "teachers: {conv: {model: resnet18, train: {}}}\nstudent: {tokens: {cnn: conv}}",
            ["no token for teacher 'conv'"],
        ),
        ("teachers: {conv: {modl: resnet18}}", ["teachers.conv.modl is unknown (did you mean model?)"]),
        ("loss: {weights: {class: 1}}", ["loss.label_weight"]),
        ("optim: {batch_size: 10, accumulate: 3}", ["not divisible by optim.accumulate 3"]),
        ("schedule: {epochs: 3, warmup_epochs: 5}", ["warmup_epochs 5 must be smaller than schedule.epochs 3"]),
        # a problem inside one field does not hide a problem between fields
        ("optim: {lr: -1}\nteachers: {class: {model: a, train: {}}}", ["2 problems", "optim.lr is -1", "reserved"]),
    ],
)
def test_problems_are_named_with_place_and_remedy(text: str, words: list[str]) -> None:
    message = problems(MINIMAL + text)
    assert all(word in message for word in words), message


def test_switches_in_options_are_switches() -> None:
    recipe = read(MINIMAL + "student: {options: {align: off, pre_norm: 'Yes', stem: conv}}")
    assert recipe.student.options == {"align": False, "pre_norm": True, "stem": "conv"}


@pytest.mark.parametrize(
    "path",
    ["/x/photos #2", "#2", "/x/a: b", "{a,b}/*.tar", "*.tar", "[x]", "@eaDir/x", "2024", "010", "- x", "!x", "&x y",
     "%x", "yes", "a, b", "C:\\x", "x:", "nul\u00e9 #", "`x`", "~/photos"],
)  # fmt: skip
def test_a_path_on_the_command_line_is_taken_as_it_is(path: str) -> None:
    """The shell has read it already; what looks like a comment, a mapping or an alias is a path."""
    keys = ("data.source", "data.val_source", "run.output", "teachers.conv.checkpoint")
    content: dict = {"teachers": {"conv": {"model": "resnet18"}}}
    for key in keys:
        apply_setting(content, f"{key}={path}")
    assert content["data"] == {"source": path, "val_source": path} and content["run"] == {"output": path}
    assert content["teachers"]["conv"]["checkpoint"] == path


def test_null_and_quotes_mean_what_they_mean_in_yaml() -> None:
    content: dict = {}
    for setting in ("data.val_source=null", "data.source='it''s #2' # here", "data.classes=", "optim.lr=1e-3 # more"):
        apply_setting(content, setting)
    assert content == {"data": {"val_source": None, "source": "it's #2", "classes": None}, "optim": {"lr": 1e-3}}


@pytest.mark.parametrize("name", sorted(builtin_recipes()))
def test_the_commands_of_a_recipe_are_valid(name: str) -> None:
    text = builtin_recipes()[name].read_text()
    commands = re.findall(r"^#.*?coadvise train (.*?)(?: …)?$", text, re.M)
    assert commands
    for command in commands:
        words = command.split()
        assert words[0] == name
        load_recipe(words[0], words[1:])


def test_settings_that_may_change_on_resume_do_not_change_the_fingerprint() -> None:
    base = read(MINIMAL)
    known = flat(base.model_dump(mode="json"))
    assert set(FREE) <= known.keys()
    assert read(MINIMAL + "run: {allow_weak: true, log_every: 3, output: x}").fingerprint() == base.fingerprint()
    assert read(MINIMAL + "run: {seed: 1}").fingerprint() != base.fingerprint()


def test_top_level_problems() -> None:
    assert "data is missing" in problems("name: mine")
    assert "name is '../x'" in problems("name: ../x\ndata: {source: digits}")
    assert "'name' is given twice" in problems(MINIMAL + "name: again")
    twice = "teachers:\n  conv: {model: resnet18, train: {}}\n  conv: {model: resnet34, train: {}}"
    assert "'conv' is given twice" in problems(MINIMAL + twice)
    assert "is not valid YAML" in problems("name: [")
    forgotten = problems("name: mine\ndata\n  source: digits\n")  # PyYAML names the line after it
    assert forgotten.endswith("could not find expected ':', from line 2 to line 3")


def test_files_and_overrides(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL + "teachers: {conv: {model: resnet18, pretrained: true}}")
    recipe = load_recipe(path, ["optim.lr=2e-3", "schedule.epochs=7", "run.output=null", "teachers={}"])
    assert (recipe.optim.lr, recipe.schedule.epochs, recipe.teachers) == (0.002, 7, {})
    with pytest.raises(RecipeError, match="write key=value"):
        load_recipe(path, ["optim.lr"])
    with pytest.raises(RecipeError, match="name is a single value"):
        load_recipe(path, ["name.x=1"])
    with pytest.raises(RecipeError, match="did you mean cit-s"):
        load_recipe("cit-x")
    path.write_text("just words")
    with pytest.raises(RecipeError, match="is no recipe"):
        load_recipe(path)


@pytest.mark.parametrize("name", sorted(builtin_recipes()))
def test_built_in_recipes_say_what_they_do_and_survive_a_round_trip(name: str, tmp_path) -> None:
    text = builtin_recipes()[name].read_text()
    assert text.startswith("# ") and f"# command: coadvise train {name}" in text and "# cost: " in text
    recipe = load_recipe(name)
    path = tmp_path / "again.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe and recipe.name == name


def test_paper_settings() -> None:
    """§4.1 and the official schedule, as numbers."""
    recipe = load_recipe("cit-s")
    assert recipe.optim.lr * recipe.optim.batch_size / recipe.optim.lr_batch == 0.001
    assert (recipe.optim.weight_decay, recipe.optim.clip, recipe.optim.ema) == (0.05, 15, None)
    schedule = recipe.schedule
    assert (schedule.epochs, schedule.warmup_epochs, schedule.warmup_lr, schedule.min_lr) == (300, 20, 1e-6, 1e-5)
    augment = recipe.data.augment
    assert (augment.mixup, augment.cutmix, augment.mix_probability, augment.mix_switch) == (0.8, 1.0, 1.0, 0.5)
    assert (augment.erasing, augment.label_smoothing, augment.repeats) == (0.25, 0.1, 1)
    assert augment.randaugment == "rand-m9-mstd0.5-inc1"
    assert recipe.tokens() == {"conv": "conv", "inv": "inv"} and recipe.loss.weights == {}
    deit = load_recipe("deit-s")
    assert (deit.optim.ema, deit.optim.clip, deit.data.augment.repeats) == (0.99996, None, 3)
    assert (deit.data.augment.color_jitter, deit.schedule.warmup_epochs, deit.loss.advice) == (0.3, 5, "hard")


def test_fingerprint_counts_what_is_computed_and_nothing_else() -> None:
    recipe = read(MINIMAL)
    assert read(MINIMAL + "run: {output: elsewhere, log_every: 3}").fingerprint() == recipe.fingerprint()
    assert read(MINIMAL + "run: {seed: 1}").fingerprint() != recipe.fingerprint()


def test_schema_describes_every_setting() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["$defs"]["Optim"]["properties"]["clip"]["description"]


def test_advice_is_short_for_its_source(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: x\ndata: {source: digits}\nadvice: cache\n")
    assert load_recipe(path).advice.source == "cache"
    assert load_recipe(path, ["advice.folder=c"]).advice.folder == "c"
    assert (
        load_recipe(path, ["advice.folder=c", "advice=live"]).advice
        == load_recipe(path, ["advice.source=live", "advice.folder=c"]).advice
    )
    with pytest.raises(RecipeError, match="advice"):
        load_recipe(path, ["advice=lively"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epochs=5", "epochs is unknown (did you mean schedule.epochs?)"),
        ("epoch=5", "did you mean schedule.epochs?"),
        ("source=photos", "did you mean data.source or advice.source?"),
        ("dataset=photos", "did you mean data.source?"),
        (
            "data=/x/photos",
            "data is '/x/photos', but stands for several settings; write for example data.source=/x/p",
        ),
        ("lr=1e-3", "did you mean optim.lr?"),
        ("schedule.lr=1e-3", "did you mean optim.lr?"),
        ("learning_rate=1e-3", "did you mean optim.lr?"),
        ("optim=3", "optim is 3, but stands for several settings; write for example optim.lr=3"),
        ("teachers.inv=resnet18", "write for example teachers.inv.model=resnet18"),
        ("teachers.inv.epochs=3", "teachers.inv.epochs is unknown (did you mean teachers.inv.train.epochs?)"),
        ("seed=3", "did you mean data.seed or run.seed?"),
        ("optim.lrr=1", "did you mean lr?"),
        ("colour=red", "colour is unknown (known: advice, data, loss"),
        ("teachers=3", "1 problem on the command line: teachers is 3, must be keys with values"),
    ],
)
def test_guesses_are_met(setting: str, words: str) -> None:
    with pytest.raises(RecipeError, match=r"^1 problem on the command line: ") as caught:
        load_recipe("digits", [setting])
    assert words in str(caught.value)


def test_a_setting_that_no_file_can_hold_is_refused_at_the_start() -> None:
    with pytest.raises(RecipeError, match=r"^'run.output=r\\xe9n' is not UTF-8") as caught:
        load_recipe("digits", [os.fsdecode(b"run.output=r\xe9n")])
    str(caught.value).encode()


@pytest.mark.parametrize("setting", ["optim..lr=1", ".lr=1", "optim.=1", "=1", "optim.lr", ""])
def test_what_is_no_setting(setting: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"'{setting}' is no setting; write key=value")):
        load_recipe("digits", [setting])


def test_a_mistake_is_blamed_on_what_holds_it(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL + "optim: {lrr: 1}")
    with pytest.raises(RecipeError, match=re.escape(f"1 problem in {path}: optim.lrr is unknown")):
        load_recipe(path, ["schedule.epochs=9"])
    with pytest.raises(RecipeError, match=re.escape(f"2 problems in {path} with the settings of the command line: ")):
        load_recipe(path, ["schedule.epochs=0"])
    path.write_text(MINIMAL)
    with pytest.raises(RecipeError, match=re.escape(f"1 problem in {path} with the settings of the command line: ")):
        load_recipe(path, ["student.options.drop_rate=.inf"])  # options are one field
    between = "1 problem in the built-in recipe digits with the settings of the command line: optim.batch_size"
    with pytest.raises(RecipeError, match=between):
        load_recipe("digits", ["optim.accumulate=7"])
    with pytest.raises(RecipeError, match="built-in recipe of that name"):
        load_recipe("x" * 5000)
    (tmp_path / "recipe.yaml").write_text(MINIMAL)
    with pytest.raises(RecipeError, match=r"is a folder; the recipe of that run is .*recipe\.yaml") as caught:
        load_recipe(tmp_path)
    command = shlex.split(str(caught.value).splitlines()[1])
    assert command == ["coadvise", "train", f"{tmp_path}/recipe.yaml", f"run.output={tmp_path}", "--resume"]


def test_folders_and_other_things_that_are_no_files(tmp_path):
    with pytest.raises(RecipeError, match=r"is a folder without recipes; .*\n  coadvise train folder data\.source=/"):
        load_recipe(tmp_path)
    (tmp_path / "mine.yml").touch()
    with pytest.raises(RecipeError, match=r"is a folder, not a recipe; give a file in it: 'mine\.yml'$"):
        load_recipe(tmp_path)
    if os.path.exists("/dev/zero"):
        with pytest.raises(RecipeError, match="/dev/zero is no file that can be read to its end"):
            load_recipe("/dev/zero")
    with pytest.raises(RecipeError, match="there is no recipe file"):
        load_recipe("a\0b")
    (tmp_path / "My-Photos.yaml").touch()
    with pytest.raises(RecipeError, match=r"no built-in recipe of that name \(did you mean .*/My-Photos\.yaml\?\)$"):
        load_recipe(tmp_path / "my_photos.yaml")
    with pytest.raises(RecipeError, match=r"of that name \(known: cifar10, "):
        load_recipe(tmp_path / "gone" / "digits")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_read(tmp_path):
    """As a shell gives it for `coadvise train <(…)`."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(MINIMAL,), daemon=True)
    writer.start()
    piped = load_recipe(tmp_path / "pipe", ["schedule.epochs=30"])
    writer.join()
    (tmp_path / "file.yaml").write_text(MINIMAL)
    assert piped == load_recipe(tmp_path / "file.yaml", ["schedule.epochs=30"])


def test_a_teacher_starts_from_the_weights_that_it_names() -> None:
    teacher = "{model: resnet10, checkpoint: t.pth, checkpoint_weights: plain, train: {epochs: 9}}"
    own = teacher_recipe(read(MINIMAL + f"teachers: {{conv: {teacher}}}"), "conv", Path("runs/conv"))
    assert (own.student.checkpoint, own.student.checkpoint_weights) == ("t.pth", "plain")


def test_null_leaves_a_teacher_out_with_all_that_is_said_of_it(tmp_path: Path) -> None:
    text = """
        name: two
        data: {source: digits}
        teachers: {conv: {model: resnet10, checkpoint: a}, inv: {model: rednet26, checkpoint: b}}
        loss: {weights: {conv: 2, inv: 3}, temperatures: {inv: 4}}
        student: {tokens: {conv: conv, inv: inv}, read_at: {inv: 8}}
    """
    file = tmp_path / "two.yaml"
    file.write_text(textwrap.dedent(text))
    file_of_one = tmp_path / "one.yaml"
    for one in ("inv: {model: rednet26, checkpoint: b}", "inv: 3", "inv: 4", "inv: inv", "inv: 8"):
        text = re.sub(rf",? ?{re.escape(one)}", "", text)
    file_of_one.write_text(textwrap.dedent(text))
    assert load_recipe(file, ["teachers.inv=null"]) == load_recipe(file_of_one)
    assert "inv" not in file_of_one.read_text()
    with pytest.raises(RecipeError, match=r"no teacher 'inw' \(did you mean inv\?\)"):
        load_recipe(file, ["teachers.inw=null"])
