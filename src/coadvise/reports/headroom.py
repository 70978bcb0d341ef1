"""The section on what teachers know together before any student is trained, and a page of it alone."""

from __future__ import annotations

from collections.abc import Sequence

from ..run.headroom import Estimate, Headroom, HeadroomResult, Two, verdicts
from .page import Page, Part, Section, Text
from .plots.headroom import Panel, Point, pairs_figure
from .plots.style import Drawing, draw
from .tables import ABSENT, Table, count, duration, number, percent, points

SEEN, PLAIN = "as the student sees them", "plain"
_PAIRS = 15  # lines of the table of pairs
_WHAT = (
    "Right is, of a mixed image, the class with the larger share; cross entropy is expected over the shares. κ is the "
    "error consistency of Geirhos, Meding and Wichmann (NeurIPS 2020). Gain: accuracy of the mean of two distributions "
    "less the mean accuracy of both. Δ: the gain of two kinds less that of two of one kind. Intervals are 95 %: "
    "percentiles of a bootstrap over images and, where a model has several seeds, over these."
)


def headroom_section(result: HeadroomResult, others: Sequence[str] = ()) -> Section:
    """Verdicts, figure and tables.

    Args:
        others: teachers that are not those of the students shown beside it.
    """
    said = verdicts(result.student)
    parts: list[Part] = []
    if others:
        words = (
            f"Measured of other trainings of {', '.join(others)} than those that taught these students; use `coadvise "
            "headroom` on this folder once more."
        )
        parts.append(Text(words, "warning"))
    parts += [Text(f"{one.sentence}.") for one in said]
    parts += [Text(_sentence(note), "note") for one in said for note in one.notes]
    drawing = pairs_drawing(result.student)
    parts += [] if drawing is None else [drawing]
    parts += tables(result)
    parts += [Text(_WHAT, "note"), Text(asked(result), "note")]
    return Section("headroom", "Headroom: what pairs of teachers know together", parts)


def headroom_page(result: HeadroomResult) -> Page:
    """The section as a page of its own."""
    first = verdicts(result.student)[0]
    title = f"{result.name}: can pairs of these teachers differ?"
    facts = [[name, one["model"], one["bias"] or ABSENT, one["weights"]] for name, one in result.facts.items()]
    table = Table("Weights of the teachers", ["Teacher", "Model", "Kind", "Hash"], facts, "llll")
    said = result.provenance
    source = Text(f"Commit {said.get('commit') or 'unknown'}, {str(said.get('date', ABSENT))[:16]} UTC.")
    command = Text(str(said.get("command", "")), "code")
    last = Section("provenance", "Provenance", [source, command, table], folded=True)
    return Page(title, f"{first.sentence}.", [], [headroom_section(result), last], summary=_summary(result))


def _summary(result: HeadroomResult) -> list[tuple[str, str]]:
    """What was done, how good the best are, how sure that is, and what comes next."""
    alone = max(result.student.teachers, key=lambda one: one.accuracy.value or 0.0, default=None)
    both = max(result.student.shown, key=lambda two: two.accuracy.value or 0.0, default=None)
    lines = [("What was done", asked(result))]
    if alone is not None and both is not None:
        lines += [
            ("How good", f"Best pair as the student sees images: {title(both)}, {share(both.accuracy)} %."),
            ("Against what", f"Best teacher alone: {alone.name}, {share(alone.accuracy)} %."),
        ]
    return [
        *lines,
        ("How sure", "Brackets are 95 % intervals over images and seeds of the teachers; no student was trained."),
        (
            "What next",
            "Where two kinds gain more than two of one kind, train students of both: `coadvise train RECIPE`.",
        ),
    ]


def asked(result: HeadroomResult) -> str:
    """On what the teachers were asked."""
    teachers, images = len(result.student.teachers), result.plain.images
    return (
        f"{teachers} teachers on {count(images)} validation images, plain and in {result.views} training views each, "
        f"in {duration(result.seconds)}; {count(result.resamples)} resamples."
    )


def tables(result: HeadroomResult) -> list[Table]:
    """Teachers, pairs, and kinds; each on both ways to see images."""
    found = [_teachers(result), _pairs(result)]
    return [*found, _kinds(result)] if result.student.contrasts else found


def _teachers(result: HeadroomResult) -> Table:
    rows = []
    for seen, plain in zip(result.student.teachers, result.plain.teachers, strict=True):
        rows.append([seen.name, seen.bias or ABSENT, seen.model, share(plain.accuracy), share(seen.accuracy),
                     number(plain.loss.value), number(seen.loss.value)])  # fmt: skip
    columns = ["Teacher", "Kind", "Model", "Top-1 %, plain", "Top-1 %, as seen", "Loss, plain", "Loss, as seen"]
    return Table("Teachers on plain images, and on images as the student sees them", columns, rows, "lllrrrr")


def _pairs(result: HeadroomResult) -> Table:
    # Not both: the model of a teacher of seed 0 has that teacher's name.
    plain = {two.names: two for two in result.plain.shown}
    rows = []
    for two in result.student.shown[:_PAIRS]:
        other = plain[two.names]
        rows.append([
            title(two), two.kinds or ABSENT, share(other.accuracy), share(two.accuracy), difference(two.gain),
            points(two.over_better.value), number(two.kappa.value, 2),
            ABSENT if two.delta is None else difference(two.delta), number(two.loss.value),
        ])  # fmt: skip
    columns = ["Pair", "Kinds", "Mean %, plain", "Mean %, as seen", "Gain", "Over the better", "κ", "Δ", "Loss"]
    left = len(result.student.shown) - len(rows)
    more = f"; {left} more in the file" if left else ""
    seeds = "pairs of models, over their seeds" if result.student.models else "pairs"
    caption = f"The mean of two distributions, {seeds}; but for one column as the student sees images{more}"
    return Table(caption, columns, rows, "llrrrrrrr")


def _kinds(result: HeadroomResult) -> Table:
    rows = []
    for name, found in ((SEEN, result.student), (PLAIN, result.plain)):
        for one in found.contrasts:
            same = ", ".join(f"{bias} {percent(value.value)}" for bias, value in one.same.items())
            rows.append([
                " + ".join(one.biases), name, share(one.cross), same, difference(one.delta), difference(one.equal),
                difference(one.unequal), f"{number(one.kappa_cross.value, 2)}, {number(one.kappa_same.value, 2)}",
                number(one.loss.value),
            ])  # fmt: skip
    columns = ["Kinds", "Images", "Two kinds %", "Two of one %", "Δ to the better", "Δ at equal accuracy",
               "First kind ahead by", "κ of two, of one kind", "Loss, Δ"]  # fmt: skip
    return Table("Pairs of two kinds against pairs of one kind", columns, rows, "llrlrrrrr")


def pairs_drawing(found: Headroom) -> Drawing | None:
    """Accuracy of the mean of each pair, and its gain, over κ; None where no pair has a κ."""
    shown, single = found.shown, found.pairs if found.models else ()

    def panel(title: str, axis: str, of: str) -> Panel:
        return Panel(title, axis, _points(shown, of), _points(single, of))

    if not _points(shown, "accuracy"):
        return None
    panels = [
        panel("Mean of two teachers, as the student sees images", "accuracy of the mean, %", "accuracy"),
        panel("The same, over the mean accuracy of both", "gain, points", "gain"),
    ]
    said = "; ".join(f"{one.label} ({one.kinds}) {one.value:.1f} % at κ {one.kappa:.2f}" for one in panels[0].points)
    return draw("headroom", f"Accuracy of the mean of two teachers over κ of their errors: {said}.",
                lambda: pairs_figure(panels))  # fmt: skip


def _points(pairs: Sequence[Two], of: str) -> list[Point]:
    found = []
    for two in pairs:
        one: Estimate = getattr(two, of)
        if None not in (two.kappa.value, one.value, one.low, one.high):
            numbers = [100 * float(value or 0.0) for value in (one.value, one.low, one.high)]
            found.append(Point(title(two), _kinds_of(two), float(two.kappa.value or 0.0), *numbers))
    return found


def _kinds_of(two: Two) -> str:
    if two.kinds is None:
        return "kind not known"
    return two.kinds if two.biases[0] != two.biases[1] else f"two of {two.kinds}"


def title(two: Two) -> str:
    """Names of both; of two seeds of one model, that model."""
    return f"two {two.names[0]}" if two.names[0] == two.names[1] else " + ".join(two.names)


def share(one: Estimate) -> str:
    """`62.1 [60.9, 63.3]`, in per cent."""
    return percent(one.value) + _interval(one)


def difference(one: Estimate) -> str:
    """`+1.4 [0.6, 2.1]`, in points."""
    return points(one.value) + _interval(one)


def _interval(one: Estimate) -> str:
    return "" if one.low is None else f" [{percent(one.low)}, {percent(one.high)}]"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
