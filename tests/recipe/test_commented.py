"""A recipe with reasons, read back by PyYAML."""

import yaml

from coadvise.recipe.commented import commented
from coadvise.recipe.yaml import parse_yaml


def test_what_is_written_is_what_is_read() -> None:
    settings = [
        ("name", "mine", "of the run"),
        ("data.source", "a #b: 'c'", ""),
        ("data.augment.policy", "light", "long " * 60),
        ("data.augment.scale", [0.25, 1.0], ""),
        ("data.mean", [0.5, 0.5, 0.5], "back in data"),
        ("student.options", {"patch_size": 8, "stem": "conv+inv"}, ""),
        ("teachers.conv.model", "resnet10", ""),
        ("teachers.conv.train.epochs", 3, "few"),
        ("teachers.inv.model", "rednet26", "no"),
        ("optim.lr", 1e-3, ""),
        ("data.seed", 3, "late"),
        ("optim.lr_batch", None, "null\nis off"),
    ]
    text = commented(["first", "second"], settings)
    assert text.startswith("# first\n# second\n# of the run\nname: mine\n")
    assert max(map(len, text.splitlines())) <= 120
    wanted: dict = {}
    for key, value, _ in settings:
        *path, last = key.split(".")
        place = wanted
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    assert parse_yaml(text, "it") == wanted
    assert {**yaml.safe_load(text), "optim": None} == {**wanted, "optim": None}
    assert "  # few\n" in text and all(text.count(f"\n{part}:") == 1 for part in wanted if part != "name")
