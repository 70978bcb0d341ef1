"""Answers of an evaluation, image by image, as `run.answers` keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.views.finish import Batch
from ..errors import DataError
from ..names import ALL_HEADS
from ..run.answers import Answers

Gather = Callable[[list[Any]], list[Any]]
"""Brings together lists of all processes, on all of them."""


class Collected:
    """Likeliest classes and their probabilities, collected batch by batch on the device that computed them."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Tensor]] = []

    @torch.no_grad()
    def add(self, batch: Batch, tokens: Mapping[str, Tensor], advice: Mapping[str, Tensor]) -> None:
        """Keep what is answered for a batch: logits (b, k) by token and by teacher."""
        row = {"index": batch.index, "label": batch.label}
        outputs = dict(tokens)
        if len(tokens) > 1:
            outputs[ALL_HEADS] = torch.stack([z.float() for z in tokens.values()]).mean(dim=0)
        for name, z in outputs.items():
            # The largest logit, not the largest probability: as the accuracy decides between equal ones.
            row[f"output.{name}"] = z.argmax(dim=1)
            row[f"confidence.{name}"] = z.float().softmax(dim=1).max(dim=1).values
        for name, z in advice.items():
            row[f"teacher.{name}"] = z.argmax(dim=1)
        self._rows.append(row)

    def answers(self, data: str, classes: Sequence[str], gather: Gather = lambda rows: rows) -> Answers:
        """All of them, over all processes, in the order of the images.

        Args:
            data: digest of the validation images.

        Raises:
            DataError: no image could be read.
        """
        rows = gathered(self._rows, gather)
        of = lambda kind: {n.partition(".")[2]: v for n, v in rows.items() if n.startswith(f"{kind}.")}
        return Answers(
            data, tuple(classes), rows["index"], rows["label"], of("output"), of("confidence"), of("teacher")
        )

    def metrics(self, classes: Sequence[str], gather: Gather = lambda rows: rows) -> dict[str, float]:
        """What single images do not tell: nothing here."""
        return {}


def gathered(rows: Sequence[Mapping[str, Tensor]], gather: Gather) -> dict[str, np.ndarray]:
    """Rows of batches brought together over all processes, in the order of their `index`, each once.

    Raises:
        DataError: there are none.
    """
    own = {name: torch.cat([row[name].cpu() for row in rows]).numpy() for name in (rows or [{}])[0]}
    parts = [part for part in gather([own]) if part]
    if not parts:
        raise DataError("none of the images can be read; repair them")
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    _, order = np.unique(whole["index"], return_index=True)
    return {name: values[order] for name, values in whole.items()}
