"""Published or random weights in place of a training: evaluated once, then a finished run like any other."""

from __future__ import annotations

import torch

from ..checkpoints.loading import load_checkpoint, stored_classes
from ..checkpoints.model_file import save_model
from ..data.loader import EvalLoader
from ..data.sources.opening import open_sources
from ..errors import ModelError
from ..evaluation.evaluate import evaluate
from ..models.answers import named_classes
from ..models.factory import build_model
from ..models.students import as_student
from ..models.teachers import index_by_name
from ..names import CLASS, TOP1
from ..recipe.schema import Recipe
from ..run.folder import RunFolder
from ..run.provenance import manifest
from ..run.result import Best, DataFacts, RunResult, Skipped, StudentFacts
from ..system.devices import choose_device


def adopt(recipe: Recipe, folder: RunFolder) -> None:
    """Write the run folder of a model that `recipe.student` takes from timm or from a checkpoint, or leaves as it is
    drawn with the recipe's seed: what training it would begin with.

    Raises:
        ModelError: the weights are of other classes than the data, or of the same in another order.
        CheckpointError: weights that do not fit.
    """
    settings, (train, validation) = recipe.student, open_sources(recipe.data)
    classes = len(train.class_names)
    if settings.pretrained and classes != 1000:
        raise ModelError(
            f"timm's weights of {settings.model} are for the 1,000 classes of ImageNet, the data has {classes}; "
            "leave this model's weights out, so that it is trained"
        )
    torch.manual_seed(recipe.run.seed)
    model = build_model(
        settings.model,
        classes,
        image_size=recipe.data.image_size,
        small=settings.small_stem,
        pretrained=settings.pretrained is True,
        options=settings.options,
    )
    if settings.checkpoint:
        weights, setting = settings.checkpoint_weights, "student.checkpoint_weights"
        stored = stored_classes(settings.checkpoint, model, weights, setting)
        if stored is not None and stored != classes:
            raise ModelError(f"{settings.checkpoint} is for {stored} classes, the data has {classes}; leave it out")
        load_checkpoint(model, settings.checkpoint, weights=weights, setting=setting)
        names = named_classes(model)
        if names is not None and index_by_name(recipe.name, names, train.class_names) is not None:
            raise ModelError(
                f"{settings.checkpoint} has other classes than the data, or in another order; leave it out"
            )
    device = choose_device(recipe.run.device)
    student = as_student(model).eval().to(device)
    batches = EvalLoader(validation, recipe.data, recipe.run.eval_batch_size or 64, device=device)
    metrics, skipped = evaluate(student.forward_tokens, batches, tokens=[CLASS], device=device)  # type: ignore[arg-type]
    folder.begin(recipe, manifest(fingerprint=recipe.fingerprint()))
    save_model(folder.best, student, recipe, train.class_names, weights="student", epoch=0, metrics=metrics)
    folder.finish(
        RunResult(
            name=recipe.name,
            fingerprint=recipe.fingerprint(),
            seed=recipe.run.seed,
            student=StudentFacts(settings.model, sum(p.numel() for p in student.parameters())),
            teachers={},
            data=DataFacts(recipe.data.source, len(train), len(validation), tuple(train.class_names)),
            epochs=0,
            steps=0,
            images_seen=0,
            seconds=0.0,
            final=metrics,
            ema=None,
            best=Best(metrics[TOP1], 0, "student"),
            skipped=Skipped(val=skipped),
            provenance=manifest(weights="timm" if settings.pretrained else settings.checkpoint or "random"),
        )
    )
