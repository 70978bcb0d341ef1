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
# Lines of the README: benchmark, and how the claim begins. Of a device without such a measurement the cell stays empty.
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
`make bench`; the JSON files beside this one hold every number with its provenance.
"""


def main() -> None:
    for script in sorted(HERE.glob("bench_*.py")):
        print(f"--- {script.stem.removeprefix('bench_')}", flush=True)
        subprocess.run([sys.executable, f"benchmarks/{script.name}", *sys.argv[1:]], cwd=HERE.parent, check=True)
    write_atomic(RESULTS / "README.md", table())
    readme = HERE.parent / "README.md"
    write_atomic(readme, with_claims(readme.read_text(encoding="utf-8")))


def with_claims(readme: str) -> str:
    """The README with its table of measurements written anew."""
    devices = ("cpu", "cuda")
    rows = [f"| | {' | '.join(hardware_of(device) for device in devices)} |", "|---|---:|---:|"]
    for name, line in SHOWN:
        cells, what = [], line
        for device in devices:
            path = RESULTS / f"{name}-{device}.json"
            claims = read_json(path)["claims"] if path.is_file() else []
            found = next((claim for claim in claims if claim["what"].startswith(line)), None)
            cells.append("" if found is None else f"{found['value']:.3g}{found['unit']}")
            what = what if found is None else found["what"]
        rows.append(f"| {what} | {' | '.join(cells)} |")
    return re.sub(rf"(?<={BEGIN}\n).*?(?=\n{END})", "\n".join(rows), readme, flags=re.S)


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
        parts.append("\n| what | measured | goal | from |\n|---|---:|---:|---|\n")
        for path, content in zip(files, contents, strict=True):
            parts += [
                f"| {line['what']} | {line['value']:,.3g}{line['unit']} | {line['goal']} | "
                f"[{content['benchmark']}]({path.name}), commit {content['provenance']['commit'][:7]} |\n"
                for line in content["claims"]
            ]
    return "".join(parts)


if __name__ == "__main__":
    main()
