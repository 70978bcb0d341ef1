"""What int8 costs trained models: accuracy on their validation images in fp32 and in int8, image by image.

Each run is exported as `coadvise export RUN --to int8` does. A difference is that of two answers for the same images:
its interval counts the images that one gets right and the other wrong.

python benchmarks/export_int8.py RUN [RUN …]
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from side_by_side import RESULTS, claim, console

from coadvise.checkpoints.trained import load_trained
from coadvise.export.engines import onnx_logits, openvino_logits
from coadvise.export.exporting import export
from coadvise.export.images import batches, validation_source
from coadvise.export.parity import BATCH
from coadvise.export.targets import TARGETS
from coadvise.run.folder import RunFolder
from coadvise.run.provenance import manifest
from coadvise.run.result import RunResult
from coadvise.system.files import write_json

ENGINES = {"ONNX Runtime": onnx_logits, "OpenVINO": openvino_logits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--output", type=Path, default=RESULTS.parent / "export" / "int8.json")
    options = parser.parse_args()
    table = Table("model", "data", "engine", "images", "fp32", "int8", "difference in points (95 %)", "same class")
    found = []
    for run in options.runs:
        found.append(_compared(run))
        for engine, one in found[-1]["engines"].items():
            table.add_row(
                found[-1]["model"], found[-1]["data"], engine, str(found[-1]["images"]), f"{found[-1]['fp32']:.2%}",
                f"{one['int8']:.2%}", f"{one['points']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})",
                f"{one['same']:.2%}",
            )  # fmt: skip
    console.print(table)
    claims = [
        claim(
            f"points lost to int8 by the worst of {len(found)} models, {engine}",
            max(-one["engines"][engine]["points"] for one in found),
            "≤ 0.3",
            "",
        )
        for engine in ENGINES
    ]
    command = shlex.join(["python", *sys.argv])
    content = {"benchmark": "export_int8", "claims": claims, "details": found, "device": "cpu",
               "provenance": manifest(command=command)}  # fmt: skip
    write_json(options.output, content)


@torch.no_grad()
def _compared(run: Path) -> dict[str, Any]:
    """Accuracy before and after, with the difference of each engine."""
    trained = load_trained(RunFolder(run).best)
    right: dict[str, list[np.ndarray]] = {name: [] for name in ("fp32", *ENGINES)}
    same: dict[str, list[np.ndarray]] = {name: [] for name in ENGINES}
    with tempfile.TemporaryDirectory() as name:
        path, _ = export(run, TARGETS["int8"], Path(name) / "model.onnx", max_drop=100)
        engines = {engine: opened(path) for engine, opened in ENGINES.items()}
        for images, label in batches(trained, validation_source(trained)):
            expected = trained.model(images).argmax(1).numpy()
            right["fp32"].append(expected == label.numpy())
            for engine, logits in engines.items():
                parts = [logits(part.contiguous().numpy()).argmax(1) for part in images.split(BATCH)]
                right[engine].append(np.concatenate(parts) == label.numpy())
                same[engine].append(np.concatenate(parts) == expected)
    before = np.concatenate(right.pop("fp32"))
    after = {engine: np.concatenate(parts) for engine, parts in right.items()}
    result = RunResult.read(run / "result.json")
    return {
        "name": result.name, "model": result.student.model, "data": Path(str(result.data.source)).name,
        "fingerprint": result.fingerprint, "commit": result.provenance.get("commit"), "images": len(before),
        "fp32": float(before.mean()),
        "engines": {
            engine: _difference(before, values) | {"same": float(np.concatenate(same[engine]).mean())}
            for engine, values in after.items()
        },
    }  # fmt: skip


def _difference(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Points gained, with the interval of a mean of paired differences (-1, 0 or 1 for each image)."""
    each = after.astype(float) - before
    points, error = 100 * each.mean(), 100 * each.std(ddof=1) / math.sqrt(len(each))
    return {
        "int8": float(after.mean()), "points": points, "low": points - 1.96 * error, "high": points + 1.96 * error,
        "lost": int((each < 0).sum()), "gained": int((each > 0).sum()),
    }  # fmt: skip


if __name__ == "__main__":
    main()
