"""`coadvise doctor`: versions, devices and optional packages on this machine."""

from __future__ import annotations

import os
import shutil

from ..system.extras import EXTRAS, command_for, installed
from ..system.screen import Table
from .arguments import out


def doctor() -> None:
    """Show versions, devices and what is missing here.

    Example:

        coadvise doctor
    """
    table = Table("what", "found", "note")
    for row in findings():
        table.add_row(*row)
    out.print(table)


def findings() -> list[tuple[str, str, str]]:
    """Rows of (what, found, note)."""
    import torch

    from ..data.part import part_decoder
    from ..data.views import warp
    from ..run.provenance import cpu_name, versions
    from ..system.devices import resolve_precision
    from ..system.native import compiler
    from ..system.shared_memory import shared_memory

    rows = [(name, version, "") for name, version in versions().items()]
    rows.append(("processor", cpu_name(), f"{os.cpu_count()} cores, {torch.get_num_threads()} threads for PyTorch"))
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16 (no bf16)"
            rows.append((f"gpu {i}", properties.name, f"{properties.total_memory / 2**30:.0f} GiB, {bf16}"))
    else:
        rows.append(("gpu", "none", f"training runs on the CPU, in {resolve_precision('auto', cpu=True)}"))
    command = compiler()
    rows.append(("C++ compiler", command or "none", "" if command else "nothing is compiled on the CPU"))
    if command:
        state = ("Pillow", "not compiled: slower") if warp.library() is None else ("compiled", "")
        rows.append(("rotations of images", *state))
        state = ("decoded whole", "slower") if part_decoder() is None else ("decoded alone", "")
        rows.append(("crops of photographs", *state))
    for name in EXTRAS:
        found = installed(name)
        rows.append((f"optional: {name}", "yes" if found else "no", "" if found else command_for(name)))
    if room := shared_memory():
        size = f"{room.total / 2**20:,.0f} MiB, {room.free / 2**20:,.0f} MiB free"
        small = "little: batches are copied once more on their way; in Docker, --shm-size=8g gives more"
        rows.append(("shared memory", size, small if room.free < 2**30 else ""))
    free = shutil.disk_usage(os.getcwd()).free
    rows.append(("free disk here", f"{free / 2**30:.1f} GiB", "little room for checkpoints" if free < 2**30 else ""))
    return rows
