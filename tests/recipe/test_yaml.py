"""Reading and writing YAML, beside PyYAML."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from coadvise.errors import RecipeError
from coadvise.recipe.reading import builtin_recipes, dump_recipe, load_recipe
from coadvise.recipe.yaml import dump_yaml, parse_yaml

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "1e-3", "1e5", "1E+5", "on", "off", "yes", "no", "y", "n", "true", "Null", "010", "08", "1_000",
    "1_0.5", "1__0", "2024-05-01", ".5", "5.", "~", "0o7", "0x1F", "0b1", "1:30", "12:30", "<<", "=", ".inf",
    "+1", "-", "?", "!", "&", "*", "%", "@a", "a:b", "a#b", "#x", "{", "[", ",",
    ":", "|",
]  # fmt: skip
WORDS += ["", "  x ", "a: b", "a #b", "é", "line\nbreak", "tab\t", "'", '"', "x" * 200]


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any value that a recipe may hold."""
    kind = rng.randrange(6 if depth < 2 else 4)
    if kind == 0:
        return rng.choice(WORDS)
    if kind == 1:
        return rng.choice([1e-3, 1e-6, 1e16, 1e22, 0.1, -2.5e-8, 1.0, 1e5, rng.random() * 10 ** rng.randint(-12, 12)])
    if kind == 2:
        return rng.choice([True, False, None, rng.randint(-(10**6), 10**6)])
    if kind == 3:
        return "".join(rng.choice("aeo01-_.:e+#x ~") for _ in range(rng.randrange(8)))
    if kind == 4:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {f"{rng.choice(WORDS)}{number}": value(rng, depth + 1) for number in range(rng.randrange(4))}


def test_what_is_written_reads_the_same_here_and_by_pyyaml() -> None:
    rng = random.Random(0)
    for _ in range(500):
        content = {"key": value(rng)}
        text = dump_yaml(content)
        assert repr(parse_yaml(text, "x")) == repr(content) == repr(yaml.safe_load(text)), text


def test_recipes_are_written_as_pyyaml_writes_them(tmp_path: Path) -> None:
    for name in builtin_recipes():
        recipe = load_recipe(name)
        plain = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        assert dump_recipe(recipe) == plain
    renamed = load_recipe("digits", ["name='1e5'"])
    (tmp_path / "again.yaml").write_text(dump_recipe(renamed))
    assert renamed.name == "1e5" and load_recipe(tmp_path / "again.yaml") == renamed


def test_recipes_of_earlier_runs_mean_what_pyyaml_wrote() -> None:
    files = [*(ROOT / "tests" / "fixtures").rglob("recipe.yaml"), *(ROOT / "results").rglob("recipe*.yaml")]
    assert files
    for path in files:
        assert parse_yaml(path.read_text(), str(path)) == yaml.safe_load(path.read_text()), path


@pytest.mark.parametrize(
    "text", ["a: !!int x", "a: !!python/object/apply:os.getcwd []", "? [1]\n: 2", "a: 1\n---\nb: 2", "a: *b", "- a\n-b"]
)
def test_what_is_no_recipe_is_an_error_for_the_user(text: str) -> None:
    with pytest.raises(RecipeError, match=r"mine\.yaml is not valid YAML"):
        parse_yaml(text, "mine.yaml")


def test_underscores_group_digits_only() -> None:
    assert parse_yaml("[1_000, 1__0, 1_, _1, 1٣]", "x") == [1000, "1__0", "1_", "_1", "1٣"]
