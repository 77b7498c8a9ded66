"""Where the head of a classifier ends: the last linear layer and what it reads."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fairmedfm_monai.usages.slice_pooling import SlicePooling


def head_of(network: nn.Module) -> nn.Module:
    """The head of what trains: of a whole model (also with adapters, or wrapped for several processes) its ``head``."""
    whole = network.module if isinstance(network, DistributedDataParallel) else network
    base = getattr(whole, "get_base_model", None)
    if base is not None:
        whole = base()
    found = getattr(whole, "head", whole)
    if not isinstance(found, nn.Module):
        msg = f"`network` must be a head or have one under `head`, but {type(whole).__name__}.head is {type(found)}"
        raise TypeError(msg)
    return found


def last_linear(head: nn.Module) -> tuple[str, nn.Linear] | None:
    """Name inside ``head`` ("" = itself) and module of the linear layer that gives the logits of each case.

    None where logits are made otherwise: of prototypes by cosines, of volumes by choosing a slice.
    """
    if isinstance(head, nn.Linear):
        return "", head
    inner = ""
    if isinstance(head, SlicePooling) and head.mode != "max":
        inner = "classifier"
    elif isinstance(head, nn.Sequential) and len(head):
        inner = str(len(head) - 1)
    below = last_linear(head.get_submodule(inner)) if inner else None
    return None if below is None else (".".join(filter(None, (inner, below[0]))), below[1])
