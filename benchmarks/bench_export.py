"""Exported CiT-S at 224 px against eager PyTorch in fp32, one image and eight at a time, on the CPU.

ONNX Runtime and OpenVINO, each in fp32 and in int8, as `coadvise export` writes the files; and the peak memory of a
process that only predicts. Ratios are medians over the rounds of one interleaved run.

python benchmarks/bench_export.py
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import arguments, claim, ratios, report, turns

from coadvise.checkpoints.build import build_student
from coadvise.checkpoints.model_file import save_model
from coadvise.checkpoints.trained import load_trained
from coadvise.export.exporting import export
from coadvise.export.targets import TARGETS
from coadvise.recipe.reading import load_recipe

EAGER = "PyTorch, eager, fp32"
GOALS = {("fp32", 1): "≥ 1.5×", ("fp32", 8): "≥ 2.3×", ("int8", 1): "≥ 2.5×", ("int8", 8): "≥ 3.5×"}
# Each is a process of its own, since memory that a process has once had stays in its peak.
PREDICT = {
    EAGER: """
import numpy as np, torch
from coadvise.checkpoints.trained import load_trained
torch.set_num_threads({threads})
model = load_trained("{folder}").model
with torch.inference_mode(): model(torch.zeros({batch}, 3, 224, 224))
""",
    "ONNX Runtime": """
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {threads}
session = onnxruntime.InferenceSession("{folder}/export/{file}", options)
session.run(None, dict(images=np.zeros(({batch}, 3, 224, 224), np.float32)))
""",
    "OpenVINO": """
import numpy as np, openvino
settings = dict(INFERENCE_PRECISION_HINT="f32", PERFORMANCE_HINT="LATENCY", INFERENCE_NUM_THREADS={threads})
model = openvino.Core().read_model("{folder}/export/{file}")
model.reshape([{batch}, 3, 224, 224])
openvino.Core().compile_model(model, "CPU", settings)(np.zeros(({batch}, 3, 224, 224), np.float32))
""",
}
FILES = {"fp32": "model.onnx", "int8": "model-int8.onnx"}


def main() -> None:
    options = arguments(__doc__ or "", batch_sizes=(8, 8))
    options.device = "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder)
        claims, details = [], {}
        for batch in (1, options.batch_size):
            x = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)
            # One image takes a fraction of the time of eight, and is noisier.
            rounds = options.rounds * (4 if batch == 1 else 1)
            sides = _sides(folder, options.threads, batch)
            times = turns({name: lambda run=run, x=x: run(x) for name, run in sides.items()}, rounds)
            faster = ratios(times, EAGER)
            details[f"batch of {batch}"] = {"ratios": faster, "seconds": times}
            for kind in ("fp32", "int8"):
                best = max((name for name in faster if name.endswith(kind) and name != EAGER), key=faster.__getitem__)
                what = f"cit_small exported, {kind}, batch of {batch}, against eager PyTorch in fp32"
                claims.append(claim(f"{what} (best: {best})", faster[best], GOALS.get((kind, batch), "")))
        peaks = _peaks(folder, options.threads, options.batch_size)
        best = min((name for name in peaks if name != EAGER), key=peaks.__getitem__)
        claims.append(claim(f"peak memory of a process that predicts, {best}, against eager PyTorch",
                            peaks[best] / peaks[EAGER], "≤ 0.333×"))  # fmt: skip
        details["peak bytes"] = peaks
        details["versions"] = {name: importlib.metadata.version(name) for name in ("onnxruntime", "openvino")}
        report("export", options, claims, details)


def _write(folder: Path) -> None:
    """A `cit_small` of 1,000 classes with random weights, and its files."""
    torch.manual_seed(0)
    settings = ["data.source=digits", "data.train_size=16", "data.val_size=16"]
    recipe = load_recipe("cit-s", settings)
    student = build_student(recipe.student, recipe.tokens(), 1000, 224)
    names = tuple(str(number) for number in range(1000))
    save_model(folder / "best.safetensors", student, recipe, names, weights="student", epoch=0, metrics={})
    for target in ("onnx", "int8"):
        export(folder, TARGETS[target], max_drop=100)


def _sides(folder: Path, threads: int, batch: int) -> dict[str, Callable[[np.ndarray], Any]]:
    import onnxruntime
    import openvino

    model = load_trained(folder).model

    @torch.inference_mode()
    def eager(x: np.ndarray) -> Any:
        return model(torch.from_numpy(x))

    sides: dict[str, Callable[[np.ndarray], Any]] = {EAGER: eager}
    for kind, file in FILES.items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait for work by turning would slow down the sides that come after.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(folder / "export" / file, options)
        sides[f"ONNX Runtime, {kind}"] = lambda x, session=session: session.run(None, {"images": x})
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        graph = openvino.Core().read_model(folder / "export" / file)
        graph.reshape([batch, 3, 224, 224])  # as `coadvise predict` does
        compiled = openvino.Core().compile_model(graph, "CPU", settings)
        sides[f"OpenVINO, {kind}"] = lambda x, compiled=compiled: compiled(x)
    return sides


def _peaks(folder: Path, threads: int, batch: int) -> dict[str, int]:
    """Peak resident bytes of processes that load a file and answer once.

    Asked of Linux's own file: `getrusage` also counts what the parent had when it forked.
    """
    peaks = {}
    for name, code in PREDICT.items():
        for kind, file in FILES.items() if name != EAGER else (("", ""),):
            body = code.format(folder=folder, file=file, threads=threads, batch=batch)
            body += "import re; print(re.search('VmHWM:\\\\s+(\\\\d+)', open('/proc/self/status').read())[1])"
            done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True)
            peaks[f"{name}, {kind}" if kind else name] = 1024 * int(done.stdout.split()[-1])
    return peaks


if __name__ == "__main__":
    main()
