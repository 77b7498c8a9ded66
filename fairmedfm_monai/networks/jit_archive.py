"""Reading the tensors of a TorchScript archive (OpenAI's CLIP files) without running its code.

Such a file is a zip: ``data.pkl`` holds the tree of modules, ``data/<key>`` the bytes of the tensors, ``code/`` the
program. ``torch.jit.load`` compiles the program and ``torch.load(weights_only=True)`` refuses the file; here the tree
is unpickled with an allow-list under which a module of the archive is a bare record of its attributes.
"""

from __future__ import annotations

import collections
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

_DTYPES = {
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
}


class _Record:
    """Stands for any class that the archive defines: keeps the attributes, has no behaviour."""

    def __init__(self, *args: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    return torch.as_strided(storage, size, stride, offset).clone()


def _restore_list(values: list[object], *_: object) -> list[object]:
    return values


class _Unpickler(pickle.Unpickler):
    """Unpickles the module tree; everything but tensors, containers and the archive's own classes is refused."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Record
        if module in {"torch._utils", "torch.jit._pickle"}:
            known = {"_rebuild_tensor_v2": _rebuild_tensor, "restore_type_tag": _restore_list}
            if name in known:
                return known[name]
            if name.startswith("build_") and name.endswith("list"):
                return _restore_list
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        msg = f"the archive asks for {module}.{name}, which is not on the allow-list."
        raise pickle.UnpicklingError(msg)

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, _ = pid
        data = self._archive.read(f"{self._folder}/data/{key}")
        return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def is_jit_archive(path: Path) -> bool:
    """Whether ``path`` is a zip with TorchScript's ``constants.pkl`` (files of ``torch.save`` have none)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())


def read_jit_archive(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of a TorchScript archive by their dotted names.

    Tensors that are attributes without being parameters are included too; tell them apart by name.

    Raises:
        pickle.UnpicklingError: if the archive asks for anything that is not on the allow-list.
    """
    with zipfile.ZipFile(path) as archive:
        tree = next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        with archive.open(tree) as file:
            root = _Unpickler(file, archive, tree.rsplit("/", 1)[0]).load()
    return dict(_tensors(root, ""))


def _tensors(value: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, _Record):
        for name, attribute in value.attributes.items():
            yield from _tensors(attribute, f"{prefix}.{name}" if prefix else name)
