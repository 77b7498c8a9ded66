"""Reading and checking weight files. Weights are data from strangers: nothing here executes what a file holds."""

from __future__ import annotations

import argparse
import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.jit_archive import is_jit_archive, read_jit_archive

State = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)

# Where published files keep their weights, in the order they are looked for.
CONTAINERS = ("state_dict", "model_state_dict", "model", "teacher")
# Harmless types that training scripts leave beside the weights (their command-line options).
ALLOWED = (argparse.Namespace,)
SHOWN = 5


class WeightsError(RuntimeError):
    """A weight file is missing, damaged, unsafe or of another model."""


def check_digest(path: Path, expected: str | None) -> None:
    """Compare the SHA-256 of ``path`` with ``expected``, whole or its first digits (None = not known: no check).

    Raises:
        WeightsError: if they differ.
    """
    if expected is None:
        return
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    if not actual.startswith(expected):
        msg = (
            f"{path} is not the published file: SHA-256 {actual}, expected {expected}. Delete it and fetch it again; "
            "to use it nevertheless, give `weights` its path"
        )
        raise WeightsError(msg)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def read_checkpoint(path: Path) -> State:
    """Read name -> tensor (on the CPU, in the file's own precision) from a weight file.

    ``.safetensors``; files of ``torch.save`` (through ``weights_only=True`` and a short allow-list); TorchScript
    archives, whose code is not run. Containers (``state_dict``, ``model_state_dict``, ``model``, ``teacher``) and a
    common prefix ``module.`` are taken off.

    Raises:
        WeightsError: if the file is damaged, holds objects that would have to be executed, or no weights.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if is_jit_archive(path):
            return read_jit_archive(path)
        with torch.serialization.safe_globals(list(ALLOWED)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = (
            f"{path} cannot be read as plain weights: {str(error).splitlines()[0]} A file that needs code to be run is "
            "refused; convert it to .safetensors where you trust it"
        )
        raise WeightsError(msg) from error
    except Exception as error:
        msg = f"{path} cannot be read ({type(error).__name__}: {error}); it may be damaged: fetch it again"
        raise WeightsError(msg) from error
    return _unwrap(content, path)


def _unwrap(content: object, path: Path) -> State:
    """Take containers and a data-parallel prefix off."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if isinstance(content, Mapping):
        state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if state and all(name.startswith("module.") for name in state):
            state = {name.removeprefix("module."): value for name, value in state.items()}
        if state:
            return state
    msg = f"{path} holds no weights: expected a mapping of names to tensors, found {type(content).__name__}"
    raise WeightsError(msg)


def load_checked(module: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Load ``state`` into ``module`` if every name and shape agrees; values are cast to the module's precision.

    Raises:
        WeightsError: with the counts of matched, missing, unexpected and misshapen names, and the first of each.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    missing = [f"{name} {shape}" for name, shape in wanted.items() if name not in given]
    unexpected = [f"{name} {shape}" for name, shape in given.items() if name not in wanted]
    shared = [name for name in wanted if name in given]
    misshapen = [f"{name} is {given[name]}, not {wanted[name]}" for name in shared if given[name] != wanted[name]]
    if missing or unexpected or misshapen:
        counts = (
            f"{len(shared) - len(misshapen)} of {len(wanted)} tensors match, {len(missing)} missing, "
            f"{len(unexpected)} unexpected, {len(misshapen)} of another shape"
        )
        listed = (("missing", missing), ("unexpected", unexpected), ("other shape", misshapen))
        first = "; ".join(f"{title}: {_first(names)}" for title, names in listed if names)
        msg = f"{origin} is a checkpoint of another model than {type(module).__name__}: {counts}. {first}"
        raise WeightsError(msg)
    module.load_state_dict(dict(state))


def _first(names: Iterable[str]) -> str:
    names = list(names)
    rest = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def strict_keys(module: Module) -> Module:
    """Make ``module.load_state_dict`` refuse missing and unexpected names even with ``strict=False``; return it.

    MONAI Label loads bundles non-strictly, and a half-filled network answers without a sign of it.
    """
    module.register_load_state_dict_post_hook(_refuse)
    return module


def _refuse(module: nn.Module, incompatible: Any) -> None:
    """Post-hook of :func:`strict_keys`; a plain function, so that deepcopy, pickle and TorchScript survive it."""
    missing, unexpected = incompatible.missing_keys, incompatible.unexpected_keys
    if missing or unexpected:
        parts = (("missing", missing), ("unexpected", unexpected))
        listed = "; ".join(f"{len(names)} {title}: {_first(names)}" for title, names in parts if names)
        msg = f"the state_dict is of another model than {type(module).__name__}: {listed}"
        raise WeightsError(msg)
