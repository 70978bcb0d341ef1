"""What a demo's report says: sentences and tables computed from the numbers, whichever way they fall.

Nothing here assumes that the method wins. A claim is written as a claim only where the corrected paired test
bears it out; otherwise the sentence says "undecided", or that the opposite was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..names import CLASS
from ..significance import ALPHA, DOES_NOT_HOLD, HOLDS, Paired, Summary, holm, paired_difference, summarise, verdict
from .inputs import Arm, Demo
from .tables import NONE, Cell, Table, count, duration, mean_sd, number, p_value, parameters, percent, points

_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six")


def number_word(n: int) -> str:
    """`Two` for 2; digits from seven on."""
    return _NUMBERS[n] if n < len(_NUMBERS) else str(n)


def summary(arm: Arm) -> Summary | None:
    """Top-1 of the class token over the arm's seeds, as a share."""
    values = list(arm.by_seed.values())
    return summarise(values) if values else None


@dataclass(frozen=True)
class Comparison:
    """The claim that arm `a` is better than arm `b`, with what speaks for it; differences are shares."""

    a: Arm
    b: Arm
    paired: Paired | None
    p: float | None
    verdict: str
    mean_a: float | None
    mean_b: float | None


def common_seeds(a: Arm, b: Arm) -> list[int | None]:
    """Seeds that both arms have, sorted."""
    return sorted(set(a.by_seed) & set(b.by_seed), key=lambda seed: (seed is None, seed or 0))


def paired_arms(a: Arm, b: Arm) -> Paired | None:
    """a − b over the seeds that both have, as shares; None without a common seed."""
    seeds = common_seeds(a, b)
    return paired_difference([a.by_seed[s] for s in seeds], [b.by_seed[s] for s in seeds]) if seeds else None


def compare(demo: Demo) -> list[Comparison]:
    """Every planned comparison of arms that exist, Holm-corrected over all that were planned."""
    planned = [(demo.arm(a), demo.arm(b)) for a, b in demo.comparisons]
    paired = [paired_arms(a, b) if a and b else None for a, b in planned]
    corrected = holm([None if pair is None else pair.p for pair in paired])
    found = []
    for (a, b), pair, p in zip(planned, paired, corrected, strict=True):
        if a is None or b is None:
            continue
        seeds = common_seeds(a, b)
        mean_a, mean_b = (summarise([arm.by_seed[s] for s in seeds]).mean if seeds else None for arm in (a, b))
        found.append(Comparison(a, b, pair, p, verdict(pair, p), mean_a, mean_b))
    return found


def student_word(demo: Demo) -> str:
    """`vision transformer` where the model's name says so, else `student`."""
    models = {str((run.result.get("student") or {}).get("model", "")) for arm in demo.arms for run in arm.runs}
    kinds = ("cit", "vit", "deit", "transformer")
    return "vision transformer" if models and all(m.startswith(kinds) for m in models) else "student"


def advisers(arm: Arm, *, capital: bool = True) -> str:
    """`Two teachers of different kinds`, `one teacher`, …"""
    n = len(arm.biases)
    word = number_word(n) if capital else number_word(n).lower()
    kind = {"labels": "", "one": "", "same": " of the same kind", "cross": " of different kinds"}[arm.kind]
    return f"{word} teacher{'' if n == 1 else 's'}{kind}"


def headline(demo: Demo, comparisons: Sequence[Comparison]) -> str:
    """The main result in one sentence that claims no more than the corrected test does."""
    order = {"cross": 0, "same": 1, "one": 2, "labels": 3}
    with_runs = sorted((arm for arm in demo.arms if summary(arm)), key=lambda arm: order[arm.kind])
    if not with_runs:
        return "No finished run yet"
    best, student = with_runs[0], student_word(demo)
    match = next((c for c in comparisons if c.a is best and c.b.kind == "labels" and c.paired), None)
    if best.kind == "labels" or match is None or match.paired is None:
        parts = [f"{arm.label} {mean_sd(summary(arm))} %" for arm in (best, *_baseline(with_runs, best))]
        return f"Top-1 of the {student}: {', '.join(parts)}"
    after, before, n = percent(match.mean_a), percent(match.mean_b), match.paired.n
    if match.verdict == HOLDS:
        return f"{advisers(best)} lift the {student} from {before} to {after} % (n = {n})".replace(
            "teacher lift", "teacher lifts"
        )
    if match.verdict == DOES_NOT_HOLD:
        return f"With {advisers(best, capital=False)} the {student} falls from {before} to {after} % (n = {n})"
    reached = f"{after} % with {advisers(best, capital=False)}, {before} % with labels only"
    if n == 1:
        return f"One seed decides nothing: the {student} reaches {reached}"
    return f"Undecided at n = {n}: the {student} reaches {reached}"


def _baseline(arms: Sequence[Arm], best: Arm) -> list[Arm]:
    return [arm for arm in arms if arm.kind == "labels" and arm is not best][:1]


def what_was_done(demo: Demo) -> list[str]:
    """Three plain sentences: the teachers, the students, the measure."""
    runs = [run for arm in demo.arms for run in arm.runs]
    data: Mapping[str, Any] = next((run.result["data"] for run in runs if run.result.get("data")), {})
    sentences = []
    trained = [t for t in demo.teachers if t.run is not None]
    if trained:
        models = "; ".join(f"{demo.teacher_label(t.name)} ({t.model or 'unknown model'})" for t in trained)
        which = f"{number_word(len(trained))} teacher{'s were' if len(trained) > 1 else ' was'} trained"
        sentences.append(f"{which} on labels and then frozen: {models}.")
    if runs:
        steps = sorted({run.result["steps"] for run in runs if "steps" in run.result})
        budget = f"each for {count(steps[0])} steps" if len(steps) == 1 else "with budgets that differ"
        images = f" on {count(data['train'])} images of {data.get('source', 'the data')}" if "train" in data else ""
        models = ", ".join(sorted({str((run.result.get("student") or {}).get("model", "?")) for run in runs}))
        ways = sum(1 for arm in demo.arms if arm.runs)
        sentences.append(
            f"The same student ({models}) was trained in {number_word(ways).lower()} ways{images}, {budget}; "
            "runs with the same seed are compared in pairs."
        )
        held_out = f"{count(data['val'])} held-out images" if "val" in data else "the held-out images"
        sentences.append(f"Accuracy is top-1 of the class token after the last epoch on {held_out}.")
    return sentences


def arms_table(demo: Demo) -> Table:
    """Top-1 per arm: mean ± sd, n, gain over labels only in pairs, and every seed's value."""
    base = next((arm for arm in demo.arms if arm.kind == "labels"), None)
    rows = []
    for arm in demo.arms:
        gain = paired_arms(arm, base) if base and arm is not base else None
        seeds = sorted(arm.by_seed, key=lambda seed: (seed is None, seed or 0))
        sizes = sorted(
            {
                run.result["student"]["parameters"]
                for run in arm.runs
                if (run.result.get("student") or {}).get("parameters")
            }
        )
        rows.append(
            [
                arm.label,
                mean_sd(summary(arm)),
                str(len(seeds)),
                points(gain.mean) if gain else NONE,
                "  ".join(percent(arm.by_seed[s]) for s in seeds) or NONE,
                ", ".join(parameters(size) for size in sizes) or NONE,
            ]
        )
    columns = ["Trained with", "Top-1, %", "n", "Gain, points", "Per seed, %", "Parameters"]
    caption = "Top-1 of the class token, mean ± sample standard deviation over n seeds"
    return Table(caption, columns, rows, "lrrrlr")


def teachers_table(demo: Demo) -> Table | None:
    """The teachers' own accuracy and size; None without teachers."""
    rows = []
    for teacher in demo.teachers:
        result = teacher.run.result if teacher.run else {}
        fact: Mapping[str, Any] = next(
            (
                run.result["teachers"][teacher.name]
                for arm in demo.arms
                for run in arm.runs
                if teacher.name in (run.result.get("teachers") or {})
            ),
            {},
        )
        own = teacher.run.accuracy if teacher.run else fact.get("accuracy")
        size = (result.get("student") or {}).get("parameters") or fact.get("parameters")
        rows.append(
            [
                demo.teacher_label(teacher.name),
                teacher.model or fact.get("model") or NONE,
                fact.get("bias") or NONE,
                percent(own),
                parameters(size),
                duration(result.get("seconds")),
            ]
        )
    if not rows:
        return None
    columns = ["Teacher", "Model", "Bias", "Top-1, %", "Parameters", "Training"]
    return Table("The teachers themselves", columns, rows, "lllrrr")


def verdicts_table(comparisons: Sequence[Comparison]) -> Table:
    """Each claim with its mean paired difference, 95 % interval, corrected p and verdict."""
    rows: list[list[str | Cell]] = []
    for c in comparisons:
        pair = c.paired
        interval = f"{points(pair.low)} to {points(pair.high)}" if pair and pair.low is not None else NONE
        kind = {HOLDS: "good", DOES_NOT_HOLD: "bad"}.get(c.verdict, "open")
        rows.append(
            [
                f"{c.a.label} is better than {c.b.label}",
                points(pair.mean) if pair else NONE,
                interval,
                p_value(c.p),
                Cell(c.verdict.replace("n = ", "n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"), kind),
            ]
        )
    columns = ["Claim", "Difference, points", "95 % interval", "p (Holm)", "Verdict"]
    return Table("Differences between runs of the same seed", columns, rows, "lrrrl")


VERDICT_NOTE = (
    f"Two-sided paired t-test over seeds; p is corrected after Holm for all planned comparisons, and a claim is "
    f"decided below {ALPHA:g}. The 95 % interval is Student's and belongs to its row alone. Seeds vary "
    "initialisation and order; the images stay the same, so the spread says nothing about other data."
)


def same_against_cross(demo: Demo, comparisons: Sequence[Comparison]) -> list[str]:
    """Whether teachers of different kinds beat teachers of one kind: the paper's claim, said plainly."""
    found = []
    for c in comparisons:
        if {c.a.kind, c.b.kind} != {"same", "cross"}:
            continue
        names = (f"{c.a.label}", f"{c.b.label}")
        if c.verdict not in (HOLDS, DOES_NOT_HOLD) or c.paired is None:
            facts = f" The difference is {points(c.paired.mean)} points." if c.paired else ""
            found.append(
                "Whether teachers of different kinds advise better than teachers of the same kind is not decided "
                f"here: {names[0]} against {names[1]} is {c.verdict}.{facts}"
            )
            continue
        ahead, behind = names if c.verdict == HOLDS else names[::-1]
        cross_won = (c.a.kind == "cross") == (c.verdict == HOLDS)
        kinds = ("different kinds", "the same kind") if cross_won else ("the same kind", "different kinds")
        p = p_value(c.p) if c.p is not None and c.p < 0.001 else f"= {p_value(c.p)}"
        found.append(
            f"Teachers of {kinds[0]} advised better than teachers of {kinds[1]} here: {ahead} is "
            f"{number(100 * abs(c.paired.mean), 1)} points above {behind} (p {p}, n = {c.paired.n})."
        )
    if not found and {"same", "cross"} <= {arm.kind for arm in demo.arms}:
        found.append("Teachers of the same kind and of different kinds were both tried, but not compared.")
    return found


def tokens_table(demo: Demo) -> Table | None:
    """Accuracy of every output of every arm; None where there is only the class token."""
    known = dict.fromkeys(name for arm in demo.arms for name in arm.tokens)
    names = sorted(known, key=lambda name: (name != CLASS, name == "average"))
    if names in ([], [CLASS]):
        return None
    rows = []
    for arm in demo.arms:
        row = [arm.label]
        for name in names:
            values = [v for run in arm.runs if (v := run.final.get(f"accuracy/{name}")) is not None]
            row.append(mean_sd(summarise(values)) if values else NONE)
        rows.append(row)
    columns = ["Trained with", *(name if name == "average" else f"{name} token" for name in names)]
    return Table("Top-1 of every output, %, mean ± sample standard deviation", columns, rows)
