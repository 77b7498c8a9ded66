"""BLIP-2, first stage (Li et al., "BLIP-2: Bootstrapping Language-Image Pre-training", ICML 2023, arXiv:2301.12597).

A frozen ViT-g of EVA (Fang et al., CVPR 2023), as timm's vision transformer, and the Q-Former, as transformers'
``Blip2QFormerModel``: 32 learnt queries that read the image through cross-attention and share BERT's self-attention
with texts. The published file leaves the frozen image tower out, which lies in a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.checkpoint import load_checked
from fairmedfm_monai.networks.encoders.base import VisionLanguageEncoder
from fairmedfm_monai.networks.encoders.blip import CONTEXT, SPEC
from fairmedfm_monai.networks.encoders.blip2_files import FIRST_TEMPERATURE, SOURCES, read_blip2
from fairmedfm_monai.networks.encoders.gloria_local import LocalEncoder
from fairmedfm_monai.networks.encoders.matching import (
    CONTRASTIVE,
    MATCHING,
    BestQueryHead,
    MatchingHead,
    best_query,
    check_head,
    log_odds,
)
from fairmedfm_monai.networks.encoders.timm_vit import build_vit
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.text import TokenizerSource, Tokens, find_tokenizer, tokenize
from fairmedfm_monai.networks.weights import WeightSource, resolve_weights, seeded, weights_kind

from transformers import Blip2QFormerConfig, Blip2QFormerModel  # isort: skip - after weights, see there
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings  # isort: skip

MATCHING_CONTEXT = 32  # tokens that the official code cuts a text to
TOKENIZER = TokenizerSource(repo="google-bert/bert-base-uncased", folder="blip2")
# The last of EVA's forty blocks is not used.
VISION: Mapping[str, Any] = {
    "embed_dim": 1408,
    "depth": 39,
    "num_heads": 16,
    "mlp_ratio": 6144 / 1408,
    "patch_size": 14,
    "global_pool": "",
}
# BERT's vocabulary and one token more.
FORMER: Mapping[str, Any] = {"vocab_size": 30523, "encoder_hidden_size": 1408, "use_qformer_text_input": True}
GEOMETRY: Mapping[str, Any] = {"vision": VISION, "former": FORMER, "queries": 32, "dim": 256}
TINY: Mapping[str, Any] = {
    "vision": {"embed_dim": 48, "depth": 2, "num_heads": 2, "patch_size": 56, "global_pool": ""},
    "former": {
        **FORMER,
        "vocab_size": 512,
        "hidden_size": 32,
        "encoder_hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "queries": 4,
    "dim": 24,
}


class BLIP2Encoder(VisionLanguageEncoder):
    """BLIP-2's image tower and Q-Former after the first stage of training, without any language model.

    ``features`` is the Q-Former's output for its first query, 768 numbers (what FairMedFM's linear probe reads).

    Zero-shot classification compares a text with the query nearest to it (``contrastive``; ``local`` (B, 32, 256) holds
    the queries' embeddings, of unit length) or asks the matching head, which reads the text beside the image's tokens
    (``matching``; ``local`` (B, 257, 1408) holds these). ``zero_shot`` (B, 256), the normalised mean of the queries'
    embeddings, is for usages that take one embedding of an image; BLIP-2 itself has none. 4.7 GB in single precision.

    Args:
        variant: ``pretrain``, the only one.
        weights: ``pretrained``; a path (LAVIS' file, beside which or in the weights' folder ``eva_vit_g.pth`` must lie;
            or transformers' copy, which lacks the temperature, so that 0.07 is taken); ``random`` or ``tiny``.
        head: ``contrastive`` or ``matching``, of zero-shot classification.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant or head.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = "BLIP-2"

    def __init__(
        self,
        variant: str = "pretrain",
        weights: str | Path = "pretrained",
        *,
        head: str = CONTRASTIVE,
        seed: int = 0,
    ) -> None:
        path = resolve_weights(weights, self.source(variant))
        state = None if path is None else read_blip2(path)
        geometry = TINY if weights_kind(weights) == "tiny" else GEOMETRY
        config = Blip2QFormerConfig(**geometry["former"])
        super().__init__(feature_dim=config.hidden_size, input_spec=SPEC)
        self.head = check_head(head)
        with seeded(seed):
            self.visual = build_vit(geometry["vision"], SPEC.size)
            self.query_tokens = nn.Parameter(0.02 * torch.randn(1, geometry["queries"], config.hidden_size))
            self.qformer = Blip2QFormerModel(config)
            self.text = Blip2TextEmbeddings(config)
            self.vision_proj = nn.Linear(config.hidden_size, geometry["dim"])
            self.text_proj = nn.Linear(config.hidden_size, geometry["dim"])
            self.itm_head = nn.Linear(config.hidden_size, 2)
        self.visual.norm.eps = 1e-5  # the blocks' is 1e-6
        # Learnt in the first stage and a constant since: a buffer, so that no usage trains it.
        self.register_buffer("temp", torch.tensor(FIRST_TEMPERATURE))
        self.temp: Tensor
        self._weights, self._words = str(weights), config.vocab_size
        if state is not None:
            load_checked(self, state, origin=str(path))
        self.eval()

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from, without the image tower's."""
        return pick_variant(variant, SOURCES, "BLIP-2")

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, 3, 224, 224) normalised images to ``features`` (B, 768), ``zero_shot`` (B, 256) and ``local``."""
        self.check_image(image)
        tokens = self.visual(image)
        queries = self.query_tokens.expand(len(image), -1, -1)
        read = self.qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
        embedded = F.normalize(self.vision_proj(read), dim=-1)
        local = tokens if self.head == MATCHING else embedded
        return {"features": read[:, 0], "zero_shot": F.normalize(embedded.mean(dim=1), dim=-1), "local": local}

    def encode_text(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encode N prompts to ``zero_shot`` (N, 256). Prompts that are cut are counted in a warning.

        Raises:
            RuntimeError: after :meth:`release_text`.
            WeightsError: if BERT's vocabulary is neither here nor to be had.
        """
        return self.encode_tokens(self._tokens(texts, limit=CONTEXT))

    def encode_tokens(self, tokens: Tokens) -> dict[str, Tensor]:
        """As :meth:`encode_text`, of tokenized prompts."""
        numbers, mask = (part.to(self.temp.device) for part in tokens)
        embedded = self.text(input_ids=numbers)
        read = self.qformer(query_embeds=embedded, query_length=0, attention_mask=mask).last_hidden_state
        return {"zero_shot": F.normalize(self.text_proj(read[:, 0]), dim=-1)}

    @torch.no_grad()
    def local_parts(
        self, classes: Mapping[str, Sequence[str]], background: Sequence[str] = ()
    ) -> tuple[LocalEncoder, nn.Module]:
        """What zero-shot classification is made of.

        Args:
            classes: class name -> prompts; of the matching head each cut to 32 tokens as in the official code.
            background: prompts that every class is told apart from; the matching head needs none, because its odds are
                not relative to other texts.

        Returns:
            this encoder without what it needs for texts, whose ``zero_shot`` then holds ``local``, and the head that
            reads it.

        Raises:
            RuntimeError: after :meth:`release_text`.
            WeightsError: if BERT's vocabulary is neither here nor to be had.
        """
        groups = [list(prompts) for prompts in classes.values()]
        head: nn.Module
        if self.head == MATCHING:
            prompts = [prompt for group in groups for prompt in group]
            tokens = self._tokens(prompts, limit=MATCHING_CONTEXT, pad_to=MATCHING_CONTEXT)
            head = BLIP2MatchingHead(tokens, [len(group) for group in groups], self)
        else:
            groups += [list(background)] if background else []
            means = torch.stack([self.encode_text(group)["zero_shot"].mean(dim=0) for group in groups])
            count = self.query_tokens.shape[1]
            scale = self.logit_terms()[0].clone()
            head = BestQueryHead(F.normalize(means, dim=-1), scale, count=count, background=bool(background))
        self.release_text()
        return LocalEncoder(self), head

    def logit_terms(self) -> tuple[Tensor, Tensor]:
        """One over the temperature of the weights, and no bias."""
        return 1 / self.temp, torch.zeros_like(self.temp)

    def similarity(self, encoded_image: dict[str, Tensor], encoded_text: dict[str, Tensor]) -> Tensor:
        """Logits (B, N): the cosine of the query nearest to a text over the temperature.

        Raises:
            ValueError: with the matching head, whose encodings do not hold the queries.
        """
        if self.head == MATCHING:
            msg = "`head` is matching, which compares no embeddings; build the encoder with head='contrastive'"
            raise ValueError(msg)
        return best_query(encoded_image["local"], encoded_text["zero_shot"]) / self.temp

    def release_text(self) -> None:
        """Drop what only texts need. The Q-Former's layers for texts stay where a matching head shares them."""
        self.text = self.text_proj = self.itm_head = None  # type: ignore[assignment]
        if self.head == CONTRASTIVE:
            for layer in self.qformer.encoder.layer:
                layer.intermediate = layer.output = None

    def _tokens(self, texts: Sequence[str], *, limit: int, pad_to: int | None = None) -> Tokens:
        if self.text is None:
            msg = "the text tower was released; build the encoder again to encode other prompts"
            raise RuntimeError(msg)
        tokenizer = find_tokenizer(TOKENIZER, self._weights, words=self._words)
        return tokenize(tokenizer, texts, limit=limit, model=self.title, pad_to=pad_to)


class BLIP2MatchingHead(MatchingHead):
    """The Q-Former with queries and texts side by side, and its matching head.

    Args:
        tokens: P prompts, class by class.
        groups: number of prompts of each class.
        encoder: its Q-Former and queries are shared with it.
    """

    def __init__(self, tokens: Tokens, groups: Sequence[int], encoder: BLIP2Encoder) -> None:
        super().__init__(tokens, groups, shape=tuple(encoder.visual.pos_embed.shape[1:]))
        self.query_tokens, self.qformer = encoder.query_tokens, encoder.qformer
        self.text, self.itm_head = encoder.text, encoder.itm_head
        self.requires_grad_(False)

    def match(self, image_tokens: Tensor, tokens: Tokens) -> Tensor:
        """Logarithm of the odds that text i belongs to image i, (B,); of the mean score of the queries."""
        queries = self.query_tokens.expand(len(image_tokens), -1, -1)
        count = queries.shape[1]
        read = self.qformer(
            query_embeds=self.text(input_ids=tokens.ids, query_embeds=queries),
            query_length=count,
            attention_mask=F.pad(tokens.mask, (count, 0), value=1),
            encoder_hidden_states=image_tokens,
        ).last_hidden_state
        return log_odds(self.itm_head(read[:, :count]).mean(dim=1))
