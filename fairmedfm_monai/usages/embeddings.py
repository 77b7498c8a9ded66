"""What is done with the embeddings of segmenters whatever tensors they are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fairmedfm_monai.networks.segmenters.base import ImageEmbedding

OnCase = Callable[[int, ImageEmbedding], None]
"""Told the row of a case in the batch, and its embedding, right before that case is decoded."""


def tensors_of(embedding: ImageEmbedding) -> dict[str, Tensor]:
    """All tensors (B, ...) of an embedding by field, those of a sequence numbered."""
    found = {}
    for field in dataclasses.fields(embedding):
        value = getattr(embedding, field.name)
        if isinstance(value, Tensor):
            found[field.name] = value
        elif isinstance(value, (tuple, list)) and value and all(isinstance(item, Tensor) for item in value):
            found |= {f"{field.name}.{number}": item for number, item in enumerate(value)}
    return found


def with_tensors(embedding: ImageEmbedding, tensors: Mapping[str, Tensor]) -> ImageEmbedding:
    """An embedding with other tensors, named as by :func:`tensors_of`."""
    fields: dict[str, Tensor | tuple[Tensor, ...]] = {}
    for field in dataclasses.fields(embedding):
        several = [tensor for name, tensor in tensors.items() if name.startswith(f"{field.name}.")]
        if field.name in tensors:
            fields[field.name] = tensors[field.name]
        elif several:
            fields[field.name] = tuple(several)
    return dataclasses.replace(embedding, **fields)  # type: ignore[arg-type]


def pooled(embedding: ImageEmbedding) -> Tensor:
    """Mean over the positions (B, C) of everything that the decoder gets of the images, one level after the other."""
    return torch.cat([tensor.float().flatten(2).mean(2) for tensor in tensors_of(embedding).values()], dim=1)


def decode_cases(
    decode: Callable[[ImageEmbedding, Tensor], Tensor],
    embedding: ImageEmbedding,
    rows: Tensor,
    on_case: OnCase | None,
) -> Tensor:
    """Masks (R, ...) of R cases: in one call, or one case at a time where ``on_case`` wants to know which it is.

    Args:
        decode: gives the masks of an embedding and the rows (R,) of the batch that it belongs to.
        embedding: of these rows.
        rows: (R,).
        on_case: see :data:`OnCase`.
    """
    if on_case is None:
        return decode(embedding, rows)
    parts = []
    for place, row in enumerate(rows.tolist()):
        one = {name: tensor[place : place + 1] for name, tensor in tensors_of(embedding).items()}
        own = with_tensors(embedding, one)
        on_case(row, own)
        parts.append(decode(own, rows[place : place + 1]))
    return torch.cat(parts)
