"""What differs between two runs, caches or experiments, bit for bit, but for times and paths."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_TIMES = frozenset({"images_per_s", "seconds", "throughput", "training_ms", "provenance", "date"})


def runs(one: Path, other: Path) -> list[str]:
    """Differences between the folders of two finished runs, those of their teachers included."""
    found = list(_left_over(other))
    for folder in sorted({path.parent.relative_to(one) for path in one.rglob("result.json")} | {Path()}):
        for name in ("last.safetensors", "best.safetensors"):
            found += [f"{folder / name}: {what}" for what in _tensors(one / folder / name, other / folder / name)]
        found += _values(f"{folder}/metrics.jsonl", *(_lines(top / folder / "metrics.jsonl") for top in (one, other)))
        results = (_json(top / folder / "result.json") for top in (one, other))
        found += _values(f"{folder}/result.json", *({k: r.get(k) for k in ("final", "ema", "best", "steps", "images_seen", "teachers", "skipped")} for r in results))  # fmt: skip # noqa: E501
    return found


def caches(one: Path, other: Path) -> list[str]:
    """Differences between two complete caches: every byte of every file."""
    first, second = ({str(p.relative_to(top)): p for p in top.rglob("*") if p.is_file()} for top in (one, other))
    found = [f"{name} is there once only" for name in sorted(first.keys() ^ second.keys())]
    return found + [
        f"{name} differs" for name in sorted(first.keys() & second.keys())
        if first[name].read_bytes() != second[name].read_bytes()
    ]  # fmt: skip


def experiments(one: Path, other: Path) -> list[str]:
    """Differences between two folders of `reproduce`: results, and the weights of every run."""
    found = list(_left_over(other))
    for kind in ("results/*.json", "runs/*/last.safetensors", "runs/*/best.safetensors"):
        names = [sorted(str(path.relative_to(top)) for path in top.glob(kind)) for top in (one, other)]
        if names[0] != names[1] or not (names[0] or "last" in kind):  # of finished runs it may have been removed
            found.append(f"{kind}: {names[0]} and {names[1]}")
            continue
        for name in names[0]:
            if name.endswith(".json"):
                # Hashes of files that name their folder; what is in them is compared itself.
                results = ({**_json(top / name), "teacher_weights": None} for top in (one, other))
                found += _values(name, *results)
            else:
                found += [f"{name}: {what}" for what in _tensors(one / name, other / name)]
    return found


def _left_over(folder: Path) -> Iterator[str]:
    """Temporary files of writers that were killed."""
    for path in folder.rglob("*.tmp"):
        yield f"{path.relative_to(folder)} was left over"


def _tensors(one: Path, other: Path) -> list[str]:
    """Names of tensors that differ in type, shape or any byte, and header entries that do."""
    first, second = _safetensors(one), _safetensors(other)
    if first is None or second is None:
        return [] if first is second else ["is there once only"]
    names = sorted(first[0].keys() | second[0].keys())
    return [name for name in names if first[0].get(name) != second[0].get(name)] + _values(
        "header", *(_without_paths(header) for header in (first[1], second[1]))
    )


def _safetensors(path: Path) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any]] | None:
    """Type, shape and bytes of each tensor, and the metadata; read by hand."""
    if not path.is_file():
        return None
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    body = raw[8 + size :]
    places = {name: (one["dtype"], one["shape"], one["data_offsets"]) for name, one in header.items()}
    return {name: (kind, shape, body[a:b]) for name, (kind, shape, (a, b)) in places.items()}, metadata


def _without_paths(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Metadata without the recipe, which names the run's folder, and what was made of it."""
    parsed = {key: json.loads(value) if value[:1] in "{[" else value for key, value in metadata.items()}
    for value in parsed.values():
        if isinstance(value, dict):
            value.pop("recipe", None)
    return parsed


def _values(where: str, one: Any, other: Any) -> list[str]:
    """Places where two JSON values differ, but for times."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted((one.keys() | other.keys()) - _TIMES)
        return [line for key in keys for line in _values(f"{where}.{key}", one.get(key), other.get(key))]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [line for i, (a, b) in enumerate(zip(one, other, strict=True)) for line in _values(f"{where}.{i}", a, b)]
    return [] if repr(one) == repr(other) else [f"{where}: {str(one)[:80]} and {str(other)[:80]}"]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
