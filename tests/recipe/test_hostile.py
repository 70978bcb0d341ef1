"""Any bytes as a recipe: one clean error, after little work and 100 MB; and what is large but honest is read."""

import random
import resource
from pathlib import Path

import pytest
from helpers.work import calls_at_most, ends

from coadvise.errors import RecipeError
from coadvise.recipe.reading import dump_recipe, load_recipe
from coadvise.recipe.yaml import parse_yaml

HEAD = "name: mine\ndata: {source: digits}\n"
INSIDE = "student:\n  options:\n"


def bomb(first: str, line: str, levels: int = 12, times: int = 9) -> str:
    lines = [f"    a0: &a0 {first}"]
    for level in range(1, levels):
        lines.append(f"    a{level}: &a{level} " + line.format(", ".join(f"*a{level - 1}" for _ in range(times))))
    return HEAD + INSIDE + "\n".join(lines)


MAPPINGS = HEAD + INSIDE + "    a0: &a0 {x: 1}\n"
MAPPINGS += "".join(f"    a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}\n" for i in range(1, 9))
CHAIN = HEAD + INSIDE + "    a0: &a0 [1]\n" + "".join(f"    a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 150))
HOSTILE = {
    "alias bomb": bomb("[x, x, x]", "[{}]"),
    "bomb of mappings": MAPPINGS,
    "bomb of merges": bomb("{x: 1}", "{{<<: [{}]}}"),
    "chain of aliases": CHAIN,
    "itself inside": HEAD + "student: {options: &a {b: *a}}",
    "deep lists": HEAD + "student: {options: {a: " + "[" * 5000 + "]" * 5000 + "}}",
    "deep mappings": HEAD + "x: " + "{a: " * 5000 + "1" + "}" * 5000,
    "deep blocks": HEAD + "x:\n" + "".join(f"{' ' * i}a:\n" for i in range(1, 400)),
    "many values": HEAD + "student: {options: {a: [" + "1," * 120_000 + "]}}",
    "many keys": HEAD + "".join(f"k{i}: 1\n" for i in range(15_000)),
    "much text": HEAD + "# " + "x" * 20_000_000,
    "long number": HEAD + "schedule: {epochs: " + "9" * 5000 + "}",
    "long number of an option": HEAD + "student: {options: {a: " + "9" * 5000 + "}}",
    "long word": HEAD + "schedule: {epochs: '" + "9" * 5000 + "'}",
    "long key": HEAD + "? " + "a" * 100_000 + "\n: 1\n",
    "long name": "name: " + "a" * 100_000 + "\ndata: {source: digits}\n",
    **{f"tag {tag}": HEAD + f"optim: {{lr: !!{tag}}}" for tag in (
        "int x", "int '9_'", "float x", "float 1:30", "bool x", "null x y z: a", "binary x", "timestamp x",
        "timestamp 2024-99-99", "set {a}", "omap [a: 1]", "pairs [a: 1]", "map [a]", "seq {a: 1}", "str [a]", "int [1]",
    )},
    "no mapping to merge": HEAD + "optim: {<<: 3}",
    "no text": "\0" * 1000,
    "a text with NUL": HEAD + 'x: "\\0"',
    "half a character": 'name: a\ndata: {source: "\\ud800"}',
}  # fmt: skip


def refusal(source: str | Path, *settings: str) -> str:
    """The message of a recipe's refusal, which costs 6 million calls (a second or two) and 100 MB at most."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecipeError) as caught, ends(), calls_at_most(6_000_000):
        load_recipe(source, settings)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100e3
    message = str(caught.value)
    assert len(message) < 2500 and "\n" not in message
    return message


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "many values" else name for name in HOSTILE]
)
def test_hostile_recipes_are_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HOSTILE[name])
    assert str(path) in refusal(path)


def test_hostile_settings_are_refused_at_once() -> None:
    for name in ("alias bomb", "deep lists", "long number", "tag int x", "itself inside", "a text with NUL"):
        assert "student.options.x" in refusal("digits", f"student.options.x={HOSTILE[name]}", "optim.lr=-1")


def test_random_bytes_and_damaged_recipes_are_refused_or_read(tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "mine.yaml"
    text = (
        HEAD + "optim: {lr: 1e-3, betas: [0.9, 0.99]}\nteachers: &t {conv: {model: resnet18, train: {}}}\n"
    ).encode()
    pieces = [
        b"[",
        b"{",
        b"&t ",
        b"*t",
        b"!!int ",
        b"<<: ",
        b"\xff",
        b"\0",
        b"9" * 999,
        b".inf",
        b": ",
        b"- ",
        b"? ",
        b"%",
    ]
    for _ in range(300):
        damaged = bytearray(text)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(damaged))
            damaged[at : at + rng.randrange(3)] = rng.choice(pieces)
        path.write_bytes(rng.randbytes(50) if rng.random() < 0.1 else bytes(damaged))
        try:
            load_recipe(path).fingerprint()
        except RecipeError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e999", "'inf'", "'nan'"])
def test_only_finite_numbers_are_numbers(value: str) -> None:
    keys = [
        "optim.lr", "optim.weight_decay", "optim.eps", "schedule.warmup_epochs", "schedule.min_lr", "optim.token_lr",
        "data.augment.mixup", "loss.label_weight", "loss.weights.conv", "teachers.conv.train.lr",
    ]  # fmt: skip
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits", [f"data.mean=[0, {value}, 0]", *(f"{key}={value}" for key in keys)])
    assert str(caught.value).startswith("11 problems on the command line") and "data.mean.1 is" in str(caught.value)
    assert str(caught.value).count("must be a finite number") == 10 and "and 1 more" in str(caught.value)
    if "'" not in value:  # an option of a model may be any text
        with pytest.raises(RecipeError, match=r"student\.options: .* is no finite number"):
            load_recipe("digits", [f"student.options.x=[{{y: {value}}}]"])


def test_whole_numbers_have_a_limit() -> None:
    for key in (
        "optim.batch_size",
        "schedule.epochs",
        "data.views",
        "data.workers",
        "run.seed",
        "teachers.inv.image_size",
    ):
        with pytest.raises(RecipeError, match=f"{key} is 1000000000000, must be [<≤]"):
            load_recipe("digits", [f"{key}=1000000000000"])


@pytest.mark.slow
def test_large_class_maps_and_shared_parts_are_read(tmp_path: Path) -> None:
    """What people write: a map of thousands of classes, and anchors in place of repetition."""
    path = tmp_path / "mine.yaml"
    numbers = list(range(21_841, 0, -1))  # as many as ImageNet-21k has
    text = HEAD + "teachers:\n  a: &t {model: resnet18, pretrained: true, classes: " + str(numbers) + "}\n"
    path.write_text(text + "  b: {<<: *t, model: resnet34, classes: null}\n  c: *t\n")
    with pytest.raises(RecipeError, match="30,000 values"):  # twice the map, by its alias
        load_recipe(path)
    path.write_text(
        text
        + "  b: {<<: *t, model: resnet34}\n".replace("*t", "&s {pretrained: true}")
        + "  c: {<<: *s, model: vgg11}\n"
    )
    recipe = load_recipe(path)
    assert recipe.teachers["a"].classes == numbers
    path.write_text(dump_recipe(recipe))  # as a run writes it down, a line for each
    assert load_recipe(path) == recipe
    assert recipe.teachers["c"].pretrained and recipe.teachers["c"].model == "vgg11"


def test_a_tag_may_say_what_a_word_is() -> None:
    text = "[!!str 1, !!int '7', !!float '2', !!bool 'true', !!float 1e3, !!null '', !!seq [1], !!map {a: 1}]"
    assert parse_yaml(text, "x") == ["1", 7, 2.0, True, 1000.0, None, [1], {"a": 1}]
