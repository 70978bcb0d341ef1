"""Every model of ours and vision transformers of every kind that timm builds: exported, and compared with themselves.

The smallest of each family as it is, others of it, large ones among them, with two layers. ONNX Runtime, OpenVINO and
`torch.export` each get the same weights (random ones, all of them non-zero) and noise for images, one alone and three
together; logits have to agree within 1e-4, and the likeliest class on all.

python benchmarks/export_parity.py [MODEL …]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from rich.table import Table
from side_by_side import RESULTS, claim, console

from coadvise.checkpoints.trained import TrainedModel
from coadvise.errors import CoadviseError
from coadvise.export.card import card_of
from coadvise.export.engines import onnx_logits, openvino_logits, program_logits
from coadvise.export.images import CheckImages
from coadvise.export.job import Job
from coadvise.export.openvino_folder import openvino_model, save
from coadvise.export.parity import TOLERANCE, measure_parity
from coadvise.export.tracing import onnx_bytes, program_of
from coadvise.models.students import as_student
from coadvise.recipe.reading import recipe_from
from coadvise.run.provenance import manifest
from coadvise.system.files import write_json

OURS = ("cit_tiny", "cit_small", "cit_tiny_sa", "cit_small_sa", "rednet26", "rednet38", "rednet50", "rednet101",
        "rednet152", "transformer_tiny", "mixer_tiny", "resnet10")  # fmt: skip
FAMILIES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224",
            "vit_base_patch32_clip_224", "vit_base_patch16_siglip_224", "eva02_tiny_patch14_224",
            "vit_small_patch16_dinov3", "vit_small_patch14_reg4_dinov2", "beit_base_patch16_224",
            "naflexvit_base_patch16_gap")  # fmt: skip
SHALLOW = ("deit_tiny_patch16_224", "vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_siglip_gap_224",
           "vit_small_patch14_dinov2", "vit_medium_patch16_gap_256", "vit_medium_patch16_reg4_gap_256",
           "vit_base_patch16_rpn_224", "vit_base_patch16_xp_224", "vit_small_plus_patch16_dinov3",
           "eva02_base_patch16_clip_224", "eva_giant_patch14_224", "vit_small_patch16_rope_224",
           "vit_small_patch16_rope_mixed_224", "vit_small_patch16_rope_ape_224", "vit_pe_core_tiny_patch16_384",
           "beitv2_base_patch16_224", "naflexvit_base_patch16_siglip", "naflexvit_base_patch16_map",
           "vit_dlittle_patch16_reg1_gap_256", "vit_tiny_r_s16_p8_224")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*OURS, *FAMILIES, *SHALLOW])
    parser.add_argument("--output", type=Path, default=RESULTS.parent / "export")
    options = parser.parse_args()
    table = Table("model", "ONNX Runtime", "OpenVINO", "torch.export", "seconds")
    found: dict[str, Any] = {}
    for name in options.models:
        start = time.perf_counter()
        found[name] = _compared(name)
        shown = [
            f"{one['difference']:.1e}" if "difference" in one else one["error"][:60] for one in found[name].values()
        ]
        table.add_row(name, *shown, f"{time.perf_counter() - start:.0f}")
        console.print(name, *shown)
    console.print(table)
    lines = []
    for engine in ("ONNX Runtime", "OpenVINO", "torch.export"):
        sides = [one[engine] for one in found.values()]
        good = [side for side in sides if side.get("same") == side.get("count", -1)]
        worst = max((side["difference"] / side["scale"] for side in good), default=float("nan"))
        what = f"{engine}: top classes the same for {len(good)} of {len(sides)} models; largest difference of logits"
        lines.append(claim(what, worst, f"≤ {TOLERANCE:.0e}", ""))
    content = {"benchmark": "export_parity", "claims": lines, "details": found, "settings": {}, "device": "cpu",
               "provenance": manifest(command="python benchmarks/export_parity.py")}  # fmt: skip
    write_json(options.output / "parity.json", content)


def _compared(name: str) -> dict[str, Any]:
    """How near each engine is, or why it cannot run the model."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **({"depth": 2} if name in SHALLOW else {})).eval()
    for parameter in model.parameters():  # heads and gates that start at zero would hide what is before them
        parameter.data += 0.02 * torch.randn_like(parameter)
    side = model.pretrained_cfg["input_size"][-1]
    recipe = recipe_from({"name": name, "data": {"source": "none", "image_size": side}, "student": {"model": name}})
    trained = TrainedModel(as_student(model), recipe, tuple("0123456789"), Path(name))
    job = Job(trained)
    job.__dict__["check"] = CheckImages(torch.randn(4, 3, side, side), "noise")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def by_onnx() -> Any:
            (folder / "a.onnx").write_bytes(onnx_bytes(trained, job.card))
            return onnx_logits(folder / "a.onnx")

        def by_openvino() -> Any:
            made = folder / "a.onnx"
            content = made.read_bytes() if made.is_file() else onnx_bytes(trained, job.card)
            save(openvino_model(content, card_of(trained)), folder)
            return openvino_logits(folder / "model.xml")

        def by_program() -> Any:
            torch.export.save(program_of(trained), folder / "a.pt2")
            return program_logits(folder / "a.pt2")

        found: dict[str, Any] = {}
        for engine, run in (("ONNX Runtime", by_onnx), ("OpenVINO", by_openvino), ("torch.export", by_program)):
            try:
                found[engine] = asdict(measure_parity(job, run()))
            except CoadviseError as error:
                found[engine] = {"error": str(error)}
        return found


if __name__ == "__main__":
    main()
