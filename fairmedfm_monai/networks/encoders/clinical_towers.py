"""What MedCLIP, GLoRIA and FLAIR share: Bio_ClinicalBERT as text tower, and residual image towers.

Bio_ClinicalBERT (Alsentzer et al., "Publicly Available Clinical BERT Embeddings", 2019) is a BERT-base with a
vocabulary of 28996 word pieces. The three models read several of its hidden layers, each in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.encoders.base import VisionLanguageEncoder
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.text import Tokenizer, TokenizerSource, Tokens, find_tokenizer, tokenize
from fairmedfm_monai.networks.weights import State, WeightSource, load_checked, resolve_weights, seeded, weights_kind

from timm.models.resnet import BasicBlock, Bottleneck, ResNet  # isort: skip - after weights: no telemetry
from transformers import BertConfig, BertModel  # isort: skip

Geometry = Mapping[str, Any]

CLINICAL_BERT: Geometry = {"vocab_size": 28996}  # the rest of BERT-base is BertConfig's default
TINY_BERT: Geometry = {
    "vocab_size": 512,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
RESNET50: Geometry = {"block": Bottleneck, "layers": (3, 4, 6, 3)}
RESNET18: Geometry = {"block": BasicBlock, "layers": (2, 2, 2, 2)}
_THIN: Geometry = {"layers": (1, 1, 1, 1), "channels": (8, 16, 16, 32)}
MAX_LOG_SCALE = 4.6052  # the authors of MedCLIP and FLAIR clamp the logarithm of the temperature to [0, 4.6052]


class ClinicalTowers(VisionLanguageEncoder):
    """An image tower and Bio_ClinicalBERT; subclasses say what becomes of their outputs.

    Args:
        build: the image tower, with the length of its features as ``dim``, and the text tower; of ``tiny`` geometry
            where the argument is True.
        input_spec: what the weights were trained with.
        weights: ``pretrained``, a path, ``random`` or ``tiny``; the last two take a stand-in tokenizer.
        source: where ``pretrained`` is found.
        read: a file to its tensors by published names.
        rename: published names to this module's; drops what it documents and nothing else.
        seed: of ``random`` and ``tiny``.

    Raises:
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = ""
    folder = ""  # of the tokenizer's files, inside the weights folder
    limit = 77  # tokens of a prompt, special ones included
    learns_scale = True  # whether the file holds a `logit_scale`

    def __init__(
        self,
        build: Callable[[bool], tuple[Any, Any]],
        *,
        input_spec: InputSpec,
        weights: str | Path,
        source: WeightSource,
        read: Callable[[Path], State],
        rename: Callable[[State], State],
        seed: int = 0,
    ) -> None:
        path = resolve_weights(weights, source)
        is_tiny = weights_kind(weights) == "tiny"
        with seeded(seed):
            visual, text = build(is_tiny)
        super().__init__(feature_dim=visual.dim, input_spec=input_spec)
        self.visual = visual
        self.text = text
        if self.learns_scale:
            self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        if path is not None:
            load_checked(self, rename(read(path)), origin=str(path))
        self._weights = str(weights)
        self._words = int(bert_geometry(is_tiny)["vocab_size"])
        self.eval()

    @torch.jit.unused
    def tokenizer(self) -> Tokenizer:
        """Bio_ClinicalBERT's tokenizer, or a stand-in for ``random`` and ``tiny`` weights.

        Raises:
            WeightsError: if the vocabulary is neither here nor to be had.
        """
        # The vocabulary is cased, but its repository does not say so and transformers then lower-cases every text: so
        # the authors of all three models used it.
        options = {"do_lower_case": True}
        source = TokenizerSource(repo="emilyalsentzer/Bio_ClinicalBERT", folder=self.folder, options=options)
        return find_tokenizer(source, self._weights, words=self._words)

    @torch.jit.unused
    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Word pieces of N texts, padded to the longest; what is beyond ``limit`` is cut, which a warning counts.

        Raises:
            RuntimeError: after :meth:`release_text`.
            WeightsError: if the vocabulary is neither here nor to be had.
        """
        if self.text is None:
            msg = "the text tower was released; build the encoder again to encode other prompts"
            raise RuntimeError(msg)
        tokens = tokenize(self.tokenizer(), texts, limit=self.limit, model=self.title)
        device = next(self.text.parameters()).device
        return Tokens(tokens.ids.to(device), tokens.mask.to(device))

    @torch.jit.unused
    def logit_terms(self) -> tuple[Tensor, Tensor]:
        """Learnt scale of the weights, clamped as in training, and no bias."""
        scale = self.logit_scale.detach().clamp(0, MAX_LOG_SCALE).exp()
        return scale, torch.zeros_like(scale)

    @torch.jit.unused
    def release_text(self) -> None:
        """Drop the text tower: 108 million parameters less in model.pt, and TorchScript needs it gone."""
        self.text = None


class MeanOfLayers(nn.Module):
    """BERT whose hidden layers 1, 2 and last are averaged over layers and tokens, padding included, and projected.

    Args:
        geometry: arguments of ``BertConfig``.
        dim: length E of the embedding.
        unit: scale the average to unit length before the projection.
    """

    def __init__(self, geometry: Geometry, dim: int, *, unit: bool) -> None:
        super().__init__()
        self.model = build_bert(geometry)
        self.projection = nn.Linear(self.model.config.hidden_size, dim, bias=False)
        self.unit = unit

    def forward(self, tokens: Tokens) -> Tensor:
        """N texts of L tokens to (N, E), not scaled."""
        layers = hidden_layers(self.model, tokens)
        mean = torch.stack([layers[1], layers[2], layers[-1]]).mean(dim=(0, 2))
        return self.projection(F.normalize(mean, dim=-1) if self.unit else mean)


def bert_geometry(tiny: bool) -> Geometry:
    """Arguments of ``BertConfig``."""
    return TINY_BERT if tiny else CLINICAL_BERT


def build_bert(geometry: Geometry) -> BertModel:
    """BERT of ``geometry``, with the pooler that the published files hold and none of the models reads."""
    return BertModel(BertConfig(**geometry))


def hidden_layers(model: BertModel, tokens: Tokens) -> tuple[Tensor, ...]:
    """Outputs (N, L, H) of the embeddings and of each block."""
    return model(input_ids=tokens.ids, attention_mask=tokens.mask, output_hidden_states=True).hidden_states


def encode_alone(tower: Callable[[Tokens], Tensor], tokens: Tokens) -> Tensor:
    """Outputs (N, E) of ``tower`` for texts without padding; texts of equal length go together.

    For towers whose output depends on the padding, and so on the longest text that happens to be in the batch.
    """
    lengths = tokens.mask.sum(dim=1)
    rows = [(lengths == length).nonzero()[:, 0] for length in lengths.unique()]
    parts = [tower(Tokens(*(part[own, : lengths[own[0]]] for part in tokens))) for own in rows]
    return torch.cat(parts)[torch.cat(rows).argsort()]


def build_resnet(geometry: Geometry, *, tiny: bool) -> ResNet:
    """A residual network of timm without classifier; its names are torchvision's. ``tiny``: thin and shallow."""
    return ResNet(num_classes=0, zero_init_last=False, **{**geometry, **(_THIN if tiny else {})})


def rename_prefixes(state: State, prefixes: Sequence[tuple[str, str]]) -> State:
    """``state`` whose names begin with the right part of the first pair whose left part they began with.

    BERT's ``position_ids`` (0, 1, 2, ...), which files of old releases hold, are dropped.
    """
    renamed: State = {}
    for name, tensor in state.items():
        if name.endswith("embeddings.position_ids"):
            continue
        old, new = next((pair for pair in prefixes if name.startswith(pair[0])), ("", ""))
        renamed[new + name.removeprefix(old)] = tensor
    return renamed
