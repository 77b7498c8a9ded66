"""Reading and checking weight files. Weights are data from strangers: nothing here executes what a file holds.

The one exception is a file that its user names by its SHA-256 in ``FAIRMEDFM_UNSAFE_PICKLE``.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.integrity import WeightsError, check_digest, check_whole, sha256_of
from fairmedfm_monai.networks.jit_archive import is_jit_archive, read_jit_archive

__all__ = ["State", "WeightsError", "check_digest", "load_checked", "read_checkpoint", "strict_keys"]

State = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)

# Where published files keep their weights, in the order they are looked for.
CONTAINERS = ("state_dict", "model_state_dict", "model", "teacher")
# Harmless types that training scripts leave beside the weights (their command-line options).
ALLOWED = (argparse.Namespace,)
# What stand-ins hold: types without behaviour of their own, which a safe load refuses by name all the same.
_PLAIN = (dict, list, str, int, float, bool)
# SHA-256 of files that may be read without restriction, separated by commas.
UNSAFE = "FAIRMEDFM_UNSAFE_PICKLE"
# What torch and the reader of TorchScript archives say in their own words; torch's advice around it is to switch the
# check off.
_GLOBAL = re.compile(r"GLOBAL (\S+)|archive asks for (\S+),")
_DETAIL = re.compile(r"(?:WeightsUnpickler error: )?([^\n]+?)\.?\s*Check the documentation")
SHOWN = 5


def read_checkpoint(path: Path, *, inert: Sequence[str] = ()) -> State:
    """Read name -> tensor (on the CPU, in the file's own precision) from a weight file.

    ``.safetensors``; files of ``torch.save`` (through ``weights_only=True`` and a short allow-list; archives are mapped
    into memory); TorchScript archives, whose code is not run. Containers (``state_dict``, ``model_state_dict``,
    ``model``, ``teacher``) and a common prefix ``module.`` are taken off.

    A file of ``torch.save`` that asks for other objects is read with Python's own pickle, which runs what the file
    says, if the environment variable ``FAIRMEDFM_UNSAFE_PICKLE`` holds its SHA-256. A warning then says so.

    Args:
        path: the file.
        inert: dotted names of classes whose objects a training left beside the weights. Empty stand-ins take their
            place: nothing of those classes is imported or run. ``collections.defaultdict`` goes with them.

    Raises:
        WeightsError: if the file is damaged, holds objects that would have to be executed, or no weights.
    """
    try:
        check_whole(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if is_jit_archive(path):
            return read_jit_archive(path)
        content = _load(path, inert)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:  # of a TorchScript archive
        raise WeightsError(_refusal(path, error)) from error
    except Exception as error:
        msg = f"{path} cannot be read ({type(error).__name__}: {error}); it may be damaged: fetch it again"
        raise WeightsError(msg) from error
    return _unwrap(content, path)


class _Discarded:
    """Stands in for an object that training left beside the weights: made and thrown away, never run."""

    def __setstate__(self, state: Any) -> None:
        """Keep nothing."""


def _plain_dict(*_: object) -> dict[object, object]:
    """Stands in for ``defaultdict``, which a safe load cannot fill."""
    return {}


def _load(path: Path, inert: Sequence[str]) -> object:
    """Content of a file of ``torch.save``: safely, or without restriction where the user named this very file."""
    stand_ins: list[Any] = [(_Discarded, name) for name in inert]
    if inert:
        stand_ins += [(_plain_dict, "collections.defaultdict"), *_PLAIN]
    try:
        with torch.serialization.safe_globals([*ALLOWED, *stand_ins]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_can_map(path))
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:  # one handle for both, so that what is loaded is what was compared
            digest = sha256_of(file)
            if digest not in os.environ.get(UNSAFE, "").lower().replace(" ", "").split(","):
                raise WeightsError(_refusal(path, error, digest=digest)) from error
            warnings.warn(f"{path} is read by Python's pickle, which runs its code: {UNSAFE} names it", stacklevel=2)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=False)


def _can_map(path: Path) -> bool:
    """Whether the file can be mapped into memory: an archive whose members are not compressed."""
    # Elsewhere a mapped file cannot be deleted, as is done with files that were taken out of another archive.
    if os.name != "posix" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


def _refusal(path: Path, error: pickle.UnpicklingError, *, digest: str | None = None) -> str:
    """Why a file is not read, and what its user can do; ``digest`` of a file that could be read without restriction."""
    found, detail = _GLOBAL.search(str(error)), _DETAIL.search(str(error))
    asked = next(filter(None, found.groups())) if found else ""
    reason = detail[1].strip() if detail else "it is no file of torch.save"
    if asked:
        reason = f"it asks for {asked}, which is not on the allow-list"
    msg = (
        f"{path} cannot be read as plain weights: {reason}. A file that needs code to be run is refused: "
        "look for the same weights as .safetensors"
    )
    if digest is None:
        return msg
    given = os.environ.get(UNSAFE)
    other = f" (it holds {given!r}, which is not this file's)" if given else ""
    return (
        f"{msg}. Only if you trust its makers and its SHA-256 is the one they state, set the environment variable "
        f"{UNSAFE}={digest}{other}: this one file is then read by Python's pickle, which runs whatever code it holds"
    )


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
