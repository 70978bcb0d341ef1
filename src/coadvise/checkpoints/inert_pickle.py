"""Read PyTorch files that pickle more than tensors, without ever running what they ask for.

Published checkpoints keep an argparse Namespace or a yacs node beside their weights, which `weights_only=True`
refuses. Here every global that is not needed to rebuild a tensor becomes an inert class: it can be called, filled
and used as a container, and does nothing.
"""

import pickle
import tarfile
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ..errors import CheckpointError


class _Rebuild:
    """A function that can be called but not changed: a pickle can set attributes on a plain function."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function was to be altered")


# Everything a state dict is made of. Storage classes are resolved by torch itself.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _Rebuild(torch._utils._rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(torch._utils._rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): _Rebuild(torch._utils._rebuild_parameter),
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


class InertUnpickler(pickle.Unpickler):
    """Unpickler that knows the globals of tensors, and puts an inert class in place of every other."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        return _InertType("Inert", (_Inert,), {}) if allowed is None else allowed


# torch.load takes "a module like pickle": these are the names it uses of it.
_PICKLE_MODULE: Any = SimpleNamespace(
    __name__="inert_pickle",
    Unpickler=InertUnpickler,
    load=lambda file, **options: InertUnpickler(file, **options).load(),
    UnpicklingError=pickle.UnpicklingError,
)


def load_inert(path: Path) -> Any:
    """Content of a PyTorch file on the CPU: as `weights_only=True` reads it, otherwise with inert stand-ins.

    Raises:
        CheckpointError: if the file cannot be read, or is a program (TorchScript) or a format of before 2018 (tar).
    """
    _refuse_other_formats(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: the second reader handles them
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a refused global and a broken file cannot be told apart here; the next reader tells
        pass
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_PICKLE_MODULE)
    except Exception as error:  # a broken pickle can fail in any way; none of them may end in a traceback
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"checkpoint {path} is no readable PyTorch file ({reason}): it is incomplete, or no checkpoint; get it "
            "again, or save model.state_dict() anew"
        ) from error


def _refuse_other_formats(path: Path) -> None:
    # torch.load hands TorchScript to torch.jit.load, which runs it, and unpacks tar files to the disk.
    if tarfile.is_tarfile(path):
        raise CheckpointError(f"checkpoint {path} is a tar file of PyTorch 0.1: load and save it with PyTorch 1.x")
    with path.open("rb") as file:  # the test that torch.load makes, so that both agree on what is a zip file
        if file.read(4) != b"PK\x03\x04":
            return
    try:
        # Its reader, too, so that both see the same records.
        records = torch._C.PyTorchFileReader(str(path)).get_all_records()
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {path} is no readable PyTorch file ({error}): get it again") from error
    if "constants.pkl" in records:
        raise CheckpointError(f"checkpoint {path} is a TorchScript program: save model.state_dict() instead")
