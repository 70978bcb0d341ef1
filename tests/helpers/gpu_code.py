"""What Triton makes of a kernel for a GPU that is not here: an H100 (sm_90)."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"


@dataclass(frozen=True)
class Code:
    """A compiled kernel: registers of a thread, bytes that do not fit into them, and how often each instruction is."""

    registers: int
    spilled: int
    instructions: Counter[str]

    def count(self, pattern: str) -> int:
        """How many instructions match, with their widths (`LDG.E.128`)."""
        return sum(number for name, number in self.instructions.items() if re.match(pattern, name))


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], warps: int, folder: Path) -> Code:
    """Compile; arguments not named are constants or 32-bit numbers, and pointers are aligned as PyTorch's are."""
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    aligned = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in types}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "num_stages": 1}
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"])
    usage = _output("cuobjdump", "-res-usage", str(cubin))
    listing = _output("nvdisasm", "-c", str(cubin))
    names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", listing)
    registers, stack = (int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("REG", "STACK"))
    return Code(registers, stack, Counter(names))


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout
