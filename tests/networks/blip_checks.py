"""Seeded weights, images and token numbers that BLIP's and BLIP-2's official code and our tests share.

Nothing of the package is imported here, so that a recording runs beside the old libraries that official code needs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from tests.networks import parity

FAINT = 0.03
# Word pieces of two prompts between [CLS] and [SEP], the second padded: what a tokenizer would give.
NUMBERS = [[101, 1037, 3108, 1060, 1011, 4097, 2007, 27987, 102], [101, 7965, 21887, 102, 0, 0, 0, 0, 0]]
MASK = [[1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0, 0]]


def blip_state(shapes: Mapping[str, Iterable[int]], seed: int) -> dict[str, Tensor]:
    """Seeded weights by published names under which every part, and the eps of every normalisation, matters.

    With the plain rule tables and biases would be so small that a wrong one changed next to nothing. The image tower's
    tokens stay faint through all blocks, because eps is felt only beside a small variance.
    """
    state = parity.seeded_state(shapes, seed)
    for name, tensor in state.items():
        if re.search(r"visual_encoder.*(pos_embed|cls_token)$", name):
            tensor.mul_(FAINT * math.sqrt(math.prod(tensor.shape[1:])))
        elif re.search(r"visual_encoder.*(attn\.proj|mlp\.fc2)\.", name):
            tensor.mul_(FAINT)
        elif name == "query_tokens" or "position_embeddings" in name or "word_embeddings" in name:
            tensor.mul_(math.sqrt(math.prod(tensor.shape[1:])))
        elif re.search(r"[qv]_bias$|qkv\.bias$", name):
            tensor.mul_(20)
        elif name == "temp":
            tensor.copy_(torch.tensor(0.06))
    return state


def faint_images(seed: int, *, count: int = 2, size: int = 224) -> Tensor:
    """Normalised images (count, 3, size, size) around zero."""
    return parity.seeded_input((count, 3, size, size), seed, low=-2 * FAINT, high=2 * FAINT)
