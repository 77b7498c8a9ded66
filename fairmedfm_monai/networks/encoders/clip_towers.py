"""What CLIP and the models made from it share: two towers with one embedding space, their names, and OpenAI's text."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairmedfm_monai.networks.checkpoint import load_checked, read_checkpoint
from fairmedfm_monai.networks.encoders.base import VisionLanguageEncoder
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.text import warn_cut
from fairmedfm_monai.networks.weights import State, WeightSource, resolve_weights, seeded, weights_kind

import open_clip  # isort: skip - after weights, which switches the hub's telemetry off
from open_clip.model import CustomTextCLIP, convert_to_custom_text_state_dict  # isort: skip

OPENAI_MEAN, OPENAI_STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
QUICK = "-quickgelu"
# Tensors of OpenAI's archives that are settings, not weights.
SETTINGS = ("input_resolution", "context_length", "vocab_size", "attn_mask")
# transformers' names of CLIP's parts and OpenAI's, applied in this order.
_HUB_NAMES = (
    ("self_attn.", "attn."),
    ("encoder.layers.", "transformer.resblocks."),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("pre_layrnorm", "ln_pre"),  # the hub's own spelling
    ("post_layernorm", "ln_post"),
    ("final_layer_norm", "ln_final"),
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("embeddings.patch_embedding", "conv1"),
    ("embeddings.token_embedding", "token_embedding"),
)
_HUB_PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
_HUB_TOWERS = {"vision_model.": "visual.", "text_model.": ""}
_HUB_ATTENTION = re.compile(r"(?P<layer>.*\.attn)\.(?P<part>[qkv])_proj\.(?P<kind>weight|bias)")


class CLIPTowers(VisionLanguageEncoder):
    """An image tower and a text tower that end in one embedding space.

    ``features`` is the projected image embedding as it is (what FairMedFM's linear probe reads), ``zero_shot`` the same
    scaled to unit length.

    Args:
        model: has ``visual``, ``text`` (numbers of tokens to embeddings) and ``logit_scale``, such as open_clip's
            ``CustomTextCLIP``.
        feature_dim: length D of both embeddings.
        input_spec: what the weights were trained with.
        state: weights by the names of ``model``; None leaves it as it is.
        origin: where ``state`` comes from, for messages.

    Raises:
        WeightsError: if ``state`` does not fit.
    """

    title = "CLIP"

    def __init__(
        self, model: Any, *, feature_dim: int, input_spec: InputSpec, state: State | None, origin: str | Path
    ) -> None:
        super().__init__(feature_dim=feature_dim, input_spec=input_spec)
        self.visual = model.visual
        self.text = model.text
        self.logit_scale = model.logit_scale
        if state is not None:
            load_checked(self, state, origin=str(origin))
        self.eval()

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, 3, S, S) normalised images to ``features`` (B, D) and ``zero_shot`` (B, D)."""
        if not torch.jit.is_scripting():
            self.check_image(image)
        features = self.visual(image)
        return {"features": features, "zero_shot": F.normalize(features, dim=-1)}

    @torch.jit.unused
    def encode_text(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encode N prompts to ``zero_shot`` (N, D). Prompts that are cut are counted in a warning.

        Raises:
            RuntimeError: after :meth:`release_text`.
        """
        if self.text is None:
            msg = "the text tower was released; build the encoder again to encode other prompts"
            raise RuntimeError(msg)
        numbers = self.token_numbers(texts).to(self.logit_scale.device)
        return {"zero_shot": F.normalize(self.text(numbers), dim=-1)}

    @torch.jit.unused
    def token_numbers(self, texts: Sequence[str]) -> Tensor:
        """Numbers of the tokens of N prompts, (N, L); OpenAI's byte pairs unless a subclass has others."""
        length = int(self.text.context_length)
        tokenizer = _byte_pairs(length)
        warn_cut(texts, [len(tokenizer.encode(text)) + 2 for text in texts], limit=length, model=self.title)
        return tokenizer(list(texts))

    @torch.jit.unused
    def logit_terms(self) -> tuple[Tensor, Tensor]:
        """Learnt scale of the weights, and no bias."""
        scale = self.logit_scale.detach().exp()
        return scale, torch.zeros_like(scale)

    @torch.jit.unused
    def release_text(self) -> None:
        """Drop the text tower: a third of the size of model.pt, and TorchScript needs it gone."""
        self.text = None


class FineTunedCLIP(CLIPTowers):
    """One of OpenAI's networks, trained further: same towers, QuickGELU and tokenizer, other weights.

    Args:
        geometry: open_clip's name of the network, without the activation, e.g. ``ViT-B-32``.
        input_spec: what the weights were trained with.
        weights: ``pretrained``, a path (names of OpenAI's code or of transformers' ``CLIPModel``), ``random`` or
            ``tiny``.
        source: where ``pretrained`` is found.
        seed: of ``random`` and ``tiny``.

    Raises:
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(
        self, geometry: str, input_spec: InputSpec, weights: str | Path, *, source: WeightSource, seed: int = 0
    ) -> None:
        path = resolve_weights(weights, source)
        config = geometry_config(geometry + QUICK)
        if weights_kind(weights) == "tiny":
            config = shrink(config)
        super().__init__(
            build_towers(config, seed=seed),
            feature_dim=config["embed_dim"],
            input_spec=input_spec,
            state=None if path is None else rename_fine_tuned(read_checkpoint(path)),
            origin=path or weights,
        )


def geometry_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of ``name``, as arguments of ``CustomTextCLIP``."""
    config = copy.deepcopy(open_clip.get_model_config(name))
    return {key: value for key, value in config.items() if key != "custom_text"}


def build_towers(config: dict[str, Any], *, seed: int) -> CustomTextCLIP:
    """open_clip's network of ``config``, initialised from ``seed``."""
    with seeded(seed):
        return CustomTextCLIP(**config)


def shrink(config: dict[str, Any]) -> dict[str, Any]:
    """The same kind of network with the same input, but narrow, shallow and with few tokens."""
    vision, text = dict(config["vision_cfg"]), dict(config["text_cfg"])
    if isinstance(vision["layers"], list):
        vision |= {"layers": [1, 1, 1, 1], "width": 16}
    else:
        vision |= {
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": vision["image_size"] // 4,
            "mlp_ratio": 2.0,
        }
    text |= {"width": 64, "heads": 2, "layers": 1}
    return {**config, "embed_dim": 64, "vision_cfg": vision, "text_cfg": text}


def rename_clip(state: State) -> State:
    """OpenAI's and open_clip's names to :class:`CLIPTowers`' (text tower under ``text.``), without settings."""
    weights = {name: tensor for name, tensor in state.items() if name.rsplit(".", 1)[-1] not in SETTINGS}
    return convert_to_custom_text_state_dict(weights)


def rename_fine_tuned(state: State) -> State:
    """As :func:`rename_clip`, of transformers' names too.

    Not for CLIP itself: transformers' names are the same for GELU and QuickGELU, and only of a model that has one
    activation is it known which the file was trained with.
    """
    return rename_clip(rename_hub_clip(state))


def rename_hub_clip(state: State) -> State:
    """Names of transformers' ``CLIPModel`` to OpenAI's; a state that has none of them stays as it is.

    Queries, keys and values become one matrix, the two projections are transposed, and the ``position_ids`` that old
    releases stored are dropped.
    """
    if not any(name.startswith(tuple(_HUB_TOWERS)) for name in state):
        return state
    renamed: State = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for original, tensor in state.items():
        if original.endswith("embeddings.position_ids"):
            continue
        if original in _HUB_PROJECTIONS:
            renamed[_HUB_PROJECTIONS[original]] = tensor.T
            continue
        name = _hub_name(original)
        if match := _HUB_ATTENTION.fullmatch(name):
            parts.setdefault(f"{match['layer']}.in_proj_{match['kind']}", {})[match["part"]] = tensor
        else:
            renamed[name] = tensor
    # Where a third is missing the tensor is too short, which loading then tells.
    joined = {name: torch.cat([own[part] for part in "qkv" if part in own]) for name, own in parts.items()}
    return renamed | joined


def _hub_name(name: str) -> str:
    """OpenAI's name of one tensor of ``CLIPModel``."""
    tower = next((tower for tower in _HUB_TOWERS if name.startswith(tower)), None)
    if tower is None:
        return name
    name = _HUB_TOWERS[tower] + name.removeprefix(tower)
    for old, new in _HUB_NAMES:
        name = name.replace(old, new)
    return name


@functools.cache
def _byte_pairs(context_length: int) -> open_clip.SimpleTokenizer:
    """CLIP's byte-pair tokenizer; outside the module, so that networks stay cheap to copy."""
    return open_clip.SimpleTokenizer(context_length=context_length)
