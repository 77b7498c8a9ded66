"""Layer-wise learning-rate decay: the deeper a layer lies below the head, the less it learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def layer_decay_groups(
    network: nn.Module,
    *,
    image_shape: Sequence[int],
    learning_rate: float,
    decay: float,
    weight_decay: float = 0.0,
    encoder: str = "encoder",
) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer whose learning rate is ``learning_rate * decay ** (L + 1 - layer)``.

    Layer L + 1 is the head, 1 to L the encoder's L blocks in the order in which an image passes them, 0 what comes
    before the first; what lies between two blocks, or behind the last, belongs to the block before it (Clark et al.,
    ELECTRA, ICLR 2020; Bao et al., BEiT, ICLR 2022; as timm counts). Vectors and scalars (biases, norms) take no
    weight decay.

    Args:
        network: a classifier; its trainable parameters are grouped.
        image_shape: (B, C, H, W[, N]) of images to find the order of the layers with.
        learning_rate: of the head.
        decay: factor from one layer to the one below; 1 = the same rate everywhere.
        weight_decay: of matrices.
        encoder: name of the module that has the blocks.

    Raises:
        ValueError: a decay outside (0, 1].
    """
    if not 0 < decay <= 1:
        msg = f"`decay` must be in (0, 1], but got {decay}"
        raise ValueError(msg)
    layers = layer_numbers(network, image_shape, encoder=encoder)
    top = max(layers.values())
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if name not in layers or not parameter.requires_grad:
            continue
        flat = parameter.ndim <= 1
        group = {
            "params": [],
            "lr": learning_rate * decay ** (top - layers[name]),
            "weight_decay": 0.0 if flat else weight_decay,
        }
        groups.setdefault((layers[name], flat), group)["params"].append(parameter)
    return list(groups.values())


def layer_numbers(network: nn.Module, image_shape: Sequence[int], *, encoder: str = "encoder") -> dict[str, int]:
    """Layer of every parameter that the output depends on, by name; see :func:`layer_decay_groups`."""
    depths = parameter_depths(network, image_shape)
    owners = {
        f"{encoder}.{name}.{parameter}": f"{encoder}.{name}"
        for name, block in blocks(network.get_submodule(encoder)).items()
        for parameter, _ in block.named_parameters()
    }
    # A block lies where an image enters it: at the greatest distance of its parameters from the output.
    entry: dict[str, int] = {}
    for name, owner in owners.items():
        if name in depths:
            entry[owner] = max(entry.get(owner, 0), depths[name])
    ordered = sorted(entry, key=lambda owner: -entry[owner])
    number = {owner: index for index, owner in enumerate(ordered, start=1)}
    found = {}
    for name, depth in depths.items():
        if not name.startswith(f"{encoder}."):
            found[name] = len(ordered) + 1
        elif name in owners:
            found[name] = number[owners[name]]
        else:
            found[name] = sum(entry[owner] > depth for owner in ordered)
    return found


def blocks(encoder: nn.Module) -> dict[str, nn.Module]:
    """The innermost repeated parts of an encoder by name: transformer blocks, residual blocks.

    These are the composite members of ``nn.ModuleList`` and ``nn.Sequential`` that hold no such members themselves.
    """
    found: dict[str, nn.Module] = {}
    for name, module in encoder.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            members = {f"{name}.{part}".lstrip("."): child for part, child in module.named_children()}
            found |= {path: child for path, child in members.items() if _is_composite(child)}
    return {path: module for path, module in found.items() if not any(other.startswith(f"{path}.") for other in found)}


def _is_composite(module: nn.Module) -> bool:
    """Whether it is made of parts and computes something itself; containers and attention as one layer do not count."""
    containers = (nn.ModuleList, nn.Sequential, nn.ModuleDict, nn.MultiheadAttention)
    return not isinstance(module, containers) and any(True for _ in module.children())


def parameter_depths(network: nn.Module, image_shape: Sequence[int]) -> dict[str, int]:
    """How far each parameter lies from the output: the longest way, in operations; unused ones are left out.

    Read off the graph of one forward pass in evaluation mode, so that it holds for networks of any kind and names; the
    random state and modes stay as they were.
    """
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        output = network(torch.zeros(tuple(image_shape), device=device))
    network.train(training)
    depths = _longest_ways(output)
    return {name: depths[id(parameter)] for name, parameter in network.named_parameters() if id(parameter) in depths}


def _longest_ways(output: Tensor) -> dict[int, int]:
    """Longest way from the output to each leaf of the graph, by ``id`` of the leaf."""
    root = output.grad_fn
    if root is None:
        return {}
    waiting = {root: 0}  # node -> ways into it that were not yet gone
    stack = [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                if node not in waiting:
                    waiting[node] = 0
                    stack.append(node)
                waiting[node] += 1
    way, ready = {root: 0}, [root]
    while ready:
        current = ready.pop()
        for node, _ in current.next_functions:
            if node is not None:
                way[node] = max(way.get(node, 0), way[current] + 1)
                waiting[node] -= 1
                if not waiting[node]:
                    ready.append(node)
    return {id(node.variable): length for node, length in way.items() if hasattr(node, "variable")}
