"""LoRA in a promptable segmenter: low-rank updates of query and value in every block of its image encoder (Zhang & Liu,
"Customized Segment Anything Model for Medical Image Segmentation", arXiv:2304.13785).
"""

from __future__ import annotations

from collections.abc import Sequence

import peft
from torch import nn

from fairmedfm_monai.usages.fused_qkv import split_qkv
from fairmedfm_monai.usages.lora import add_lora
from fairmedfm_monai.usages.segmenter_parts import whole_path


def add_segmenter_lora(
    network: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    target_modules: Sequence[str],
    trained: Sequence[str] = ("mask_decoder",),
    seed: int = 0,
) -> peft.PeftModel:
    """Put adapters on query and value of every block; they and some other parts are what trains.

    ``network`` is changed in place and keeps working as before, now with the adapters. Save it through ``MergedState``.

    Args:
        network: a promptable segmenter, or a `PromptFreeSegmenter` around one.
        rank: r of the update W + alpha / r * B A, one for queries and one for values.
        alpha: its scale.
        dropout: probability at the input of A.
        target_modules: last parts of module names inside the image encoder, from the catalog. Of a fused ``qkv`` layer
            queries and values are adapted, keys are not.
        trained: parts that train as a whole, of ``prompt_encoder`` and ``mask_decoder``.
        seed: of A (B starts at zero, so nothing changes before the first step).

    Raises:
        ValueError: as `add_lora`, or for a part that the network does not have.
    """
    encoder = whole_path(network, "image_encoder")
    return add_lora(
        network,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        target_modules=split_qkv(network.get_submodule(encoder), target_modules),
        encoder=encoder,
        trained=[whole_path(network, name) for name in trained],
        seed=seed,
    )
