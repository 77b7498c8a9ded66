"""GLoRIA (Huang et al., "GLoRIA: A Multimodal Global-Local Representation Learning Framework", ICCV 2021)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.checkpoint import State, read_checkpoint
from fairmedfm_monai.networks.encoders.clinical_towers import (
    RESNET18,
    RESNET50,
    ClinicalTowers,
    Geometry,
    bert_geometry,
    build_bert,
    build_resnet,
    hidden_layers,
    rename_prefixes,
)
from fairmedfm_monai.networks.encoders.gloria_local import LocalEncoder, LocalGlobalHead, joint_similarity
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.text import Tokens
from fairmedfm_monai.networks.weights import WeightSource

SPEC = InputSpec(size=224, mean=(0.5,) * 3, std=(0.5,) * 3)
_PAGE = "https://stanfordmedicine.box.com/s/j5h7q99f3pfi7enc0dom73m4nsm6yzvh"
SOURCES = {name: WeightSource(names=(f"chexpert_{name}.ckpt",), page=_PAGE) for name in ("resnet50", "resnet18")}
GEOMETRIES: Mapping[str, Geometry] = {"resnet50": RESNET50, "resnet18": RESNET18}
INNER_SIZE = 299  # to which images are enlarged inside the network
WORDS = 97  # most tokens, and with them words, of a prompt
LAYERS = 4  # last hidden layers of BERT that are summed
SCALE = 10.0  # of similarities in training (`temp3`); the file holds none
# R18's file holds a projection of R50's 1024 channels, which no local map of R18 fits.
UNUSABLE = ("visual.local_embedder.weight", (768, 1024, 1, 1))
_PREFIXES = (("img_encoder.", "visual."), ("text_encoder.", "text."))
# What Lightning and OmegaConf leave beside the weights; stand-ins take its place.
_INERT = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Float", "Integer", "String")),
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "typing.Any",
)


class GLoRIAEncoder(ClinicalTowers):
    """ResNet and Bio_ClinicalBERT trained on CheXpert's radiographs and reports, globally and word by word.

    ``features`` are the pooled numbers before the projection (2048; 512 of ``resnet18``), which the authors' classifier
    reads; ``zero_shot`` is the projected embedding of 768 numbers, of unit length. ``resnet50`` adds ``local``
    (B, 362, 768): the ``zero_shot`` embedding and, not scaled, those of 361 image regions; where zero-shot
    classification caches it, 1.1 MB an image. Its similarity is that of
    :mod:`~fairmedfm_monai.networks.encoders.gloria_local`; of ``resnet18`` only the global branch works. Logits are
    similarities times 10, as in training.

    For zero-shot classification the authors take the best prompt of each class, as is done here with ``resnet50``, and
    then the z-score of each class over all images at hand, which is left out: the result of an image would depend on
    the other images.

    Args:
        variant: ``resnet50`` or ``resnet18``.
        weights: ``pretrained``, a path (the authors' .ckpt), ``random`` or ``tiny``; these two take a stand-in
            tokenizer.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = "GLoRIA"
    folder = "gloria"
    limit = WORDS
    learns_scale = False

    def __init__(self, variant: str = "resnet50", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        is_local = variant == "resnet50"

        def build(tiny: bool) -> tuple[nn.Module, nn.Module]:
            text = WordTower(bert_geometry(tiny))
            return ImageTower(GEOMETRIES[variant], text.dim, local=is_local, tiny=tiny), text

        super().__init__(
            build,
            input_spec=SPEC,
            weights=weights,
            source=self.source(variant),
            read=read_gloria,
            rename=rename_gloria if is_local else rename_gloria_global,
            seed=seed,
        )
        self.is_local = is_local

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return pick_variant(variant, SOURCES, "GLoRIA")

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, 3, 224, 224) images to ``features`` (B, D), ``zero_shot`` (B, E) and ``local`` (B, 1 + P, E)."""
        if not torch.jit.is_scripting():
            self.check_image(image)
        features, embedding, regions = self.visual(image)
        encoded = {"features": features, "zero_shot": F.normalize(embedding, dim=-1)}
        if regions is not None:
            encoded["local"] = torch.cat([encoded["zero_shot"][:, None], regions], dim=1)
        return encoded

    @torch.jit.unused
    def encode_text(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encode N prompts. Prompts that are cut are counted in a warning.

        Returns:
            ``zero_shot`` (N, E); ``local`` (N, 96, E), the embeddings of the words behind the opening token, not
            scaled; ``counts`` (N,), how many places of ``local`` the similarity reads.

        Raises:
            RuntimeError: after :meth:`release_text`.
            ValueError: if a prompt has no word.
        """
        tokens = self.tokens([plain_words(text) for text in texts])
        tokenizer = self.tokenizer()
        pieces = [tokenizer.pieces(row) for row in tokens.ids.tolist()]
        begins = torch.tensor([[not piece.startswith("##") for piece in row] for row in pieces])
        words = self.text(tokens, (begins.cumsum(dim=1) - 1).to(tokens.ids.device))
        counts = torch.tensor([word_places(text) for text in texts], device=words.device)
        return {"zero_shot": F.normalize(words.sum(dim=1), dim=-1), "local": words[:, 1:], "counts": counts}

    @torch.jit.unused
    def logit_terms(self) -> tuple[Tensor, Tensor]:
        """The scale of training, and no bias."""
        return torch.tensor(SCALE), torch.tensor(0.0)

    @torch.jit.unused
    def similarity(self, encoded_image: dict[str, Tensor], encoded_text: dict[str, Tensor]) -> Tensor:
        """Logits (B, N): local and global where there are local embeddings, else global alone."""
        if "local" not in encoded_image:
            return super().similarity(encoded_image, encoded_text)
        text = (encoded_text[name] for name in ("zero_shot", "local", "counts"))
        return SCALE * joint_similarity(encoded_image["local"], *text)

    @torch.jit.unused
    @torch.no_grad()
    def local_parts(
        self, classes: Mapping[str, Sequence[str]], background: Sequence[str] = ()
    ) -> tuple[LocalEncoder, LocalGlobalHead] | None:
        """What zero-shot classification with local similarity is made of; None where there is only the global branch.

        Args:
            classes: class name -> prompts.
            background: prompts that every class is told apart from.

        Returns:
            this encoder without its text tower, whose ``zero_shot`` then holds ``local``, and the head that reads it.
        """
        if not self.is_local:
            return None
        groups = [*classes.values(), *([background] if background else [])]
        text = self.encode_text([prompt for prompts in groups for prompt in prompts])
        self.release_text()
        head = LocalGlobalHead(
            text["zero_shot"],
            text["local"],
            text["counts"],
            groups=[len(prompts) for prompts in groups],
            scale=self.logit_terms()[0],
            background=bool(background),
        )
        return LocalEncoder(self), head


class ImageTower(nn.Module):
    """Residual network at 299 x 299 with a projection of the whole image and one of its regions.

    Args:
        geometry: of the residual network.
        dim: length E of the embeddings.
        local: project the regions too.
        tiny: thin and shallow.
    """

    def __init__(self, geometry: Geometry, dim: int, *, local: bool, tiny: bool) -> None:
        super().__init__()
        self.model = build_resnet(geometry, tiny=tiny)
        self.dim = int(self.model.num_features)
        self.inner_size = INNER_SIZE
        self.global_embedder = nn.Linear(self.dim, dim)
        channels = int(self.model.feature_info[3]["num_chs"])  # of the third stage
        self.local_embedder = nn.Conv2d(channels, dim, kernel_size=1, bias=False) if local else None

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, 3, S, S) to features (B, D), embeddings (B, E) and those of regions (B, P, E), row by row."""
        image = F.interpolate(image, size=(self.inner_size, self.inner_size), mode="bilinear", align_corners=True)
        maps = self.model.maxpool(self.model.act1(self.model.bn1(self.model.conv1(image))))
        maps = self.model.layer3(self.model.layer2(self.model.layer1(maps)))
        features = self.model.global_pool(self.model.layer4(maps))
        regions: Tensor | None = None
        if self.local_embedder is not None:
            regions = self.local_embedder(maps).flatten(2).transpose(1, 2)
        return features, self.global_embedder(features), regions


class WordTower(nn.Module):
    """BERT whose last 4 hidden layers are summed, and the pieces of each word with them.

    Args:
        geometry: arguments of ``BertConfig``.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.model = build_bert(geometry)
        self.dim = int(self.model.config.hidden_size)

    def forward(self, tokens: Tokens, words: Tensor) -> Tensor:
        """Embeddings (N, 97, E) of words, zero behind the last one.

        Args:
            tokens: N texts of L word pieces.
            words: (N, L) number of the word that each piece belongs to.
        """
        pieces = torch.stack(hidden_layers(self.model, tokens)[-LAYERS:]).sum(dim=0) * tokens.mask[..., None]
        summed = pieces.new_zeros(len(pieces), WORDS, self.dim)
        return summed.scatter_add(1, words[..., None].expand_as(pieces), pieces)


def plain_words(text: str) -> str:
    """Lower-case words of a prompt without punctuation and characters beyond ASCII, as the network was trained.

    Like the authors' code, sentences of a single word ("Pneumonia.") are left out of longer texts. Unlike there, a text
    that holds nothing else keeps its words: otherwise all prompts of one word would be the same.

    Raises:
        ValueError: if no word is left.
    """
    sentences = re.split(r"[0-9]+\.|\.", text.replace("\n", " ").replace("\ufffd\ufffd", " "))
    words = [re.findall(r"\w+", sentence.lower()) for sentence in sentences]
    kept = [sentence for sentence in words if len(sentence) > 1] or words
    plain = [word.encode("ascii", "ignore").decode() for sentence in kept for word in sentence]
    if not any(plain):
        msg = f"a prompt must have a word of ASCII letters or digits, but got {text!r}"
        raise ValueError(msg)
    return " ".join(filter(None, plain))


def word_places(text: str) -> int:
    """How many places of a prompt's words the local similarity reads; the authors count characters, see there."""
    return min(len(text.replace("[", "")), WORDS - 1)


def read_gloria(path: Path) -> State:
    """As ``read_checkpoint``, also for Lightning's files, which hold the settings as OmegaConf's objects.

    Raises:
        WeightsError: if the file is damaged or holds objects that would have to be executed.
    """
    return read_checkpoint(path, inert=_INERT)


def rename_gloria(state: State) -> State:
    """Published names to :class:`GLoRIAEncoder`'s; BERT's ``position_ids`` are dropped."""
    return rename_prefixes({name.rpartition("gloria.")[2]: tensor for name, tensor in state.items()}, _PREFIXES)


def rename_gloria_global(state: State) -> State:
    """As :func:`rename_gloria`, of R18, whose unusable projection of local features is dropped too."""
    name, shape = UNUSABLE
    renamed = rename_gloria(state)
    if name in renamed and tuple(renamed[name].shape) == shape:
        del renamed[name]
    return renamed
