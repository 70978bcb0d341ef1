"""Warnings at the head of a report: what is missing, and what does not belong together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ..paper.declared import Experiment
from .arms import budget_warnings, shown_in_detail
from .results import About, Results
from .titles import arm_title


def warnings_of(experiments: Sequence[Experiment], results: Results, about: About) -> list[str]:
    """One sentence for each problem."""
    budgets = [text for figure in shown_in_detail(experiments).values() for text in budget_warnings(figure, results)]
    return [
        *unfinished(experiments, results, about),
        *_other_images(results),
        *_mixed_precision(experiments, results),
        *_several_teachers(results),
        *budgets,
    ]


def unfinished(experiments: Sequence[Experiment], results: Results, about: About) -> list[str]:
    """Which arms lack runs, in a sentence."""
    wanted = dict[str, int]()
    for value in (value for one in experiments for value in one.values()):
        have = len(results.seeds(value.arm))
        enough = 1 if value.seed is not None or value.arm.id in about.given else about.seeds
        if have < enough:
            wanted[arm_title(value.arm)] = have
    if not wanted:
        return []
    few = "; ".join(f"{name} ({have})" for name, have in list(wanted.items())[:8])
    more = f" and {len(wanted) - 8} more" if len(wanted) > 8 else ""
    return [f"Arms with fewer than {about.seeds} finished runs: {few}{more}. The same command goes on."]


def _other_images(results: Results) -> list[str]:
    """Measures that were made of different shifted images."""
    found = []
    for group, unnamed in (("corruptions", "made on the fly"), ("a", "not named"), ("r", "not named")):
        made = {run.sources.get(group, unnamed) for run in results.files.values() if group in run.groups}
        if len(made) > 1:
            found.append(
                f"Not comparable: {group} was measured on different images ({', '.join(sorted(made))}); give the same "
                "--shifted in every call."
            )
    return found


def _mixed_precision(experiments: Sequence[Experiment], results: Results) -> list[str]:
    """Claims in which runs of one seed were trained in different precisions; weights that were given were not."""
    found = []
    for claim in (claim for one in experiments for claim in one.claims if not claim.compared):
        precisions = defaultdict[int, set[str]](set)
        for run in (run for value in claim.values for run in results.runs(value.arm)):
            if "weights" not in run.provenance:
                precisions[run.seed].add(str(run.provenance.get("precision")))
        if any(len(several) > 1 for several in precisions.values()):
            found.append(claim.text)
    texts = "; ".join(dict.fromkeys(found))
    return [f"Claims for which runs of different precision are compared: {texts}."] if found else []


def trained_again(results: Results) -> list[str]:
    """Teachers of which students know more than one training, by name."""
    weights = defaultdict[str, set[str]](set)
    for run in results.files.values():
        for name, digest in run.teacher_weights.items():
            weights[name].add(digest)
    return sorted(name for name, digests in weights.items() if len(digests) > 1)


def _several_teachers(results: Results) -> list[str]:
    several = trained_again(results)
    if not several:
        return []
    return [
        f"Students were taught by more than one training of {', '.join(several)}: the spread over the seeds holds "
        "the teachers', too. Carry the folders of the teachers' runs along with the result files."
    ]
