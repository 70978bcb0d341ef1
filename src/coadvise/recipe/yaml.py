"""Reading and writing YAML by rules close to YAML 1.2; a key may not be given twice.

PyYAML follows YAML 1.1: it reads `on` and `no` as booleans, `1e-3` as a string, `010` as eight and `2024-05-01` as a
date. Here `1e-3` and `010` are the numbers 0.001 and 10, and the others are strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError, one_line, shortened

_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?\d+(?:_\d+)*$", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN)", re.ASCII)
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN))$",
    re.ASCII,
)


# A recipe is a page of text; class maps of large data sets are the longest part of any: ImageNet-21k has 21,841
# classes. What is larger is refused before it costs more than a second or two, also where aliases make little text
# mean much.
_LONGEST = 2**19  # characters
_MOST = 30_000  # values, those that aliases repeat counted each time
_DEEPEST = 32  # values inside values
_DIGITS = 100
_NEVER = re.compile("[\0\ud800-\udfff]")  # letters that no name of a file can have
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


class _Problem(yaml.MarkedYAMLError):
    """Something that this reader refuses, and its place in the text."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)  # type: ignore[no-untyped-call]


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth, self._count = 0, 0
        self._measures: dict[yaml.Node, tuple[int, int]] = {}  # of composed nodes: values inside, and how deep they go

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event, before = self.peek_event(), self._count  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if node not in self._measures:
                raise _Problem(f"*{event.anchor} stands inside itself", event.start_mark)
            values, depth = self._measures[node]
            self._count += values
            self._check(self._depth + depth, event.start_mark)
            return node
        self._count += 1
        self._depth += 1
        self._check(self._depth, event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None:
            inside = [child for pair in node.value for child in (pair if isinstance(pair, tuple) else (pair,))]
            depth = 1 + max((self._measures[child][1] for child in inside if isinstance(child, yaml.Node)), default=0)
            self._measures[node] = self._count - before, depth
        return node

    def _check(self, depth: int, mark: Any) -> None:
        if depth > _DEEPEST:
            raise _Problem(f"more than {_DEEPEST} lists or mappings inside each other", mark)
        if self._count > _MOST:
            raise _Problem(f"more than {_MOST:,} values, counting what aliases repeat", mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _PLAIN:
            raise _Problem(f"{node.tag.replace('tag:yaml.org,2002:', '!!')} is no kind of value here", node.start_mark)
        return super().construct_object(node, deep)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _Problem("expected keys with values", node.start_mark)
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (dict, list)):
                raise _Problem("a key must be a word", key_node.start_mark)
            if key in seen:
                raise _Problem(f"'{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _scalar(pattern: re.Pattern[str], kind: str, read: Callable[[str], Any]) -> Callable[[_Loader, yaml.Node], Any]:
    """A constructor that refuses what does not have the form of its kind, as in `!!int x`."""

    def construct(loader: _Loader, node: yaml.Node) -> Any:
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        if not pattern.fullmatch(text):
            raise _Problem(f"'{shortened(text)}' is no {kind}", node.start_mark)
        if sum(letter.isdigit() for letter in text) > _DIGITS:
            raise _Problem(f"a number of more than {_DIGITS} digits", node.start_mark)
        return read(text)

    return construct


def _number(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _text(loader: _Loader, node: yaml.Node) -> str:
    text: str = loader.construct_scalar(node)  # type: ignore[arg-type, no-untyped-call]
    if found := _NEVER.search(text):
        raise _Problem(f"a text with the character U+{ord(found[0]):04X}", node.start_mark)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes strings that `parse_yaml` or PyYAML would read as something else."""


_REPLACED = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
    _class.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_constructor("tag:yaml.org,2002:bool", _scalar(_BOOL, "switch", lambda text: text.lower() == "true"))
_Loader.add_constructor("tag:yaml.org,2002:int", _scalar(_INT, "whole number", int))
_Loader.add_constructor("tag:yaml.org,2002:float", _scalar(_NUMBER, "number", _number))
_Loader.add_constructor("tag:yaml.org,2002:str", _text)


def read_text(path: Path) -> str:
    """The text of a YAML file, of which no more is read than a recipe may have.

    Raises:
        RecipeError: a file that cannot be read, or that is no text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(4 * _LONGEST + 4)
        if len(content) > 4 * _LONGEST:  # in UTF-8 a character takes four bytes at most
            raise RecipeError(f"{path} is no recipe: it has more than {_LONGEST:,} characters")
        return content.decode("utf-8")
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is no recipe: it is no text in UTF-8, from byte {error.start + 1} on") from error


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML; `where` names it in errors.

    Raises:
        RecipeError: no valid YAML, a key that is given twice, or more text, values or depth than any recipe has.
    """
    if len(text) > _LONGEST:
        raise RecipeError(f"{where} is no recipe: it has more than {_LONGEST:,} characters")
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()  # type: ignore[no-untyped-call]
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not valid YAML: {_said(error)}") from error


def _said(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the lines that PyYAML quotes."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return one_line(error).removesuffix(' in "<unicode string>"')
    said = " ".join(filter(None, (error.context, error.problem)))
    mark = error.problem_mark or error.context_mark
    place = f", in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    begun = error.context_mark  # where a key without a colon stands, or a bracket that nothing closes
    if mark is not None and begun is not None and begun.line != mark.line:
        place = f", from line {begun.line + 1} to line {mark.line + 1}"
    return shortened(said, 200) + place


def dump_yaml(content: Any) -> str:
    """YAML that `parse_yaml` and PyYAML read in the same way."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def flow_yaml(value: Any) -> str:
    """A value on one line: `{patch_size: 8, depth: 6}`."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=2**30
    )
    return text.removesuffix("\n").removesuffix("\n...")
