"""Measurements beyond the paper: calibration, agreement in error, likeness of features, tokens that collapse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..paper.ablations import CROSS, SAME_TWICE, SEVEN_ARMS
from ..paper.arms import Arm
from ..paper.declared import Experiment, Value
from ..significance import summarise
from .outcomes import outcomes_parts
from .page import Part, Section, Text
from .pictures import read_attention
from .plots.style import draw
from .plots.tokens import attention_figure, token_cosine_figure
from .results import Results
from .tables import Table, mean_sd, number, percent
from .titles import arm_title, member_title

_SHOWN = {CROSS: "both kinds", SAME_TWICE: "one kind"}
"""Arms whose tokens are followed through the depth."""
FIRST = "The arms that carry the claim come first."
SAME = 0.99
"""Cosine after the last block above which two tokens count as one."""


def beyond_section(experiments: Sequence[Experiment], results: Results, pictures: Path | None) -> Section | None:
    """Outcomes beside top-1, and tables over the arms with teachers; None where nothing of it was measured.

    Args:
        pictures: folder of what was made of single images, if there is one.
    """
    run = [arm for arm in dict.fromkeys(arm for one in experiments for arm in one.arms()) if results.seeds(arm)]
    arms = [arm for arm in run if arm.teachers]
    arms.sort(key=lambda arm: SEVEN_ARMS.index(arm) if arm in SEVEN_ARMS else len(SEVEN_ARMS))
    parts = outcomes_parts(run, results)
    parts += [*_likeness_parts(arms, results), *_token_parts(arms, results), *_attention_parts(pictures)]
    return Section("beyond", "Beyond the paper", parts) if parts else None


def _likeness_parts(arms: Sequence[Arm], results: Results) -> list[Part]:
    parts: list[Part] = []
    if likeness := _likeness_rows(arms, results):
        columns = ["Arm", "Token", "Teacher", "κ of errors", "CKA of features", "ECE of the token (%)"]
        text = (
            "κ: whether token and teacher err on the same images (1: always, 0: as by chance). CKA: likeness of the "
            "token's last embedding and the teacher's last features (1: the same up to a rotation). ECE: distance "
            "between confidence and accuracy."
        )
        parts.append(Table("Tokens and teachers, mean over the seeds", columns, likeness, "lllrrr"))
        parts += [Text(text, "note"), Text(FIRST, "note")]
    if pairs := _teacher_rows(arms, results):
        columns = ["Teachers", "Kinds", "κ of errors", "CKA of features", "Both averaged (%)", "One of them right (%)"]
        parts.append(Table("How different the teachers are from each other", columns, pairs, "llrrrr"))
        parts.append(Text("The lower κ and CKA, the more the second teacher has to add to the first.", "note"))
    if ensembles := _ensemble_rows(arms, results):
        columns = ["Arm", "Class token (%)", "Teachers' mean (%)", "Some teacher right (%)"]
        parts.append(Table("The student and its teachers together", columns, ensembles, "lrrr"))
        counts = {n for arm in arms for run in results.runs(arm) if (n := run.likeness_images) is not None}
        if counts:
            images = " or ".join(f"{count:,}" for count in sorted(counts))
            parts.append(Text(f"What is said of teachers here is about {images} of the validation images.", "note"))
    return parts


def _token_parts(arms: Sequence[Arm], results: Results) -> list[Part]:
    """How alike the tokens of a student are."""
    parts: list[Part] = []
    if curves := _cosine_curves(arms, results):
        alt = "Mean cosine between tokens after each block, one run of each arm."
        parts.append(draw("token-cosine", alt, lambda: token_cosine_figure(curves)))
        parts.append(Text("In the figure: the first seed of each arm. Others may be unlike it:", "note"))
    if cosines := _cosine_rows(arms, results):
        columns = ["Arm", "Tokens", "Cosine after the last block, every seed"]
        parts.append(Table("How alike the tokens of a student are", columns, cosines, "lll"))
    if collapsed := _collapsed(arms, results):
        named = [text for arm, text in collapsed.items() if arm in SEVEN_ARMS]
        others = len(collapsed) - len(named)
        named += [f"runs of {others} other arms" if others > 1 else "runs of another arm"] if others else []
        said = f"Tokens that ended up the same (cosine above {SAME} after the last block)"
        parts.append(Text(f"{said}: {'; '.join(named)}.", "warning"))
    return parts


def _attention_parts(pictures: Path | None) -> list[Part]:
    images = read_attention(pictures)
    if not images:
        return []
    alt = f"Attention of each token to the patches of {len(images)} images, in the last block."
    return [
        draw("attention", alt, lambda: attention_figure(images)),
        Text("Bright: where the token looks in the last block, mean over the heads.", "note"),
    ]


def _likeness_rows(arms: Sequence[Arm], results: Results) -> list[list[str]]:
    rows = []
    for arm in arms:
        for key in results.runs(arm)[0].measured:
            group, _, pair = key.partition("/")
            teacher, _, token = pair.partition("|")
            if group == "kappa" and token in ("class", teacher):
                kappa, cka = (number(results.mean(Value(arm, f"{what}/{pair}")), 2) for what in ("kappa", "cka"))
                ece = percent(results.mean(Value(arm, f"ece/{token}")))
                own = "class" if token == "class" else "its own"
                rows.append([arm_title(arm), own, member_title(teacher, arm), kappa, cka, ece])
    return rows


def _teacher_rows(arms: Sequence[Arm], results: Results) -> list[list[str]]:
    """Every pair of teachers once, by what the first student of both has measured of them."""
    rows: dict[str, list[str]] = {}
    for arm in arms:
        run = results.runs(arm)[0]
        both = [run.number(f"ensemble/{what}") for what in ("accuracy", "upper")]
        for pair, found in run.teacher_pairs.items():
            if len(arm.teachers) == 2 and pair not in rows:
                kinds = {teacher.bias for teacher in arm.teachers}
                kappa, cka = (number(found.get(what), 2) for what in ("kappa", "cka"))
                kind = "two kinds" if len(kinds) == 2 else "one kind"
                rows[pair] = [_pair(pair, arm), kind, kappa, cka, *map(percent, both)]
    return list(rows.values())


def _ensemble_rows(arms: Sequence[Arm], results: Results) -> list[list[str]]:
    rows = []
    for arm in arms:
        # Older result files lack the student's top-1 on the same images as its teachers'.
        whole = len(results.series(Value(arm, "ensemble/student"))) == len(results.seeds(arm))
        own = "ensemble/student" if whole else "accuracy/class"
        series = [results.series(Value(arm, metric)) for metric in (own, "ensemble/accuracy", "ensemble/upper")]
        if all(series) and len(arm.teachers) > 1:
            student, *theirs = (list(one.values()) for one in series)
            # Of teachers that are one run each, every seed of the student measures the same.
            same = lambda values: percent(values[0]) if len(set(values)) == 1 else mean_sd(summarise(values))
            rows.append([arm_title(arm), mean_sd(summarise(student)), *map(same, theirs)])
    return rows


def _cosine_curves(arms: Sequence[Arm], results: Results) -> dict[str, list[float]]:
    """Through the depth, of the first seed of the arms with two advised tokens."""
    return {
        f"{title}: {_pair(pair, arm)}": [float(value) for value in values]
        for arm, title in _SHOWN.items()
        if arm in arms
        for pair, values in results.runs(arm)[0].token_cosine.items()
    }


def _cosine_rows(arms: Sequence[Arm], results: Results) -> list[list[str]]:
    """Every run of the seven arms and of those with changed tokens: how tokens end up differs from seed to seed."""
    rows = []
    for arm in (one for one in arms if one in SEVEN_ARMS or (one.token_lr, one.token_std) != (1.0, 1.0)):
        runs = [run.token_cosine for run in results.runs(arm)]
        for pair in dict.fromkeys(pair for run in runs for pair in run):
            rows.append(
                [arm_title(arm), _pair(pair, arm), ", ".join(number(run[pair][-1], 2) for run in runs if pair in run)]
            )
    return rows


def _collapsed(arms: Sequence[Arm], results: Results) -> dict[Arm, str]:
    found = {}
    for arm in arms:
        runs = [run.token_cosine for run in results.runs(arm) if run.token_cosine]
        same = Counter(pair for run in runs for pair, values in run.items() if values[-1] > SAME)
        if same:
            pairs = ", ".join(f"{_pair(pair, arm)} in {n}" for pair, n in sorted(same.items()))
            found[arm] = f"{arm_title(arm)} ({pairs} of {len(runs)} run{'' if len(runs) == 1 else 's'})"
    return found


def _pair(pair: str, arm: Arm) -> str:
    return " – ".join(member_title(name, arm) for name in pair.split("|"))
