"""BLIP (Li et al., "BLIP: Bootstrapping Language-Image Pre-training", ICML 2022, arXiv:2201.12086).

The image tower is timm's ViT-B/16, whose names the published file has; the text tower is transformers'
``BlipTextModel`` with 12 heads (its default of 8 takes the same weights and gives other outputs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.checkpoint import load_checked, read_checkpoint
from fairmedfm_monai.networks.encoders.base import VisionLanguageEncoder
from fairmedfm_monai.networks.encoders.gloria_local import LocalEncoder
from fairmedfm_monai.networks.encoders.matching import CONTRASTIVE, MATCHING, MatchingHead, check_head, log_odds
from fairmedfm_monai.networks.encoders.timm_vit import VIT_BASE, build_vit
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.text import TokenizerSource, Tokens, find_tokenizer, tokenize
from fairmedfm_monai.networks.weights import State, WeightSource, resolve_weights, seeded, weights_kind

from transformers import BlipTextConfig  # isort: skip - after weights, see there
from transformers.models.blip.modeling_blip_text import BlipTextModel  # isort: skip

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SPEC = InputSpec(size=224, mean=MEAN, std=STD)
CONTEXT = 512  # positions of the text tower
MATCHING_CONTEXT = 35  # tokens that the official matching code cuts a text to
TOKENIZER = TokenizerSource(repo="google-bert/bert-base-uncased", folder="blip")
SOURCES = {
    "base": WeightSource(
        names=("model_base_capfilt_large.pth",),
        page="https://github.com/salesforce/BLIP",
        url="https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_base_capfilt_large.pth",
    )
}
# BERT's vocabulary and two tokens more, [DEC] and [ENC]; the latter begins a text that is read beside an image.
TEXT: Mapping[str, Any] = {"vocab_size": 30524, "num_attention_heads": 12, "bos_token_id": None, "eos_token_id": 102}
GEOMETRY: Mapping[str, Any] = {"vision": {**VIT_BASE, "patch_size": 16, "global_pool": ""}, "text": TEXT, "dim": 256}
TINY: Mapping[str, Any] = {
    "vision": {"embed_dim": 48, "depth": 2, "num_heads": 2, "patch_size": 56, "global_pool": ""},
    "text": {
        **TEXT,
        "vocab_size": 512,
        "hidden_size": 32,
        "encoder_hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "dim": 24,
}
# Of the pre-training alone: averaged copies, the queue of past batches, and the captioning network.
_UNUSED = ("visual_encoder_m.", "vision_proj_m.", "text_encoder_m.", "text_proj_m.", "text_decoder.")
_SETTINGS = ("image_queue", "text_queue", "queue_ptr", "text_encoder.embeddings.position_ids")


class BLIPEncoder(VisionLanguageEncoder):
    """BLIP's pre-trained base model (ViT-B/16 and BERT with cross-attention), before any fine-tuning.

    ``features`` is the class token of the image after the last normalisation, 768 numbers (what FairMedFM's linear
    probe reads), ``zero_shot`` its projection to 256, of unit length. Prompts are given to the tokenizer as they are,
    as FairMedFM does.

    Zero-shot classification compares embeddings (``contrastive``) or asks the matching head, which reads the text
    beside the image's tokens (``matching``); for the latter the encodings hold these tokens as ``local`` (B, 197, 768).

    Args:
        variant: ``base``, the only one.
        weights: ``pretrained``, a path (the authors' pre-training file), ``random`` or ``tiny``; these two take a
            stand-in tokenizer.
        head: ``contrastive`` or ``matching``, of zero-shot classification.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant or head.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = "BLIP"

    def __init__(
        self,
        variant: str = "base",
        weights: str | Path = "pretrained",
        *,
        head: str = CONTRASTIVE,
        seed: int = 0,
    ) -> None:
        path = resolve_weights(weights, self.source(variant))
        geometry = TINY if weights_kind(weights) == "tiny" else GEOMETRY
        config = BlipTextConfig(**geometry["text"])
        width, dim = geometry["vision"]["embed_dim"], geometry["dim"]
        super().__init__(feature_dim=width, input_spec=SPEC)
        self.head = check_head(head)
        with seeded(seed):
            self.visual = build_vit(geometry["vision"], SPEC.size)
            self.text = BlipTextModel(config, add_pooling_layer=False)
            self.vision_proj = nn.Linear(width, dim)
            self.text_proj = nn.Linear(config.hidden_size, dim)
            self.itm_head = nn.Linear(config.hidden_size, 2)
        # Learnt in pre-training and a constant since: a buffer, so that no usage trains it.
        self.register_buffer("temp", torch.tensor(0.07))
        self.temp: Tensor
        self._weights, self._words = str(weights), config.vocab_size
        if path is not None:
            load_checked(self, rename_blip(read_checkpoint(path)), origin=str(path))
        self.eval()

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return pick_variant(variant, SOURCES, "BLIP")

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, 3, 224, 224) normalised images to ``features`` (B, 768) and ``zero_shot`` (B, 256).

        With the matching head also ``local`` (B, 197, 768).
        """
        if not torch.jit.is_scripting():
            self.check_image(image)
        tokens = self.visual(image)
        features = tokens[:, 0]
        encoded = {"features": features, "zero_shot": F.normalize(self.vision_proj(features), dim=-1)}
        if self.head == "matching":
            encoded["local"] = tokens
        return encoded

    @torch.jit.unused
    def encode_text(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encode N prompts to ``zero_shot`` (N, 256). Prompts that are cut are counted in a warning.

        Raises:
            RuntimeError: after :meth:`release_text`.
            WeightsError: if BERT's vocabulary is neither here nor to be had.
        """
        self._need_text()
        return self.encode_tokens(self._tokens(texts, limit=CONTEXT))

    @torch.jit.unused
    def encode_tokens(self, tokens: Tokens) -> dict[str, Tensor]:
        """As :meth:`encode_text`, of tokenized prompts."""
        numbers, mask = (part.to(self.temp.device) for part in tokens)
        read = self.text(input_ids=numbers, attention_mask=mask).last_hidden_state
        return {"zero_shot": F.normalize(self.text_proj(read[:, 0]), dim=-1)}

    @torch.jit.unused
    @torch.no_grad()
    def local_parts(
        self, classes: Mapping[str, Sequence[str]], background: Sequence[str] = ()
    ) -> tuple[LocalEncoder, MatchingHead] | None:
        """What zero-shot classification with the matching head is made of; None with the contrastive one.

        Args:
            classes: class name -> prompts, each cut to 35 tokens as in the official code.
            background: not needed, because the head's odds are not relative to other texts.

        Returns:
            this encoder without its text tower, whose ``zero_shot`` then holds ``local``, and the head that reads it.

        Raises:
            RuntimeError: after :meth:`release_text`.
            WeightsError: if BERT's vocabulary is neither here nor to be had.
        """
        if self.head != MATCHING:
            return None
        self._need_text()
        prompts = [prompt for group in classes.values() for prompt in group]
        tokens = self._tokens(prompts, limit=MATCHING_CONTEXT, pad_to=MATCHING_CONTEXT)
        tokens.ids[:, 0] = self._words - 1  # [ENC] takes the place of [CLS], as in pre-training
        head = BLIPMatchingHead(tokens, [len(group) for group in classes.values()], self)
        self.release_text()
        return LocalEncoder(self), head

    @torch.jit.unused
    def logit_terms(self) -> tuple[Tensor, Tensor]:
        """One over the temperature of the weights, and no bias."""
        return 1 / self.temp, torch.zeros_like(self.temp)

    @torch.jit.unused
    def release_text(self) -> None:
        """Drop the text tower and the matching head, which need it: two thirds of the parameters."""
        self.text = self.text_proj = self.itm_head = None  # type: ignore[assignment]

    def _need_text(self) -> None:
        if self.text is None:
            msg = "the text tower was released; build the encoder again to encode other prompts"
            raise RuntimeError(msg)

    def _tokens(self, texts: Sequence[str], *, limit: int, pad_to: int | None = None) -> Tokens:
        tokenizer = find_tokenizer(TOKENIZER, self._weights, words=self._words)
        return tokenize(tokenizer, texts, limit=limit, model=self.title, pad_to=pad_to)


class BLIPMatchingHead(MatchingHead):
    """BLIP's text tower with cross-attention to the image's tokens, and its matching head.

    Args:
        tokens: P prompts that begin with [ENC], class by class.
        groups: number of prompts of each class.
        encoder: whose text tower and matching head it takes.
    """

    def __init__(self, tokens: Tokens, groups: Sequence[int], encoder: BLIPEncoder) -> None:
        super().__init__(tokens, groups, shape=tuple(encoder.visual.pos_embed.shape[1:]))
        self.text, self.itm_head = encoder.text, encoder.itm_head
        self.requires_grad_(False)

    def match(self, image_tokens: Tensor, tokens: Tokens) -> Tensor:
        """Logarithm of the odds that text i belongs to image i, (B,)."""
        read = self.text(input_ids=tokens.ids, attention_mask=tokens.mask, encoder_hidden_states=image_tokens)
        return log_odds(self.itm_head(read.last_hidden_state[:, 0]))


def rename_blip(state: State) -> State:
    """The authors' names to :class:`BLIPEncoder`'s, without what only pre-training needs; others stay as they are."""
    towers = {"visual_encoder": "visual", "text_encoder": "text"}
    renamed: State = {}
    for name, tensor in state.items():
        if name in _SETTINGS or name.startswith(_UNUSED):
            continue
        tower, dot, part = name.partition(".")
        renamed[towers.get(tower, tower) + dot + part] = tensor
    return renamed
