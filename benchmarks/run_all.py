"""All benchmarks, one after the other; results/benchmarks/README.md and the README's table are written from them.

python benchmarks/run_all.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from coadvise.system.files import read_json, write_atomic

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "benchmarks"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
# Lines of the README: benchmark, and how the claim begins.
SHOWN = (
    ("step", "co-advised step, bf16"),
    ("step", "co-advised step, fp32"),
    ("involution", "involution forward + backward"),
    ("inference", "RedNet-101 fused"),
    ("inference", "cit_small against timm's DeiT-S distilled, eager, fp32"),
    ("cache", "step with stored advice"),
    ("input", "photographs of about 500"),
)
HEAD = """# Benchmarks

Medians of interleaved runs: both sides take turns in one process, after a check that they compute the same. Written by
`make bench`; the JSON files beside this one hold every number with its provenance.
"""

# What is to be measured on a GPU, by script: shown until it is.
ON_A_GPU = (
    (
        "involution",
        "involution forward and forward + backward, against unfold; the floor over our time",
        "≥ 10×; ≥ 50 %",
    ),
    ("step", "co-advised step against the plain baseline; part of a matrix product's speed", "≥ 6×; ≥ 20 %"),
    ("step", "co-advised student alone, part of a matrix product's speed", "≥ 30 %"),
    ("inference", "RedNet-101 against RegNetY-4GF; cit_small against DeiT-S distilled", "≥ 1×; ≥ 0.99×"),
    ("small_images", "training on 64 px images, Ti student, advice given; device busy", "≥ 40,000 images/s; ≥ 90 %"),
    ("cache", "step with stored advice over labels alone", "≤ 1.03×"),
)


def main() -> None:
    for script in sorted(HERE.glob("bench_*.py")):
        print(f"--- {script.stem.removeprefix('bench_')}", flush=True)
        subprocess.run([sys.executable, f"benchmarks/{script.name}", *sys.argv[1:]], cwd=HERE.parent, check=True)
    write_atomic(RESULTS / "README.md", table())
    readme = HERE.parent / "README.md"
    write_atomic(readme, with_claims(readme.read_text(encoding="utf-8")))


def with_claims(readme: str) -> str:
    """The README with its table of measurements written anew."""
    rows = ["| measured on two CPU cores | |", "|---|---:|"]
    for name, line in SHOWN:
        claims = read_json(RESULTS / f"{name}-cpu.json")["claims"]
        found = next(claim for claim in claims if claim["what"].startswith(line))
        rows.append(f"| {found['what']} | {found['value']:.3g}{found['unit']} |")
    return re.sub(rf"(?<={BEGIN}\n).*?(?=\n{END})", "\n".join(rows), readme, flags=re.S)


def table() -> str:
    """The claims of all JSON files, as Markdown."""
    parts = [HEAD]
    for device in ("cpu", "cuda"):
        files = sorted(RESULTS.glob(f"*-{device}.json"))
        if not files:
            continue
        contents = [read_json(path) for path in files]
        facts = contents[0]["provenance"]
        hardware, versions = facts["hardware"], facts["versions"]
        name = ", ".join(hardware.get("gpu", ())) or f"{hardware['cpu']}, {hardware['cores']} cores"
        parts.append(
            f"\n## {name}\n\nPyTorch {versions['torch']}, timm {versions['timm']}, Python {versions['python']}\n"
        )
        parts.append("\n| what | measured | goal | from |\n|---|---:|---:|---|\n")
        for path, content in zip(files, contents, strict=True):
            parts += [
                f"| {line['what']} | {line['value']:,.3g}{line['unit']} | {line['goal']} | "
                f"[{content['benchmark']}]({path.name}), commit {content['provenance']['commit'][:7]} |\n"
                for line in content["claims"]
            ]
    open_ones = [one for one in ON_A_GPU if not (RESULTS / f"{one[0]}-cuda.json").is_file()]
    if open_ones:
        parts.append("\n## To be measured on a GPU\n\n| what | measured | goal | by |\n|---|---|---|---|\n")
        parts += [f"| {what} | not measured | {goal} | `bench_{name}.py` |\n" for name, what, goal in open_ones]
    return "".join(parts)


if __name__ == "__main__":
    main()
