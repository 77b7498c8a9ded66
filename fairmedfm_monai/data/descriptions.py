"""Keys of transforms and encoders that depend on their settings and weights alone."""

from __future__ import annotations

import enum
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

# State that changes with use, or says where and not what: random states, what a reader read last, tracing, the device.
_VOLATILE = frozenset({"R", "filenames", "has_series", "device", "_tracing"})
_AS_TEXT = (enum.Enum, os.PathLike, np.generic, np.dtype, torch.dtype, torch.device)
_CONTAINERS = (Mapping, list, tuple, set, frozenset, np.ndarray, torch.Tensor)


def describe_object(value: Any) -> Any:
    """What an object is, as JSON that is equal in every process for equal settings.

    Meant for transforms: class names and attributes, recursively; arrays by hash, functions by name and byte code.
    An object with a text attribute ``cache_key`` is described by it alone.
    """
    return _describe(value, ())


def _describe(value: Any, above: tuple[int, ...]) -> Any:
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return repr(value)
    if id(value) in above:
        return "(itself)"
    above = (*above, id(value))
    if isinstance(value, _CONTAINERS):
        return _describe_container(value, above)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if inspect.isroutine(value):
        return _describe_function(value, above)
    return _describe_instance(value, above)


def _describe_container(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        array = np.ascontiguousarray(value)
        return [array.dtype.str, list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return {str(key): _describe(value[key], above) for key in sorted(value, key=str)}
    items = [_describe(item, above) for item in value]
    return items if isinstance(value, (list, tuple)) else sorted(items, key=json.dumps)


def _describe_function(function: Callable[..., Any], above: tuple[int, ...]) -> Any:
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    code = getattr(function, "__code__", None)
    owner = getattr(function, "__self__", None)
    if code is None:
        return [name, None if inspect.ismodule(owner) else _describe(owner, above)]
    constants = [repr(constant) for constant in code.co_consts if not inspect.iscode(constant)]
    closure = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    defaults = getattr(function, "__defaults__", None)
    parts = _describe([closure, defaults, owner], above)
    return [name, code.co_code.hex(), constants, list(code.co_names), parts]


def _describe_instance(value: Any, above: tuple[int, ...]) -> Any:
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    key = getattr(value, "cache_key", None)
    if isinstance(key, str):
        return [name, key]
    if isinstance(value, _AS_TEXT):
        return [name, str(value)]
    if isinstance(value, (np.random.RandomState, np.random.Generator, torch.Generator)):
        return name
    state = getattr(value, "__dict__", None)
    if state:
        return [name, {key: _describe(state[key], above) for key in sorted(state) if key not in _VOLATILE}]
    try:
        return [name, _describe(value.__reduce_ex__(2)[1:3], above)]  # state that lives in C, e.g. of a partial
    except TypeError:
        return name


def encoder_key(encoder: torch.nn.Module) -> str:
    """SHA-256 over an encoder's structure, its ``cache_key`` where it has one, and every weight it holds now."""
    digest = hashlib.sha256(f"{type(encoder).__module__}.{encoder!r}".encode())
    digest.update(str(getattr(encoder, "cache_key", "")).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
