"""All benchmarks, one after the other; results/benchmarks/README.md and the table in
docs/guides/speed.md are written from them.

On a machine with a GPU these are the GPU's own (`gpu.sh`) and that of the input.

python benchmarks/run_all.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from goals import GOALS, goal_of, shown, verdict

from coadvise.system.files import read_json, write_atomic

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "benchmarks"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
# Lines of the page on speed: benchmark, and how the claim begins. What a device has no measurement of stays empty.
SHOWN = (
    ("step", "co-advised step, bf16"),
    ("step", "co-advised step, fp32"),
    ("involution", "involution forward + backward"),
    ("inference", "RedNet-101 fused"),
    ("inference", "RedNet-101 against RegNetY-4GF, both fused"),
    ("inference", "cit_small against timm's DeiT-S distilled, eager, fp32"),
    ("cache", "step with stored advice"),
    ("input", "photographs of about 500"),
)
HEAD = """# Benchmarks

Medians of interleaved runs: both sides take turns in one process, after a check that they compute the same. Written by
`make bench`; the JSON files beside this one hold every number with its provenance. `benchmarks/gpu.sh` measures a GPU
in at most eight minutes, also where no packages can be installed; goals that it has not measured yet are marked so.
"""


def main() -> None:
    scripts = sorted(f"benchmarks/{script.name}" for script in HERE.glob("bench_*.py"))
    commands = [[script, *sys.argv[1:]] for script in scripts]
    if torch.cuda.is_available():
        commands = [["benchmarks/gpu_run.py", str(RESULTS)], ["benchmarks/bench_input.py", *sys.argv[1:]]]
    for words in commands:
        print(f"--- {' '.join(words)}", flush=True)
        subprocess.run([sys.executable, *words], cwd=HERE.parent, check=True)
    (RESULTS / "gpu.md").unlink(missing_ok=True)  # the page below says the same
    write_atomic(RESULTS / "README.md", table())
    page = HERE.parent / "docs" / "guides" / "speed.md"
    write_atomic(page, with_claims(page.read_text(encoding="utf-8")))


def with_claims(page: str) -> str:
    """The page on speed with its table of measurements written anew."""
    devices = ("cpu", "cuda")
    rows = [f"| | {' | '.join(hardware_of(device) for device in devices)} |", "|---|---:|---:|"]
    for name, line in SHOWN:
        cells, what = [], line
        for device in devices:
            path = RESULTS / f"{name}-{device}.json"
            claims = read_json(path)["claims"] if path.is_file() else []
            found = next((claim for claim in claims if claim["what"].startswith(line)), None)
            cells.append("" if found is None else shown(found["value"], found["unit"]))
            what = what if found is None else found["what"]
        rows.append(f"| {what} | {' | '.join(cells)} |")
    return re.sub(rf"(?<={BEGIN}\n).*?(?=\n{END})", "\n".join(rows), page, flags=re.S)


def hardware_of(device: str) -> str:
    """What the benchmarks of `cpu` or `cuda` ran on."""
    facts = read_json(sorted(RESULTS.glob(f"*-{device}.json"))[0])["provenance"]["hardware"]
    return ", ".join(facts.get("gpu", ())) or f"{facts['cpu']}, {facts['cores']} cores"


def table() -> str:
    """The claims of all JSON files, as Markdown."""
    parts = [HEAD]
    for device in ("cpu", "cuda"):
        files = sorted(RESULTS.glob(f"*-{device}.json"))
        if not files:
            continue
        contents = [read_json(path) for path in files]
        versions = contents[0]["provenance"]["versions"]
        shown = f"PyTorch {versions['torch']}, timm {versions['timm']}, Python {versions['python']}"
        parts.append(f"\n## {hardware_of(device)}\n\n{shown}\n")
        parts.append(
            "\n| what | measured | goal | outcome | what stands in the way | from |\n|---|---:|---:|---|---|---|\n"
        )
        parts += lines_of(device, dict(zip((path.name for path in files), contents, strict=True)))
    return "".join(parts)


def lines_of(device: str, contents: dict[str, Any]) -> Iterator[str]:
    """Rows of a device's table: everything that was measured, then the goals that were not.

    Args:
        contents: of the JSON files, by their names.
    """
    seen = set()
    for path, content in contents.items():
        name, commit = content["benchmark"], content["provenance"]["commit"]
        for line in content["claims"]:
            seen.add((name, line["what"]))
            goal = (goal_of(name, line["what"]).goal if device == "cuda" else "") or line["goal"]
            value, why = line["value"], line.get("why", "").replace("|", "/")
            yield (
                f"| {line['what']} | {shown(value, line['unit'])} | {goal} | {verdict(value, goal)} | {why} | "
                f"[{name}]({path}), commit {commit[:7]} |\n"
            )
    for file, what, goal, _ in GOALS if device == "cuda" else ():
        if (file, what) not in seen:
            yield f"| {what} | | {goal} | {verdict(None, goal)} | | |\n"


if __name__ == "__main__":
    main()
