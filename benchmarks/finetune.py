"""Co-advised fine-tuning against plain fine-tuning of the same pretrained ViT, on natural images with few labels.

A small ViT and two small teachers learn six classes of CIFAR-10. The other four are the user's data, with few labels:
the teachers are fine-tuned on them, and the ViT with labels alone, or with each teacher advising a token that is added
to it. Paired over seeds; every finished run is kept, and the same command goes on where it was cut off.

python benchmarks/finetune.py data.source=FOLDER
python benchmarks/finetune.py data.source=FOLDER --labels 200 --seeds 5 --lr 1e-4 3e-4 1e-3
python benchmarks/finetune.py data.source=FOLDER --teacher-labels 4000 --teacher-epochs 8  # they know more
python benchmarks/finetune.py data.source=FOLDER --unlabelled 4000  # teachers advise on images without labels, too
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coadvise.data.sources.base import encoded_bytes
from coadvise.data.sources.opening import open_sources
from coadvise.recipe.reading import load_recipe
from coadvise.run.provenance import manifest
from coadvise.run.result import RunResult
from coadvise.significance import paired_difference, summarise
from coadvise.system.files import write_json
from coadvise.system.progress import Display
from coadvise.training.train import train

RESULT = Path(__file__).resolve().parents[1] / "results" / "finetune" / "cifar10.json"
BEFORE = ("airplane", "bird", "cat", "deer", "frog", "truck")
AFTER = ("automobile", "dog", "horse", "ship")
MODELS = {
    "vit": "student={model: vit_tiny_patch16_224, options: {patch_size: 8, embed_dim: 96, depth: 6, num_heads: 3}}",
    "conv": "student={model: resnet10, small_stem: true, options: {channels: [16, 32, 64, 128]}}",
    "inv": "student={model: rednet26, options: {layers: [1, 1, 1], width: 16, stem: small}}",
}
TEACHERS, TEACHER_LR = ("conv teacher", "inv teacher"), 1e-3
# What the ViT learns from: labels; teachers on its class output; one teacher, or both, by tokens that are added.
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "labels": ("auto", ()),
    "class": ("single", ("conv", "inv")),
    "class by conv": ("single", ("conv",)),
    "conv": ("own", ("conv",)),
    "both": ("own", ("conv", "inv")),
}
# The same with images without labels, and labels alone with as many updates as these take.
LONGER = "labels, as many updates"
UNLABELLED = {f"{arm}, unlabelled": how for arm, how in ARMS.items() if arm != "labels"}
BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="of all runs, such as data.source=FOLDER")
    parser.add_argument("--labels", type=int, default=200, help="labelled images of the four classes")
    parser.add_argument("--teacher-labels", type=int, help="of the teachers, when they have others")
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--pretrain", type=int, default=12_000, help="images of the six classes")
    parser.add_argument("--pretrain-epochs", type=int, nargs=3, default=[40, 6, 6], help="of vit, conv, inv")
    parser.add_argument("--lr", type=float, nargs="+", default=[3e-4], help="labels alone choose the best")
    parser.add_argument("--arms", nargs="+", default=["labels", "class", "conv", "both"], choices=list(ARMS))
    parser.add_argument("--unlabelled", type=int, default=0, help="so many other images of the four classes beside")
    parser.add_argument("--unlabelled-epochs", type=int, default=8, help="of these and the labelled ones")
    parser.add_argument("--label-weight", type=float, default=1.0, help="λ0 where most images have no label")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.teacher_labels = options.teacher_labels or options.labels
    options.teacher_epochs = options.teacher_epochs or options.epochs
    options.commits = set()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, classes in (("before", BEFORE), ("after", AFTER)):
        (options.folder / f"{name}.txt").write_text("\n".join(classes) + "\n")
    if options.unlabelled:
        _write_unlabelled(options)
        options.arms = ["labels", LONGER, *(f"{arm}, unlabelled" for arm in options.arms if arm != "labels")]
    kinds = {kind for arm in options.arms for kind in (ARMS | UNLABELLED).get(arm, ("", ()))[1]}
    teachers = [teacher for teacher in TEACHERS if teacher.removesuffix(" teacher") in kinds]
    pretrained = {name: _pretrained(name, options) for name in MODELS if name == "vit" or name in kinds}
    rates = {lr: _finetuned("labels", 1000, lr, options).final["accuracy/class"] for lr in options.lr}
    best = max(rates, key=rates.__getitem__)
    found: dict[str, list[float]] = {arm: [] for arm in (*teachers, *options.arms)}
    for seed in range(options.seeds):
        for arm in found:
            lr = TEACHER_LR if arm in TEACHERS else best
            found[arm].append(_finetuned(arm, seed, lr, options).final["accuracy/class"])
        _write(options, pretrained, rates, found)


def _run(name: str, settings: list[str], options: argparse.Namespace) -> RunResult:
    output = options.folder / name
    if not (output / "result.json").is_file():
        every = [f"name={name}", f"run.output={output}", "run.tensorboard=false", "run.baselines=[]", "data.workers=0"]
        recipe = load_recipe("cifar10-cpu", [*every, *settings, *options.settings])
        train(recipe, resume=(output / "last.safetensors").is_file(), display=Display(every=60.0))
    result = RunResult.read(output / "result.json")
    options.commits.add(str(result.provenance.get("commit")))
    return result


def _write_unlabelled(options: argparse.Namespace) -> None:
    """Write a folder of images, of which nothing is known, none of them one with a label, also of the teachers'."""
    settings = [f"data.classes={options.folder / 'after.txt'}", *options.settings]
    every, labelled = (
        open_sources(load_recipe("cifar10-cpu", [f"data.train_size={size}", *settings]).data)[0]
        for size in ("null", max(options.labels, options.teacher_labels))
    )
    known = {labelled.describe(index) for index in range(len(labelled))}
    others = [index for index in range(len(every)) if every.describe(index) not in known]
    chosen = np.random.default_rng(0).permutation(others)[: options.unlabelled]
    folder = _unlabelled_folder(options)
    folder.mkdir(exist_ok=True)
    for index in sorted(chosen.tolist()):
        (folder / f"{index:05}.jpg").write_bytes(encoded_bytes(every, index))


def _unlabelled_folder(options: argparse.Namespace) -> Path:
    return options.folder / f"unlabelled-beside-{max(options.labels, options.teacher_labels)}-{options.unlabelled}"


def _epochs(arm: str, options: argparse.Namespace) -> int:
    if arm in UNLABELLED:
        return options.unlabelled_epochs
    if arm == LONGER:
        updates = options.unlabelled_epochs * ((options.labels + options.unlabelled) // BATCH)
        return round(updates / (options.labels // BATCH))
    return options.teacher_epochs if arm in TEACHERS else options.epochs


def _pretrained(name: str, options: argparse.Namespace) -> float:
    epochs = dict(zip(MODELS, options.pretrain_epochs, strict=True))[name]
    settings = [
        MODELS[name], "teachers={}", f"data.classes={options.folder / 'before.txt'}", "data.val_size=2000",
        f"data.train_size={options.pretrain}", "optim.lr=2e-3", f"schedule.epochs={epochs}",
        "schedule.warmup_epochs=1", f"run.eval_every={epochs}",
    ]  # fmt: skip
    return _run(f"pretrained-{name}", settings, options).final["accuracy/class"]


def _finetuned(arm: str, seed: int, lr: float, options: argparse.Namespace) -> RunResult:
    name = arm.removesuffix(" teacher") if arm in TEACHERS else "vit"
    labels = options.teacher_labels if arm in TEACHERS else options.labels
    epochs = _epochs(arm, options)
    settings = [
        MODELS[name], f"student.checkpoint={options.folder / f'pretrained-{name}' / 'best.safetensors'}",
        f"data.classes={options.folder / 'after.txt'}", f"data.train_size={labels}", f"data.seed={seed}",
        f"run.seed={seed}", f"optim.lr={lr}", f"optim.batch_size={BATCH}", f"schedule.epochs={epochs}",
        f"schedule.warmup_epochs={epochs / 8}", f"run.eval_every={epochs}",
    ]  # fmt: skip
    tokens, kinds = (ARMS | UNLABELLED).get(arm, ARMS["labels"])
    if arm in UNLABELLED:
        settings += [f"data.unlabelled={_unlabelled_folder(options)}", f"loss.label_weight={options.label_weight}"]
    settings += ["teachers={}", f"loss.tokens={tokens}"]
    for kind in kinds:
        weights = options.folder / _name(f"{kind} teacher", seed, TEACHER_LR, options) / "best.safetensors"
        model = MODELS[kind].split("model: ")[1].split(",")[0]  # its options are recorded in the file
        settings += [f"teachers.{kind}={{model: {model}, bias: {kind}, checkpoint: {weights}}}"]
    return _run(_name(arm, seed, lr, options), settings, options)


def _name(arm: str, seed: int, lr: float, options: argparse.Namespace) -> str:
    own, theirs = f"{options.labels}-e{options.epochs}", f"{options.teacher_labels}-e{options.teacher_epochs}"
    if arm in TEACHERS and own != theirs:
        seed = 0  # teachers from elsewhere are the same for all seeds
    if arm in UNLABELLED or arm == LONGER:
        more = f"{options.labels}-of-{options.labels + options.unlabelled}-e{_epochs(arm, options)}"
        more += f"-by-{theirs}-w{options.label_weight:g}" if arm in UNLABELLED else ""
        return f"{arm.replace(', ', '-').replace(' ', '-')}-{more}-lr{lr:g}-s{seed}"
    told = {"labels": own}.get(arm, f"{own}-by-{theirs}" if arm in ARMS and own != theirs else own)
    return f"{arm.replace(' ', '-')}-{told if arm in ARMS else theirs}-lr{lr:g}-s{seed}"


def _write(
    options: argparse.Namespace, pretrained: dict[str, float], rates: dict[float, float], found: dict[str, list[float]]
) -> None:
    arms: dict[str, Any] = {}
    for arm, values in found.items():
        summary = summarise(values)
        arms[arm] = {"accuracy": values, "mean": summary.mean, "sd": summary.sd}
        told = f"{arm}: {summary.mean:.2%} over {len(values)} seeds"
        for other in ("labels", LONGER) if arm not in TEACHERS else ():
            if arm == other or other not in found or (other == LONGER and arm not in UNLABELLED):
                continue
            apart = paired_difference(values, found[other])
            difference = {"difference": apart.mean, "low": apart.low, "high": apart.high, "p": apart.p}
            arms[arm][f"against {other}"] = difference
            told += f", against {other} {apart.mean:+.2%} (p = {apart.p})"
        print(told, flush=True)
    content = {
        "pretrained on": list(BEFORE), "fine-tuned on": list(AFTER), "labels": options.labels,
        "labels of the teachers": options.teacher_labels, "epochs of the teachers": options.teacher_epochs,
        "epochs": options.epochs, "unlabelled images": options.unlabelled,
        "epochs with unlabelled images": options.unlabelled_epochs if options.unlabelled else None,
        "weight of the labels with unlabelled images": options.label_weight if options.unlabelled else None,
        "epochs of labels alone for as many updates": _epochs(LONGER, options) if options.unlabelled else None,
        "images and epochs of pretraining": [options.pretrain, *options.pretrain_epochs],
        "accuracy after pretraining": pretrained,
        "learning rates, labels alone, seed 1000": {f"{lr:g}": value for lr, value in rates.items()}, "arms": arms,
        "commits of the runs": sorted(options.commits),
        "provenance": manifest(command=shlex.join(["python", "benchmarks/finetune.py", *sys.argv[1:]])),
    }  # fmt: skip
    write_json(options.output, content)


if __name__ == "__main__":
    main()
