"""The linear probe: what a network's features alone are worth, as whoever trains nothing would use them.

Logistic regression on standardised features of training images, seen as evaluation sees them. Its strength of
regularisation is chosen by cross-validation among the training images; the validation images are only counted, and all
of them, as for the student that it is held against: a part with its classes in balance would be other, often harder
images. That costs about as much as one evaluation of a run, which asks its student about all of them many times.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..data.sources.base import ImageSource
from ..data.sources.subsets import Subset, balanced_subset
from ..data.views.augment import preserved_generators
from ..errors import DataError
from ..models.students import classifier_of
from ..names import CLASS
from ..recipe.schema import Data
from ..run.result import ASKED
from ..shapes import Float, Int
from ..system.clock import seconds_of
from ..system.extras import need
from .features import Features, classifiers, features_by_batch, features_of

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

PROBE = "a linear probe"
MOST = 5000
"""Training images that are looked at, classes in balance; where probes are held against each other alone, validation
images, too."""
WORK = 3e8
"""Numbers (images × features × classes) that one fit goes through in a round: minutes for the whole choice at most."""
FEWEST = 5
"""Training images of each class below which a probe says little."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of scikit-learn's `C` on trial; the larger, the less regularisation."""


@dataclass(frozen=True)
class LinearProbe:
    """A linear probe and its accuracy.

    Attributes:
        fitted: scikit-learn's classifier of features (n, d).
        right: validation images named rightly, of so many `samples`: all that can be read, up to `ASKED`.
        train: training images that it was fitted to.
        features: numbers that describe an image.
        strength: the chosen `C`.
        expected: its accuracy in the cross-validation, as a share.
        seconds: that reading, computing features and fitting took.
    """

    fitted: Pipeline
    right: int
    samples: int
    train: int
    features: int
    strength: float
    expected: float
    seconds: float


def linear_probe(
    model: nn.Module,
    sources: tuple[ImageSource, ImageSource],
    data: Data,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda samples: None,
) -> LinearProbe:
    """Fit a linear probe to training images and count its right answers on all validation images.

    Random generators are left as they were.

    Args:
        model: a classifier in evaluation mode, on the device; its own last layer is not used.
        sources: training and validation images, of the same classes.
        data: size and normalisation that the model was made for.
        advance: called with the number of images done; in all there are `images_to_see(sources)`.

    Raises:
        MissingPackage: scikit-learn is not installed.
        ModelError: the model does not say which of its layers is the classifier.
        DataError: too few images of a class, classes so many that a fit would take too long, or no image that can be
            read.
    """
    need("sklearn", PROBE)
    started = time.monotonic()
    how: dict[str, Any] = {"batch_size": batch_size, "device": device, "advance": advance}
    with preserved_generators():
        seen = features_of(model, looked_at(sources[0]), data, **how)
        label, chosen = affordable(seen, len(sources[0].class_names))
        values = seen.values.numpy()[chosen]
        fitted, strength, expected = fit(values, label)
        right = [fitted.predict(one.values.numpy()) == one.label.numpy()
                 for one in features_by_batch(model, asked_about(sources[1]), data, **how)]  # fmt: skip
    if not right:
        raise DataError("none of the validation images can be read; repair them")
    seconds, hits = round(time.monotonic() - started, 1), np.concatenate(right)
    return LinearProbe(fitted, int(hits.sum()), len(hits), len(label), values.shape[1], strength, expected, seconds)


def images_to_see(sources: tuple[ImageSource, ImageSource]) -> int:
    """Images whose features a probe of these sources computes."""
    return min(len(sources[0]), MOST) + min(len(sources[1]), ASKED)


def asked_about(source: ImageSource) -> ImageSource:
    """The validation images that a probe is asked about, `ASKED` at most."""
    if len(source) <= ASKED:
        return source
    return Subset(source, balanced_subset(np.zeros(len(source), dtype=np.int64), ASKED))  # as if of one class


def looked_at(source: ImageSource) -> ImageSource:
    """At most `MOST` images of a source, classes in balance."""
    return source if len(source) <= MOST else Subset(source, balanced_subset(source.labels, MOST))


def affordable(seen: Features, classes: int) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Labels and places of the images that are fitted to, in balance: so many that a fit takes seconds.

    Raises:
        DataError: too few images of a class, or classes so many that a fit would take too long.
    """
    label = seen.label.numpy()
    most = int(WORK / (classes * seen.values.shape[1]))
    chosen = balanced_subset(label, most) if most < len(label) else np.arange(len(label))
    counts = np.bincount(label[chosen], minlength=classes)
    if most < FEWEST * classes:
        raise DataError(f"{classes:,} classes of {seen.values.shape[1]:,} features would take too long to fit")
    if counts[counts > 0].min() < 2 or (counts > 0).sum() < 2:
        raise DataError("each class needs two training images, and there must be two classes")
    return label[chosen], chosen


def fit(values: Float[np.ndarray, "n d"], label: Int[np.ndarray, " n"]) -> tuple[Pipeline, float, float]:
    """A classifier of features (scikit-learn's), its chosen `C`, and its accuracy in the cross-validation.

    Raises:
        MissingPackage: scikit-learn is not installed.
    """
    need("sklearn", PROBE)
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    counts = np.bincount(label)
    folds = StratifiedKFold(int(min(5, counts[counts > 0].min())), shuffle=True, random_state=0)
    # Scaled inside of each fold, so that what is held out stays unseen.
    model = Pipeline([("scale", StandardScaler()), ("regression", LogisticRegression(max_iter=500))])
    search = GridSearchCV(model, {"regression__C": list(STRENGTHS)}, cv=folds).fit(values, label)
    return search.best_estimator_, float(search.best_params_["regression__C"]), float(search.best_score_)


def as_classifier(model: nn.Module, fitted: Pipeline, classes: int) -> bool:
    """Put a probe in place of the last layer of the model that it was fitted on.

    Args:
        classes: number of the data's classes; those without a training image are never answered.

    Returns:
        Whether that could be done: one linear layer alone has to give the answer, and timm be able to replace it.
    """
    scale, regression = fitted.named_steps["scale"], fitted.named_steps["regression"]
    weight, bias = regression.coef_ / scale.scale_, regression.intercept_
    bias = bias - weight @ scale.mean_
    if len(regression.classes_) == 2:  # scikit-learn keeps the second one's row alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return with_head(model, Head(weight, bias, regression.classes_), classes)


class Head(NamedTuple):
    """A last layer: logits of features, of some of the classes."""

    weight: Float[np.ndarray, "c d"]
    bias: Float[np.ndarray, " c"]
    classes: Int[np.ndarray, " c"]


def with_head(model: nn.Module, head: Head, classes: int) -> bool:
    """Put a layer in place of the last one of the model whose features it takes; see `as_classifier`."""
    inner = classifier_of(model)
    replace: Any = getattr(inner, "reset_classifier", None)
    several = isinstance(getattr(inner, "get_classifier", lambda: None)(), (tuple, nn.ModuleList))
    if several or getattr(inner, "inference", "") == "average":  # the answer is the mean of several heads
        return False
    if replace is None or not isinstance(classifiers(inner)[CLASS], nn.Linear):
        return False
    device = next(inner.parameters()).device
    replace(classes)
    layer = classifiers(inner)[CLASS]
    if not isinstance(layer, nn.Linear) or layer.bias is None or layer.in_features != head.weight.shape[1]:
        return False
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(-1e4)
        layer.weight[head.classes] = torch.from_numpy(head.weight).to(layer.weight)
        layer.bias[head.classes] = torch.from_numpy(head.bias).to(layer.bias)
    inner.to(device).eval()
    return True


@torch.no_grad()
def images_per_s(model: nn.Module, image_size: int, device: torch.device, batch_size: int = 8) -> float:
    """Images per second that a model answers in float32, without reading them: the median of a few batches."""
    training = model.training
    x = torch.zeros(batch_size, 3, image_size, image_size, device=device)
    try:
        model.eval()
        # What is compiled for a training must not learn here that there are batches of another size.
        with torch.compiler.set_stance("force_eager"):
            return batch_size / seconds_of(lambda: model(x), device, rounds=3)
    finally:
        model.train(training)
