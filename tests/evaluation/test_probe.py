"""Linear probes against scikit-learn alone, and the features they are fitted to against the model's own layers."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers import SHARED
from helpers.runs import photographs
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from coadvise.data.sources.opening import open_sources
from coadvise.data.sources.subsets import Subset, balanced_subset
from coadvise.errors import DataError, ModelError
from coadvise.evaluation import probe
from coadvise.evaluation.features import features_of
from coadvise.evaluation.probe import as_classifier, asked_about, fit, images_to_see, linear_probe
from coadvise.models.students import as_student
from coadvise.recipe.schema import Data

WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.in1k.safetensors"


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return as_student(timm.create_model("resnet10", channels=[8, 8, 16, 16], num_classes=5).eval())


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(source=photographs(tmp_path / "photos", 8), image_size=32, workers=0)


def test_features_are_what_timm_gives_its_classifier(data: Data) -> None:
    model, (train, _) = small(), open_sources(data)
    found = features_of(model, train, data, batch_size=5)
    whole = features_of(model, train, data, batch_size=24)
    assert torch.allclose(found.values, whole.values, atol=1e-5) and found.label.tolist() == train.labels.tolist()
    from coadvise.data.loader import EvalLoader

    (batch,) = EvalLoader(train, data, 24)
    with torch.no_grad():
        inner = model.model
        expected = inner.forward_head(inner.forward_features(batch.images), pre_logits=True)
    assert torch.allclose(whole.values, expected, atol=1e-5)


def test_a_probe_is_scikit_learns_and_draws_from_no_generator(data: Data) -> None:
    model, sources = small(), open_sources(data)
    states = random.getstate(), torch.get_rng_state()
    found = linear_probe(model, sources, data)
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    train, val = (features_of(model, source, data) for source in sources)
    scale = StandardScaler().fit(train.values.numpy())
    alone = LogisticRegression(C=found.strength, max_iter=500).fit(scale.transform(train.values.numpy()), train.label)
    answers = alone.predict(scale.transform(val.values.numpy()))
    assert found.right == int((answers == val.label.numpy()).sum()) and found.right == 24  # by colour
    assert (found.samples, found.train, found.features, found.expected) == (24, 24, 16, 1.0)


def test_a_probe_is_counted_on_the_images_of_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    """On all validation images, whatever part of the training images it is fitted to; the oracle is scikit-learn's."""
    data = Data(source="digits", image_size=8, eval_crop=1.0, workers=0)
    train, val = open_sources(data)
    place = np.arange(len(val))
    uneven = Subset(val, place[(val.labels == 6) | (place % 9 == 0)])
    monkeypatch.setattr(probe, "MOST", 100)
    torch.manual_seed(1)
    model = as_student(timm.create_model("resnet10", channels=[8, 8, 16, 16], num_classes=10).eval())
    found = linear_probe(model, (train, uneven), data)
    part = Subset(train, balanced_subset(train.labels, 100))
    seen, asked = (features_of(model, one, data) for one in (part, uneven))
    alone = make_pipeline(StandardScaler(), LogisticRegression(C=found.strength, max_iter=500))
    answers = alone.fit(seen.values.numpy(), seen.label).predict(asked.values.numpy())
    assert (found.train, found.samples) == (100, len(uneven)) and len(uneven) > 100
    assert found.right / found.samples == pytest.approx(accuracy_score(asked.label, answers))
    assert found.right / found.samples != pytest.approx(balanced_accuracy_score(asked.label, answers), abs=0.02)
    monkeypatch.setattr(probe, "ASKED", 60)
    some = asked_about(uneven)
    shares = [(one.labels == 6).mean() for one in (some, uneven)]
    assert images_to_see((train, uneven)) == 100 + 60 == 100 + len(some) and shares[0] == pytest.approx(
        shares[1], abs=0.15
    )  # as likely one as another


@pytest.mark.parametrize("classes", [2, 3])
def test_a_probe_becomes_the_last_layer(data: Data, classes: int) -> None:
    """Also of two classes, for which scikit-learn keeps one row; and a class without images is never answered."""
    model, sources = small(), open_sources(data)
    seen = features_of(model, sources[0], data)
    kept = seen.label < classes
    fitted, _, _ = fit(seen.values[kept].numpy(), seen.label[kept].numpy())
    assert as_classifier(model, fitted, 3)
    with torch.no_grad():
        shares = model.model.get_classifier()(seen.values).softmax(dim=1).numpy()
    expected = fitted.predict_proba(seen.values.numpy())
    np.testing.assert_allclose(shares[:, :classes], expected, atol=1e-4)
    assert not shares[:, classes:].any()


def test_a_probe_is_no_layer_of_a_model_with_two_heads(data: Data) -> None:
    """DeiT's distilled models answer with the mean of both."""
    seen = features_of(small(), open_sources(data)[0], data)
    fitted, _, _ = fit(seen.values.numpy(), seen.label.numpy())
    deit = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, embed_dim=16, depth=1, num_heads=1)
    assert not as_classifier(deit, fitted, 3)


def test_what_cannot_be_probed_is_refused(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = open_sources(data)
    foreign = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))
    with pytest.raises(ModelError, match="no get_classifier"):
        linear_probe(foreign, sources, data)
    monkeypatch.setattr(probe, "WORK", 3 * 16 * 14)
    with pytest.raises(DataError, match="too long"):
        linear_probe(small(), sources, data)
    monkeypatch.setattr(probe, "WORK", 3 * 16 * 15)
    assert linear_probe(small(), sources, data).train == 15  # five of each class


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="there is no really pretrained network beside the repository")
def test_a_real_network_on_photographs(shared_data: Path) -> None:
    """ImageNet features tell seven classes of photographs apart nearly always: 98.8 % from all 560 images."""
    model = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(WEIGHTS)).eval()
    source, half = str(shared_data / "pacs"), (0.5, 0.5, 0.5)
    data = Data(source=source, image_size=96, train_size=42, val_size=42, workers=0, mean=half, std=half)
    assert linear_probe(model, open_sources(data), data).right >= 34
