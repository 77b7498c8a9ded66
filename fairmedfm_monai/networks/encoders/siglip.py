"""SigLIP, SigLIP 2 (fixed sizes) and MedSigLIP: two towers trained with a sigmoid loss.

Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, arXiv:2303.15343; Tschannen et al., "SigLIP 2",
2025, arXiv:2502.14786; Sellergren et al., "MedGemma Technical Report", 2025, arXiv:2507.05201.

The image tower is timm's vision transformer with attention pooling, the text tower transformers' ``SiglipTextModel``;
the published names are those of transformers' ``SiglipModel``. Both towers have GELU's tanh form, as the JAX code that
the weights were trained with; timm's and open_clip's own configurations of the image tower have the exact one.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked, read_checkpoint
from fairmedfm_monai.networks.encoders.base import VisionLanguageEncoder
from fairmedfm_monai.networks.encoders.timm_vit import build_vit, join_qkv, rename_parts, shrink
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.text import Tokenizer, TokenizerSource, find_tokenizer, tokenize
from fairmedfm_monai.networks.weights import State, WeightSource, resolve_weights, seeded, weights_dir, weights_kind

from transformers import SiglipTextConfig, SiglipTextModel  # isort: skip - after weights, see there

MEAN = STD = (0.5, 0.5, 0.5)
CONTEXT = 64
_ATTENTION = {"class_token": False, "global_pool": "map", "act_layer": "gelu_tanh"}
# Width, blocks, heads and width of the hidden layers; the same in both towers.
SIZES = {"base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096), "so400m": (1152, 27, 16, 4304)}
TINY_TEXT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 512,
}
V1 = (
    *(f"base-patch16-{size}" for size in (224, 256, 384, 512)),
    *(f"large-patch16-{size}" for size in (256, 384)),
    *(f"so400m-patch14-{size}" for size in (224, 384)),
)
V2 = (
    "base-patch32-256",
    *(f"base-patch16-{size}" for size in (224, 256, 384, 512)),
    *(f"large-patch16-{size}" for size in (256, 384, 512)),
    *(f"so400m-patch14-{size}" for size in (224, 384)),
    *(f"so400m-patch16-{size}" for size in (256, 384, 512)),
)
# transformers' names of the image tower and timm's, applied in this order.
_NAMES = (
    ("embeddings.patch_embedding.", "patch_embed.proj."),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("encoder.layers.", "blocks."),
    ("layer_norm", "norm"),
    ("self_attn.out_proj", "attn.proj"),
    ("post_layernorm", "norm"),
    ("head.probe", "attn_pool.latent"),
    ("head.attention.out_proj", "attn_pool.proj"),
    ("head.layernorm", "attn_pool.norm"),
    ("head.mlp", "attn_pool.mlp"),
)
_QKV = re.compile(r"blocks\.(?P<block>\d+)\.self_attn\.(?P<part>[qkv])_proj\.(?P<kind>weight|bias)")
_POOLING = "head.attention.in_proj_"


class SigLIPEncoder(VisionLanguageEncoder):
    """SigLIP's two towers.

    ``features`` is what the attention pooling gives (what FairMedFM's linear probe reads; there is no further
    projection), ``zero_shot`` the same scaled to unit length. Logits are those of the sigmoid that the model was
    trained with: ``sigmoid(scale * cosine + bias)`` is the probability that a text belongs to an image. Prompts are
    padded to 64 tokens and read without an attention mask, because the text's embedding comes from the last position.

    Args:
        variant: size, patch and pixels as in the hub's names, e.g. ``base-patch16-224``.
        weights: ``pretrained``, a path (names of transformers' ``SiglipModel``), ``random`` or ``tiny``; these two take
            a stand-in tokenizer.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = "SigLIP"
    variants: ClassVar[tuple[str, ...]] = V1
    repo: ClassVar[str] = "google/siglip-{}"
    vocabulary: ClassVar[int] = 32000
    # Of all published files only this one has a shorter table of text positions.
    contexts: ClassVar[Mapping[str, int]] = {"so400m-patch14-224": 16}
    tokenizer: ClassVar[TokenizerSource] = TokenizerSource(
        repo="google/siglip-base-patch16-224",
        folder="siglip",
        cls="SiglipTokenizer",
        begin=(),
        end=(1,),
        pad=1,
        first=3,
    )

    def __init__(self, variant: str = "base-patch16-224", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        path = resolve_weights(weights, self.source(variant))
        size = int(variant.rpartition("-")[2])
        vision, text = geometry(variant)
        text |= {"vocab_size": self.vocabulary, "max_position_embeddings": self.contexts.get(variant, CONTEXT)}
        if weights_kind(weights) == "tiny":
            vision, text = dict(shrink(vision, size)), text | TINY_TEXT
        super().__init__(feature_dim=vision["embed_dim"], input_spec=InputSpec(size=size, mean=MEAN, std=STD))
        with seeded(seed):
            self.visual = build_vit(vision, size)
            self.text = SiglipTextModel(SiglipTextConfig(**text))
        self.logit_scale = nn.Parameter(torch.tensor([10.0]).log())  # where the training began
        self.logit_bias = nn.Parameter(torch.tensor([-10.0]))
        self._weights, self._words, self._context = str(weights), text["vocab_size"], text["max_position_embeddings"]
        if path is not None:
            load_checked(self, rename_siglip(read_checkpoint(path)), origin=str(path))
        self.eval()

    @classmethod
    def source(cls, variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        pick_variant(variant, dict.fromkeys(cls.variants), cls.title)
        repo = cls.repo.format(variant)
        name = repo.rpartition("/")[2]
        return WeightSource(
            names=(f"{name}.safetensors",),
            page=f"https://huggingface.co/{repo}",
            repo=repo,
            repo_files=("model.safetensors",),
        )

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
        return {"zero_shot": F.normalize(self.text(input_ids=numbers).pooler_output, dim=-1)}

    @torch.jit.unused
    def token_numbers(self, texts: Sequence[str]) -> Tensor:
        """Numbers of the lower-cased tokens of N prompts, (N, 64), padded on the right.

        Raises:
            WeightsError: if the vocabulary is neither here nor to be had, or is that of another model.
        """
        tokenizer = self._tokenizer()
        return tokenize(tokenizer, texts, limit=self._context, model=self.title, pad_to=self._context).ids

    @torch.jit.unused
    def _tokenizer(self) -> Tokenizer:
        """The model's own tokenizer, or the stand-in of untrained weights."""
        trained = weights_kind(self._weights) in {"pretrained", "file"}
        if trained and self.tokenizer.cls == "SiglipTokenizer" and not has_sentencepiece():
            msg = f"{self.title}'s tokenizer needs two packages: pip install sentencepiece protobuf"
            raise WeightsError(msg)
        tokenizer = find_tokenizer(self.tokenizer, self._weights, words=self._words)
        small, capital = tokenizer.numbers("a"), tokenizer.numbers("A")
        if small != capital or small[-1:] != list(self.tokenizer.end) or tokenizer.pad != self.tokenizer.pad:
            msg = (
                f"the tokenizer in {weights_dir() / self.tokenizer.folder} is not {self.title}'s: it must lower-case, "
                f"end with token {self.tokenizer.end[0]} and pad with {self.tokenizer.pad}, but gives {small} for 'a', "
                f"{capital} for 'A' and pads with {tokenizer.pad}; fetch its files from {self.tokenizer.repo} again"
            )
            raise WeightsError(msg)
        return tokenizer

    @torch.jit.unused
    def logit_terms(self) -> tuple[Tensor, Tensor]:
        """Learnt scale and bias of the weights, scalars."""
        return self.logit_scale.detach().exp().squeeze(), self.logit_bias.detach().squeeze()

    @torch.jit.unused
    def release_text(self) -> None:
        """Drop the text tower: half of the parameters, and TorchScript needs it gone."""
        self.text = None


class SigLIP2Encoder(SigLIPEncoder):
    """SigLIP 2's two towers, of the variants with a fixed image size: SigLIP's network with another vocabulary.

    ``features`` and ``zero_shot`` as in :class:`SigLIPEncoder`. Not built: NaFlex (images of any shape) and giant-opt
    (published in several files).

    Args:
        variant: size, patch and pixels as in the hub's names, e.g. ``base-patch16-224``.
        weights: as in :class:`SigLIPEncoder`.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = "SigLIP 2"
    variants = V2
    repo = "google/siglip2-{}"
    vocabulary = 256000
    contexts: ClassVar[Mapping[str, int]] = {}
    # The hub's settings name Gemma's own class, which does not lower-case.
    tokenizer = TokenizerSource(
        repo="google/siglip2-base-patch16-224", folder="siglip2", cls="Siglip2Tokenizer", begin=(), end=(1,), first=5
    )


class MedSigLIPEncoder(SigLIPEncoder):
    """SigLIP's largest network trained further on medical images and texts, at 448 pixels.

    ``features`` (1152 numbers) and ``zero_shot`` as in :class:`SigLIPEncoder`.

    Args:
        variant: ``so400m-patch14-448``, the only one.
        weights: as in :class:`SigLIPEncoder`; the hub asks for consent to the terms first.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = "MedSigLIP"
    variants = ("so400m-patch14-448",)
    repo = "google/medsiglip-448"
    contexts: ClassVar[Mapping[str, int]] = {}
    tokenizer = TokenizerSource(
        repo="google/medsiglip-448", folder="medsiglip", cls="SiglipTokenizer", begin=(), end=(1,), pad=1, first=3
    )

    def __init__(
        self, variant: str = "so400m-patch14-448", weights: str | Path = "pretrained", *, seed: int = 0
    ) -> None:
        super().__init__(variant, weights, seed=seed)


def has_sentencepiece() -> bool:
    """Whether what transformers reads files of sentencepiece with is installed (the last look-up needs ``google``)."""
    return all(importlib.util.find_spec(name) is not None for name in ("sentencepiece", "google", "google.protobuf"))


def geometry(variant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of timm's ``VisionTransformer`` and of ``SiglipTextConfig`` for a variant such as base-patch16-224."""
    size, patch, _ = variant.split("-")
    width, depth, heads, hidden = SIZES[size]
    common = {"embed_dim": width, "depth": depth, "num_heads": heads, "mlp_ratio": hidden / width}
    vision = {**_ATTENTION, **common, "patch_size": int(patch.removeprefix("patch"))}
    text = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": hidden,
        # Read by nobody, but the defaults lie outside the vocabulary, which the library warns of.
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    return vision, text


def rename_siglip(state: State) -> State:
    """Names of transformers' ``SiglipModel`` to :class:`SigLIPEncoder`'s; others stay as they are.

    Queries, keys and values of a block become one matrix; that of the pooling is cut into queries, and keys and values.
    """
    images: State = {}
    renamed: State = {}
    for name, tensor in state.items():
        tower, _, part = name.partition(".")
        if tower == "vision_model":
            images |= _pooling(part, tensor) if part.startswith(_POOLING) else {rename_parts(part, _NAMES): tensor}
        else:
            renamed[f"text.{part}" if tower == "text_model" else name] = tensor
    if "pos_embed" in images:
        images["pos_embed"] = images["pos_embed"][None]
    return renamed | {f"visual.{name}": tensor for name, tensor in join_qkv(images, _QKV, "qkv").items()}


def _pooling(part: str, tensor: Tensor) -> State:
    """Weight or bias of the attention pooling, cut as timm's."""
    kind = part.removeprefix(_POOLING)
    third = len(tensor) // 3
    return {f"attn_pool.q.{kind}": tensor[:third], f"attn_pool.kv.{kind}": tensor[third:]}
