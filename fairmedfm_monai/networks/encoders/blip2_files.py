"""BLIP-2's published files and their names.

LAVIS' file of the first stage leaves the frozen image tower out, which lies in a file of its own; transformers' copy
holds both, but not the temperature.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch

from fairmedfm_monai.networks.checkpoint import read_checkpoint
from fairmedfm_monai.networks.encoders.timm_vit import rename_parts
from fairmedfm_monai.networks.weights import State, WeightSource, fetch_weights, find_weights

FIRST_TEMPERATURE = 0.07  # where the training began; transformers' copies do not hold the learnt one
_FILES = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
SOURCES = {
    "pretrain": WeightSource(
        names=("blip2_pretrained.pth", "blip2_itm.safetensors"),
        page="https://github.com/salesforce/LAVIS",
        url=_FILES + "blip2_pretrained.pth",
        repo="Salesforce/blip2-itm-vit-g",
        repo_files=("model.safetensors",),
    )
}
IMAGE_TOWER = WeightSource(
    names=("eva_vit_g.pth",), page="https://github.com/salesforce/LAVIS", url=_FILES + "eva_vit_g.pth"
)
_HUB_NAMES = (
    ("vision_model.embeddings.class_embedding", "visual.cls_token"),
    ("vision_model.embeddings.position_embedding", "visual.pos_embed"),
    ("vision_model.embeddings.patch_embedding", "visual.patch_embed.proj"),
    ("vision_model.post_layernorm", "visual.norm"),
    ("vision_model.encoder.layers.", "visual.blocks."),
    ("self_attn.projection", "attn.proj"),
    ("self_attn.qkv", "attn.qkv"),
    ("layer_norm", "norm"),
    ("vision_projection", "vision_proj"),
    ("text_projection", "text_proj"),
)
_NAMES = (
    ("visual_encoder.", "visual."),
    ("ln_vision.", "visual.norm."),
    ("Qformer.bert.embeddings.LayerNorm.", "qformer.layernorm."),
    ("Qformer.bert.embeddings.", "text."),
    ("Qformer.bert.", "qformer."),
    ("attention.self.", "attention.attention."),
)
_UNUSED = re.compile(r"Qformer\.cls\..*|Qformer\.bert\.embeddings\.position_ids")
_BIAS = re.compile(r"(?P<layer>visual\.blocks\.\d+\.attn)\.(?P<part>[qv])_bias")
_EVA_UNUSED = re.compile(r"blocks\.39\..*|(norm|head)\.(weight|bias)")


def read_blip2(path: Path) -> State:
    """Weights by :class:`BLIP2Encoder`'s names, with the image tower's from their own file where ``path`` has none.

    Raises:
        WeightsError: if a file cannot be had or read.
    """
    state = rename_blip2(read_checkpoint(path))
    if "text.word_embeddings.weight" in state and "visual.cls_token" not in state:
        beside = path.with_name(IMAGE_TOWER.names[0])
        tower = beside if beside.is_file() else find_weights(IMAGE_TOWER) or fetch_weights(IMAGE_TOWER)
        state |= rename_eva(read_checkpoint(tower))
    if "text.word_embeddings.weight" in state and "temp" not in state:
        warnings.warn(
            f"{path} does not hold the temperature that BLIP-2 learnt; {FIRST_TEMPERATURE}, where its training began, "
            "is taken: the order of zero-shot scores is right, their sharpness is not",
            stacklevel=3,
        )
        state["temp"] = torch.tensor(FIRST_TEMPERATURE)
    return state


def rename_blip2(state: State) -> State:
    """LAVIS' names, or those of transformers' ``Blip2ForImageTextRetrieval``, to :class:`BLIP2Encoder`'s.

    Dropped are the Q-Former's head for captions and its ``position_ids``. Biases of queries and values become that of
    the one layer, whose keys have none.
    """
    if any(name.startswith("vision_model.") for name in state):
        return {_hub_name(name): tensor for name, tensor in state.items()}
    named = {rename_parts(name, _NAMES): tensor for name, tensor in state.items() if not _UNUSED.fullmatch(name)}
    return _join_biases(named)


def rename_eva(state: State) -> State:
    """Names of EVA's image tower to :class:`BLIP2Encoder`'s, without its last block, normalisation and head."""
    return _join_biases({f"visual.{name}": tensor for name, tensor in state.items() if not _EVA_UNUSED.fullmatch(name)})


def _hub_name(name: str) -> str:
    """This module's name of one tensor of transformers' class."""
    if name.startswith("embeddings."):
        return f"text.{name.removeprefix('embeddings.')}"
    return name if name.startswith("qformer.") else rename_parts(name, _HUB_NAMES)


def _join_biases(state: State) -> State:
    """Biases of queries and values as the one bias of queries, keys and values."""
    joined: State = {}
    for name, tensor in state.items():
        found = _BIAS.fullmatch(name)
        if found is None:
            joined[name] = tensor
        elif found["part"] == "q":
            # Without the values' the tensor is too short, which loading then tells.
            parts = (tensor, torch.zeros_like(tensor), state.get(f"{found['layer']}.v_bias", tensor[:0]))
            joined[f"{found['layer']}.qkv.bias"] = torch.cat(parts)
    return joined
