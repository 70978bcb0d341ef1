"""The layers of the package: an import points to a lower layer, or stays in its own folder."""

import ast
from pathlib import Path

import coadvise

ROOT = Path(coadvise.__file__).parent
LAYERS = {
    0: {"errors", "files", "locks", "signals"},
    1: {"recipe", "recipe_file", "provenance", "progress", "native"},
    2: {"ops", "data", "compiling", "advice_format", "losses", "metrics", "inert_pickle", "run_folder", "similarity"},
    3: {"models", "tracking"},
    4: {"fuse", "teachers", "checkpoint", "model_file", "training_state", "processes", "build", "advice_cache"},
    5: {"evaluate", "preparation", "inference", "advice_writer", "advice_profile", "shift", "likeness"},
    6: {"resuming", "cost", "disagreement"},
    7: {"training"},
    8: {"demo", "plan", "caching", "experiments", "workers"},
    9: {
        "report", "report_demo", "report_inputs", "report_page", "report_run", "report_sections", "plots", "tables",
        "statistics", "doctor", "report_claims", "report_paper", "report_beyond", "plots_paper", "plots_tokens",
    },
    10: {"cli", "cli_bench", "cli_evaluate", "cli_reproduce", "__main__", "__init__"},
}  # fmt: skip
LAYER = {name: number for number, names in LAYERS.items() for name in names}


def imports(path: Path) -> set[str]:
    """Top-level parts of coadvise that a module imports, also inside functions."""
    package = path.relative_to(ROOT).parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
                found |= {base[0]} if base else set(names)
            elif node.module and node.module.split(".")[0] == "coadvise":
                rest = node.module.split(".")[1:]
                found |= {rest[0]} if rest else {alias.name for alias in node.names}
    return {name for name in found if name in LAYER}


def test_every_module_has_a_layer() -> None:
    parts = {p.stem if p.suffix == ".py" else p.name for p in ROOT.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert parts - {"__pycache__", "recipes", "templates"} == set(LAYER)


def test_imports_point_down() -> None:
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for other in imports(path) - {own}:
            lower = LAYER[other] < LAYER[own]
            # What runs things writes its report at the end; reports know nothing of the code that ran.
            beside = LAYER[other] == LAYER[own] or (own, other) in (("demo", "report"), ("experiments", "report_paper"))
            assert lower or beside, f"{path.relative_to(ROOT)} (layer {LAYER[own]}) imports {other} ({LAYER[other]})"


def test_reports_need_no_torch() -> None:
    for name in LAYERS[9] - {"doctor"}:
        tree = ast.parse((ROOT / f"{name}.py").read_text())
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(module.split(".")[0] in ("torch", "timm", "torchvision") for module in modules), name
