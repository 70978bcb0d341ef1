"""What `coadvise select-teachers` says of the set that it proposes."""

import pytest

from coadvise.cli.select_teachers import _print_choice
from coadvise.evaluation.candidates import Choice


@pytest.mark.parametrize(
    ("gained", "lost", "p", "words"),
    [
        (9, 1, 0.02, "together they know more than the best alone, a: 9 images gained, 1 lost of 333, p = 0.02"),
        (1, 8, 0.039, "the best alone, a, knows more than their average: 1 image gained, 8 lost of 333, p = 0.039"),
        (2, 2, 1.0, "it is not shown that together they know more than the best alone, a: 2 images gained, 2 lost"),
    ],
)
def test_what_a_set_adds_to_its_best_member_is_said_in_its_direction(
    gained: int, lost: int, p: float, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _print_choice(Choice(("a", "b"), 0.9, 0.1, "a", gained, lost, p, weak=("c",)), images=333)
    said = " ".join(capsys.readouterr().out.split())
    assert words in said and "left out: c, which errs far more often than the best" in said


def test_that_the_set_was_chosen_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for sets, words in (
        (1, "0 lost of 333, p = 0.04"),
        (28, "0 lost of 333, p = 0.04, corrected for the choice among 28 sets on the same images"),
    ):
        _print_choice(Choice(("a", "b"), 0.9, 0.1, "a", 20, 0, 0.04, weak=(), sets=sets), images=333)
        assert " ".join(capsys.readouterr().out.split()).endswith(words)
