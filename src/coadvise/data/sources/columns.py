"""Which columns of a table hold the images and the labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import pyarrow as pa

from ...errors import DataError, NoLabels, did_you_mean

_IMAGES = ("image", "img", "picture", "jpg", "png", "webp", "jpeg", "images", "photo", "image_bytes", "bytes")
_PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img_path", "image_file")
_LABELS = (
    *("label", "labels", "fine_label", "class", "target", "cls"),
    *("category", "class_id", "label_id", "category_id", "class_label", "target_label", "class_name", "label_name"),
    *("classes", "species", "breed", "y"),
)


class Columns(NamedTuple):
    """Names of columns that a source string gives; None is found by itself. `label` may be several, `dog,cat`.

    `several` says that an image may have several classes, or none, and `separator` what stands between their names
    where other images of the data set have shown it; without `labelled`, labels are not looked at, and a table needs no
    column of them.
    """

    image: str | None = None
    label: str | None = None
    several: bool = False
    labelled: bool = True
    separator: str | None = None


def choose_columns(
    schema: pa.Schema, images: Collection[str], labels: Collection[str], asked: Columns, where: str
) -> tuple[str, str]:
    """Names of the image and the label column.

    A column counts if its type fits: bytes, bytes beside a path, or text (paths of files) for images, a single value
    for labels. The usual names go first, in small or capital letters; then the only column that is declared as such;
    then the only one with bytes.

    Args:
        images, labels: columns that the table itself declares as images or class labels.

    Raises:
        DataError: there is no such column, or one that is asked for is not there.
        NoLabels: it is the column of labels that is missing.
    """
    image = asked.image or _find(schema, images, (*_IMAGES, *_PATHS), holds_bytes) or _only(schema, holds_bytes)
    image = image or _find(schema, (), (*_IMAGES, *_PATHS), _is_text)
    rest = [field for field in schema if field.name != image]
    if not asked.labelled and image is not None:
        asked = asked._replace(label=image)
    label = asked.label or _find(pa.schema(rest), labels, _LABELS, _holds_lists if asked.several else _is_single)
    for word, name in (("image", image), ("label", label)):
        missing = NoLabels if word == "label" else DataError
        if name is None:
            hint = _about_several(rest) if word == "label" and not asked.several else ""
            raise missing(_not_found(schema, word, where) + hint)
        if name not in schema.names:
            raise missing(f"{where} has no column '{name}'{did_you_mean(name, schema.names)}")
    assert image is not None
    assert label is not None
    kind = schema.field(schema.names.index(image)).type
    if not (holds_bytes(kind) or _is_text(kind)):
        raise DataError(
            f"{where}: the column '{image}' holds {kind}, and not images; its columns are {_listed(schema)}"
        )
    return image, label


def several_named(asked: Columns, header: Sequence[str]) -> tuple[str, ...]:
    """The columns of 0 and 1 that are asked for as `dog,cat`; () where one column or none is.

    Raises:
        DataError: one of them is not there, or named twice.
        NoLabels: none of them is there.
    """
    if asked.label is None or asked.label in header or "," not in asked.label:
        return ()
    names = tuple(name.strip() for name in asked.label.split(","))
    for name in names:
        if name not in header or names.count(name) > 1:
            what = (
                f"there is no column '{name}'{did_you_mean(name, header)}" if name not in header else f"'{name}' twice"
            )
            missing = DataError if any(one in header for one in names) else NoLabels
            raise missing(f":label={asked.label} names columns of 0 and 1: {what}")
    return names


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _not_found(schema: pa.Schema, word: str, where: str) -> str:
    return (
        f"{where} has no {word} column (its columns: {', '.join(schema.names)}); name it '{word}', or say behind the "
        f"source which one it is: data.source=…:{word}=NAME"
    )


def _about_several(fields: Sequence[pa.Field]) -> str:
    """What columns may be meant by somebody whose images have several classes; nothing where none looks like it."""
    if any(is_list(field.type) for field in fields):
        return "; a column of lists is read where images have several classes: data.labels=several"
    if sum(is_number(field.type) for field in fields) > 1:
        return "; columns of 0 and 1 are read where images have several classes: data.labels=several"
    return ""


def _find(
    schema: pa.Schema, declared: Collection[str], usual: Sequence[str], fits: Callable[[pa.DataType], bool]
) -> str | None:
    fitting = [field.name for field in schema if fits(field.type)]
    lower = {name.lower(): name for name in reversed(fitting)}
    named = next((lower[name] for name in usual if name in lower), None)
    declared = [name for name in declared if name in schema.names]
    return named or (next(iter(declared)) if len(declared) == 1 else None)


def _only(schema: pa.Schema, fits: Callable[[pa.DataType], bool]) -> str | None:
    fitting = [field.name for field in schema if fits(field.type)]
    return fitting[0] if len(fitting) == 1 else None


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column may hold encoded images: bytes, or bytes beside a path."""
    return _is_bytes(kind) or (pa.types.is_struct(kind) and any(_is_bytes(field.type) for field in kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds a list in each row."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether a column may hold 0 and 1 by its type."""
    return pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_single(kind: pa.DataType) -> bool:
    return not pa.types.is_nested(kind)


def _holds_lists(kind: pa.DataType) -> bool:
    """Whether a column may hold several labels in a row: a list, or a text in which they are separated."""
    return is_list(kind) or _is_text(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def split_columns(source: str) -> tuple[str, Columns]:
    """A source string without `:image=NAME` and `:label=NAME` behind it, and these names."""
    found: dict[str, str] = {}
    while (match := re.fullmatch(r"(.+):(image|label)=([^:]+)", source)) and match[2] not in found:
        source, found[match[2]] = match[1], match[3]
    return source, Columns(found.get("image"), found.get("label"))
