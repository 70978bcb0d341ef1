"""`torch.export`: a program for PyTorch alone, without coadvise and timm, with a free batch."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch

from .engines import CARD_FILE, program_logits
from .job import Job, Target, Written
from .parity import require_parity
from .tracing import program_of


def _write(job: Job, path: Path) -> Written:
    content = io.BytesIO()  # PyTorch's own writer says of a full disk only that it failed
    torch.export.save(program_of(job.trained), content, extra_files={CARD_FILE: json.dumps(job.card.metadata())})
    path.write_bytes(content.getbuffer())
    parity = require_parity(job, program_logits(path), "PyTorch")
    return Written((f"PyTorch: {parity.line} ({parity.images})",), {"parity": parity})


PROGRAM = Target("torch", "model.pt2", "a program for torch.export.load, without coadvise and timm", _write)
