"""Reading and writing YAML by rules close to YAML 1.2; a key may not be given twice.

PyYAML follows YAML 1.1: it reads `on` and `no` as booleans, `1e-3` as a string, `010` as eight and `2024-05-01` as a
date. Here `1e-3` and `010` are the numbers 0.001 and 10, and the others are strings.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from ..errors import RecipeError

_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?\d+(?:_\d+)*$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN))$"
)


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if isinstance(key, (dict, list)):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


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
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML; `where` names it in errors.

    Raises:
        RecipeError: no valid YAML, or a key that is given twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as `!!int x`
        raise RecipeError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error


def dump_yaml(content: Any) -> str:
    """YAML that `parse_yaml` and PyYAML read in the same way."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
