"""Read PyTorch files that pickle more than tensors, without ever running what they ask for.

Published checkpoints keep an argparse Namespace or a yacs node beside their weights, which `weights_only=True`
refuses. Here every global that is not needed to rebuild a tensor becomes an inert class: it can be called, filled
and used as a container, and does nothing. What a file costs is bounded as well: its pickle is read by Python's own
code, since the one in C reserves whatever memory a file names, and nothing in it may be larger than the file.
"""

import math
import pickle
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from ..errors import CheckpointError

# Most operations and bytes of a pickle, without the numbers of its tensors: some seconds, some hundred megabytes.
_MOST_READS = 1_500_000
_MOST_BYTES = 2**28


class _Rebuild:
    """A function that can be called but not changed: a pickle can set attributes on a plain function."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def _rebuilt(function: Callable[..., Any]) -> _Rebuild:
    """One of PyTorch's functions that make a tensor, which must lie inside of its storage."""

    def rebuild(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Any:
        has = storage.nbytes() // storage.dtype.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        numbers = math.prod(size)
        if min((0, offset, *size, *stride)) < 0 or (numbers and last >= has):
            raise pickle.UnpicklingError("a tensor is larger than what is stored of it")
        if numbers > max(has, 2**26):
            raise pickle.UnpicklingError("a tensor repeats what is stored of it too often")
        return function(storage, offset, size, stride, *rest)

    return _Rebuild(rebuild)


def _ordered(*args: Any) -> OrderedDict[Any, Any]:
    items = list(args[0].items() if args and isinstance(args[0], dict) else (args[0] if args else ()))
    for key, _ in items:
        _require_plain(key)
    return OrderedDict(items)


def _require_plain(key: Any) -> None:
    """Refuse keys whose hash takes for ever: tuples in tuples, and numbers made to collide."""
    for one in key if isinstance(key, tuple) else (key,):
        if isinstance(one, (tuple, frozenset)) or (isinstance(one, int) and abs(one) >= 2**60):
            raise pickle.UnpicklingError(f"a {type(one).__name__} is used as a name")


# Everything a state dict is made of. Storage classes are resolved by torch itself.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Rebuild(_ordered),
    ("torch._utils", "_rebuild_tensor"): _rebuilt(torch._utils._rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt(torch._utils._rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): _Rebuild(torch._utils._rebuild_parameter),
    # What else was set on a parameter or a tensor is left out.
    ("torch._utils", "_rebuild_parameter_with_state"): _Rebuild(
        lambda data, grad, hooks, state: torch._utils._rebuild_parameter(data, grad, OrderedDict())
    ),
    ("torch._tensor", "_rebuild_from_type_v2"): _Rebuild(lambda make, kind, values, state: make(*values)),
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
}


class _InertType(type):
    """Class of the stand-ins; a pickle cannot set attributes on them either."""

    def __setattr__(cls, name: str, value: Any) -> None:
        pass


class _Inert(metaclass=_InertType):
    """Stand-in for any global: accepts what the pickle machine does with it, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        return None

    __call__ = __setstate__ = __setitem__ = __setattr__ = append = extend = add = update = _ignore


class Unplain(_Inert):
    """Stand-in for a tensor that is not simply numbers in memory: sparse, quantised, of a subclass."""


class _Within:
    """A file of which an unpickler reads no more than there is, in no more steps than a checkpoint needs."""

    def __init__(self, file: Any) -> None:
        self.file, self.reads, self.bytes = file, 0, 0
        here = file.tell()
        self.left = file.seek(0, 2) - here
        file.seek(here)

    def read(self, size: int) -> bytes:
        self.reads, self.bytes = self.reads + 1, self.bytes + size
        if not 0 <= size <= self.left:
            raise pickle.UnpicklingError("it is cut off")
        if self.reads > _MOST_READS or self.bytes > _MOST_BYTES:
            raise pickle.UnpicklingError("its pickle is longer than that of any checkpoint")
        self.left -= size
        return bytes(self.file.read(size))

    def readline(self) -> bytes:
        line = bytes(self.file.readline(2**16))
        self.reads, self.bytes, self.left = self.reads + 1, self.bytes + len(line), self.left - len(line)
        if self.reads > _MOST_READS or not line.endswith(b"\n"):
            raise pickle.UnpicklingError("it has a line without an end")
        return line


_Python: Any = pickle._Unpickler  # type: ignore[attr-defined]


class InertUnpickler(_Python):
    """Unpickler that knows the globals of tensors, and puts an inert class in place of every other.

    Attributes:
        stored: bytes of each tensor's storage by name; None where they are not known, as in the format before 2020.
        most: bytes of all of them.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_Python.dispatch)
    stored: dict[str, int] | None = None
    most = 0

    def __init__(self, file: Any, **options: Any) -> None:
        self.seen: set[Any] = set()
        super().__init__(_Within(file), **options)

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is not None:
            return allowed
        return _InertType("Inert", (Unplain if name.startswith("_rebuild_") else _Inert,), {})

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, (dict, _Inert)):
            raise pickle.UnpicklingError("something other than a mapping was to be filled")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _require_plain(key)
            target[key] = value

    def load_additems(self) -> None:
        items = self.pop_mark()
        for item in items:
            _require_plain(item)
        if not isinstance(self.stack[-1], (set, _Inert)):
            raise pickle.UnpicklingError("something other than a set was to be filled")
        self.stack[-1].update(items)

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        for item in items:
            _require_plain(item)
        self.append(frozenset(items))

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, OrderedDict) and isinstance(state, dict):
            vars(target).update(state)  # a state dict's `_metadata`
        elif not isinstance(target, _Inert):
            raise pickle.UnpicklingError("something other than a mapping was to be altered")

    def load_binpersid(self) -> None:
        kind, *rest = self.stack[-1] if isinstance(self.stack[-1], tuple) else (None,)
        if kind in ("storage", b"storage"):
            storage, key, _, count = rest[:4]
            _require_plain(key)
            size = count * storage.dtype.itemsize
            if self.stored is not None and size > self.stored.get(f"data/{key}", 0):
                raise pickle.UnpicklingError(f"tensor data {key} is cut off")
            self.most -= 0 if key in self.seen else size
            self.seen.add(key)
            if size < 0 or self.most < 0:
                raise pickle.UnpicklingError("it names more numbers than it has")
        super().load_binpersid()

    for _code, _own in (
        (pickle.SETITEM, load_setitem), (pickle.SETITEMS, load_setitems), (pickle.DICT, load_dict),
        (pickle.ADDITEMS, load_additems), (pickle.FROZENSET, load_frozenset), (pickle.BUILD, load_build),
        (pickle.BINPERSID, load_binpersid),
        # As bytes: a bytearray is reserved before it is read.
        (pickle.BYTEARRAY8, _Python.load_binbytes8),
    ):  # fmt: skip
        dispatch[_code[0]] = _own


def _pickle_module(most: int, stored: dict[str, int] | None) -> Any:
    """What torch.load takes in place of `pickle`: these are the names it uses of it."""
    bounded = type("InertUnpickler", (InertUnpickler,), {"most": most, "stored": stored})

    def load(file: Any, **options: Any) -> Any:
        content = bounded(file, **options).load()
        for key in content if isinstance(content, (list, tuple)) else ():
            _require_plain(key)  # names of storages, which are looked up
        return content

    return SimpleNamespace(
        __name__="inert_pickle", Unpickler=bounded, load=load, UnpicklingError=pickle.UnpicklingError
    )


def load_inert(path: Path) -> Any:
    """Content of a PyTorch file on the CPU: tensors, containers and numbers, everything else as inert stand-ins.

    Raises:
        CheckpointError: if the file cannot be read, or is a program (TorchScript) or a format of before 2018 (tar).
    """
    stored = _records(path)
    module = _pickle_module(path.stat().st_size, stored)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that PyTorch no longer writes
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)
    except Exception as error:  # a broken pickle can fail in any way; none of them may end in a traceback
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"checkpoint {path} is no readable PyTorch file ({reason}): it is incomplete, or no checkpoint; get it "
            "again, or save model.state_dict() anew"
        ) from error


def _records(path: Path) -> dict[str, int] | None:
    """Sizes of what a zip file holds, by name; None for the older format. Other formats are refused."""
    # torch.load hands TorchScript to torch.jit.load, which runs it, and unpacks tar files to the disk.
    if tarfile.is_tarfile(path):
        raise CheckpointError(f"checkpoint {path} is a tar file of PyTorch 0.1: load and save it with PyTorch 1.x")
    with path.open("rb") as file:  # the test that torch.load makes, so that both agree on what is a zip file
        if file.read(4) != b"PK\x03\x04":
            return None
    try:
        # Its reader, too, so that both see the same records.
        reader = torch._C.PyTorchFileReader(str(path))
        names = reader.get_all_records()
        if hasattr(reader, "get_record_size"):
            sizes = {name: reader.get_record_size(name) for name in names}
        else:  # up to PyTorch 2.11
            sizes = _sizes_in_zip(path, names)
    except (RuntimeError, ValueError, IndexError, zipfile.BadZipFile) as error:  # names that are no text, large numbers
        raise CheckpointError(f"checkpoint {path} is no readable PyTorch file ({error}): get it again") from error
    if "constants.pkl" in sizes:
        raise CheckpointError(f"checkpoint {path} is a TorchScript program: save model.state_dict() instead")
    if sum(sizes.values()) > path.stat().st_size or sizes.get("data.pkl", 0) > _MOST_BYTES:
        raise CheckpointError(f"checkpoint {path} is compressed, as PyTorch never does: save model.state_dict() anew")
    return sizes


def _sizes_in_zip(path: Path, names: list[str]) -> dict[str, int]:
    """Sizes of records by Python's reader of zip files, which has to see the same ones.

    Raises:
        ValueError: it sees others.
    """
    sizes: dict[str, int] = {}
    with zipfile.ZipFile(path) as file:
        for one in file.infolist():
            name = one.filename.partition("/")[2]  # all lie in one folder
            sizes[name] = sizes.get(name, 0) + one.file_size
    if set(sizes) != set(names):
        raise ValueError("its contents are listed in two ways")
    return sizes
