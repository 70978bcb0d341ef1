"""The engine notices what it is there for, and changes inputs alike each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from random import Random

import pytest
from helpers import TESTS

from fuzz.engine import Limits, Outcome, available, read_inputs
from fuzz.mutate import json_bytes, mutate_bytes, mutate_tree
from fuzz.planted import MEMORY, SECONDS, WAITING, WAYS, planted
from fuzz.report import tally

pytestmark = pytest.mark.skipif(not available(), reason="limits of time and memory need Linux")


@pytest.fixture(scope="module")
def outcomes() -> dict[int, Outcome]:
    limits = Limits(SECONDS, WAITING, MEMORY)
    return {one.number: one for one in read_inputs("planted", planted, range(len(WAYS)), limits, readers=2)}


def test_every_way_to_fail_is_noticed(outcomes: dict[int, Outcome]) -> None:
    assert {n: outcomes[n].kind for n in sorted(outcomes)} == {n: kind for n, (_, kind) in enumerate(WAYS)}


def test_failures_are_told_and_counted(outcomes: dict[int, Outcome]) -> None:
    found = tally(outcomes.values())
    content = found.content()
    assert content["inputs"] == len(WAYS) and content["outcomes"]["slow"] == 3 and content["outcomes"]["read"] == 2
    assert found.failed == sum(kind not in ("read", "refused") for _, kind in WAYS)
    text = "\n".join(found.lines())
    for words in ("SIGSEGV", "SIGKILL", "over 0.4 s", "ValueError", "not what was written", "it is bad"):
        assert words in text
    assert content["slowest"]["seconds"] == SECONDS


def test_a_fault_of_the_fuzzer_is_no_fault_of_the_input() -> None:
    with pytest.raises(RuntimeError, match="the fuzzer of planted itself failed"):
        list(read_inputs("planted", planted, [10**6], Limits()))  # a number that it does not know


def test_inputs_follow_from_their_number() -> None:
    """In another process, with another seed of Python's hashes."""
    code = (
        "from random import Random; from fuzz.mutate import *; import hashlib; r = Random('a 0 1'); "
        "d = [mutate_bytes(r, b'12 abc' * 9, [b'xyz'], [b'w']) for _ in range(200)]; "
        "d += [json_bytes(r, mutate_tree(r, {'a': [1, {'b': 'c'}], 'd': 2.5}, ['a', 'x'])) for _ in range(200)]; "
        "print(hashlib.sha256(b'|'.join(d)).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(TESTS)},
            cwd=TESTS, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


def test_mutations_change_and_do_not_touch_the_original() -> None:
    rng, tree = Random(0), {"a": [1, {"b": "c"}], "d": 2.5}
    before, raw = json.dumps(tree), bytes(range(100))
    trees = {json_bytes(rng, mutate_tree(rng, tree, ["a", "x"])) for _ in range(500)}
    texts = {mutate_bytes(rng, raw, [b"0" * 50], [b"word"]) for _ in range(500)}
    assert json.dumps(tree) == before and len(trees) > 200 and len(texts) > 450
    lengths = {len(text) for text in texts}
    assert min(lengths) < 50 and max(lengths) > 110 and any(b"word" in text for text in texts)
