"""Recipes: YAML files, and settings of the command line."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import yaml

from coadvise.recipe.reading import builtin_recipes, dump_recipe, load_recipe
from coadvise.recipe.schema import Recipe, flat
from fuzz.engine import BrokenPromise, Input, Target
from fuzz.mutate import mutate_bytes, mutate_tree

_WORDS = [
    b"&a ", b"*a", b"<<: *a", b"!!int x", b"!!float .", b"!!python/object:os.system ", b"!!binary |\n aGk=",
    b"!!set {a}",
    b"---\n", b"...\n", b"%YAML 9.9\n", b"? [a, b]\n: ", b"- ", b"[", b"]", b"{", b"}", b"'", b'"', b"|\n ", b">\n ",
    b"\t", b"#", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\xc2\x85", b".inf", b".nan", b"1e-3", b"010", b"0x1f",
    b"1_000",
    b"2024-05-01", b"12:30:00", b"on", b"~", b"=", b"null", b"9" * 5000, b"1e400", b"\xf0\x9f\x90\x88",
]  # fmt: skip
_SHORT = """name: a
data: {source: digits}
student: {model: cit_tiny}
teachers:
  conv: {model: resnet18, bias: conv, train: {epochs: 2}}
  inv: {model: rednet26, bias: inv, train: {epochs: 1}}
"""


def _texts() -> list[str]:
    found = [builtin_recipes()[name].read_text(encoding="utf-8") for name in ("folder", "cit-sak")]
    return [*found, _SHORT]


def _keys() -> list[str]:
    return sorted(flat(load_recipe("cit-s").model_dump(mode="json")))


def _bomb(rng: Random) -> str:
    """Aliases of aliases: few characters that stand for very many values."""
    width, depth = rng.choice(((2, 20), (9, 6), (30, 4)))
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    return "\n".join(lines) + f"\nname: *a{depth - 1}\n"


def _odd(rng: Random, text: str) -> str:
    """What mutations seldom find: deep nesting, bombs of aliases, a value that contains itself."""
    deep = rng.choice((30, 30, 300, 300, 3_000, 30_000))
    parts = (
        "[" * deep,
        "[" * deep + "]" * deep,
        "{a: " * deep,
        "- " * deep,
        "&a [*a]",
        "&a {a: *a}",
        "{<<: &a {<<: *a}}",
    )
    if rng.random() < 0.3:
        return _bomb(rng) + text
    lines = text.splitlines()
    lines.insert(rng.randint(0, len(lines)), f"{rng.choice(('name', 'data', 'teachers', 'x'))}: {rng.choice(parts)}")
    return "\n".join(lines)


def recipe(folder: Path) -> Target:
    """A YAML file."""
    texts, keys = _texts(), [word for key in _keys() for word in key.split(".")]
    raw = [text.encode() for text in texts]

    def make(rng: Random) -> Input:
        way, text = rng.random(), rng.choice(texts)
        if way < 0.5:
            return {"my.yaml": mutate_bytes(rng, text.encode(), raw, _WORDS)}
        if way < 0.9:
            tree = mutate_tree(rng, yaml.safe_load(text), keys)
            flow = rng.random() < 0.3
            return {"my.yaml": yaml.safe_dump(tree, sort_keys=False, default_flow_style=flow).encode()}
        return {"my.yaml": _odd(rng, text).encode()}

    return Target([{"my.yaml": one} for one in raw], make, lambda place: _whole(load_recipe(place / "my.yaml")))


def _whole(loaded: Recipe) -> None:
    """What was read is written, and read again, as the same."""
    loaded.fingerprint()
    again = Path("again.yaml")
    again.write_text(dump_recipe(loaded), encoding="utf-8")
    if load_recipe(again) != loaded:
        raise BrokenPromise("a recipe that was written and read is another one")


def setting(folder: Path) -> Target:
    """`key=value` on the command line, one a line of the input."""
    keys = _keys()
    recipe_file = folder / "my.yaml"
    recipe_file.write_text(_SHORT)
    values: list[Any] = [
        "1", "0", "-1", "1e-3", "null", "true", "[1, 2, 3]", "{a: 1}", "x", "'", "", "=", "#", "a #b",
        "cache", "digits",
    ]  # fmt: skip

    def make(rng: Random) -> Input:
        lines = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            line = f"{rng.choice(keys)}={rng.choice(values)}".encode()
            way = rng.random()
            if way < 0.8:
                line = mutate_bytes(
                    rng, line, (), [*_WORDS, b"=", b".", b"..", *(k.encode() for k in rng.sample(keys, 3))]
                )
            elif way < 0.9:
                line = line.partition(b"=")[0] + b"=" + _odd(rng, "")[:50_000].encode()
            lines.append(line.replace(b"\n", b" ").replace(b"\0", b""))
        return {"settings": b"\n".join(lines)}

    def read(place: Path) -> None:
        # As Python decodes what the shell hands over.
        words = (place / "settings").read_bytes().decode("utf-8", "surrogateescape").split("\n")
        _whole(load_recipe(recipe_file, words))

    def names(place: Path, message: str) -> bool:
        # What is not UTF-8 can only be shown by its bytes.
        words = (place / "settings").read_bytes().decode("utf-8", "backslashreplace").split("\n")
        keys = [word.partition("=")[0].strip() for word in words]
        said = (str(recipe_file), "command line", *(f"'{word}'" for word in words), *filter(None, keys))
        return any(one in message for one in said)

    return Target([{"settings": f"{key}=null".encode()} for key in ("data.views", "data.classes")], make, read, names)
