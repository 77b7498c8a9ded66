"""LoRA on query and value of a fused ``qkv`` layer: taken apart for the training, put together for the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ADAPTED = ("q", "v")


class SplitQKV(nn.Module):
    """A fused linear layer as three: ``q``, ``k`` and ``v``; the output is the same, number by number.

    Args:
        fused: layer whose output holds queries, keys and values.
        rows: (3, n) which of its outputs are queries, keys and values.
    """

    def __init__(self, fused: nn.Linear, rows: Sequence[Tensor]) -> None:
        super().__init__()
        self.q, self.k, self.v = (_rows_of(fused, own) for own in rows)
        self.register_buffer("order", torch.cat(list(rows)).argsort().to(fused.weight.device), persistent=False)
        self.order: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., C) to queries, keys and values (..., 3 C) in the order of the fused layer."""
        return torch.cat([self.q(tokens), self.k(tokens), self.v(tokens)], dim=-1)[..., self.order]

    @torch.no_grad()
    def fuse(self) -> nn.Linear:
        """The one layer again."""
        layers = (self.q, self.k, self.v)
        weight = torch.cat(tuple(layer.weight for layer in layers))[self.order]
        fused = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device)
        fused.weight = nn.Parameter(weight, requires_grad=False)
        biases = tuple(layer.bias for layer in layers if layer.bias is not None)
        if biases:
            fused.bias = nn.Parameter(torch.cat(biases)[self.order], requires_grad=False)
        return fused


def _rows_of(fused: nn.Linear, rows: Tensor) -> nn.Linear:
    """A layer that gives some of the outputs of a fused one."""
    layer = nn.Linear(fused.in_features, len(rows), bias=fused.bias is not None)
    layer.weight = nn.Parameter(fused.weight.detach()[rows].clone(), requires_grad=fused.weight.requires_grad)
    if fused.bias is not None:
        layer.bias = nn.Parameter(fused.bias.detach()[rows].clone(), requires_grad=fused.bias.requires_grad)
    return layer


def split_qkv(network: nn.Module, targets: Sequence[str]) -> list[str]:
    """Take the fused layers among ``targets`` apart, in place; return the targets that then stand for q and v.

    Args:
        network: an image encoder.
        targets: last parts of module names, e.g. ``attn.qkv``, or ``q_proj`` and ``v_proj`` where they are apart.
    """
    found = []
    for target in targets:
        names = [name for name, _ in network.named_modules() if name == target or name.endswith(f".{target}")]
        if not target.endswith("qkv") or not names:
            found.append(target)
            continue
        for name in names:
            above, _, own = name.rpartition(".")
            parent = network.get_submodule(above)
            fused = parent.get_submodule(own)
            if isinstance(fused, nn.Linear):
                setattr(parent, own, SplitQKV(fused, qkv_rows(parent, fused)))
        found += [f"{target}.{name}" for name in ADAPTED]
    return found


def fuse_qkv(network: nn.Module) -> None:
    """Put every layer that `split_qkv` took apart together again, in place."""
    for name, module in list(network.named_modules()):
        if isinstance(module, SplitQKV):
            above, _, own = name.rpartition(".")
            setattr(network.get_submodule(above), own, module.fuse())


def qkv_rows(attention: nn.Module, fused: nn.Linear) -> list[Tensor]:
    """Which outputs of a fused layer are queries, keys and values.

    Mostly all queries come first, then all keys, then all values. timm's TinyViT (known by its ``key_dim`` and
    ``val_dim``) goes head by head instead: queries, keys and values of the first head, then of the second.
    """
    numbers = torch.arange(fused.out_features)
    if hasattr(attention, "key_dim") and hasattr(attention, "val_dim"):
        key, value = int(attention.key_dim), int(attention.val_dim)  # type: ignore[arg-type]
        heads = numbers.view(-1, 2 * key + value)
        return [heads[:, start:stop].flatten() for start, stop in ((0, key), (key, 2 * key), (2 * key, None))]
    return list(numbers.chunk(3))
