"""MedCLIP (Wang et al., "Contrastive Learning from Unpaired Medical Images and Text", EMNLP 2022)."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.checkpoint import State, WeightsError, read_checkpoint
from fairmedfm_monai.networks.encoders.clinical_towers import (
    RESNET50,
    ClinicalTowers,
    Geometry,
    MeanOfLayers,
    bert_geometry,
    build_resnet,
    encode_alone,
    rename_prefixes,
)
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

from timm.models.swin_transformer import SwinTransformer  # isort: skip - after weights: no telemetry

# One grey channel, repeated.
SPEC = InputSpec(size=224, mean=(0.5862785803043838,) * 3, std=(0.27950088968644304,) * 3)
_PAGE = "https://github.com/RyanWangZf/MedCLIP"
_FILES = "https://storage.googleapis.com/pytrial"
# The authors publish zip files, each of which holds one `pytorch_model.bin`.
SOURCES = {
    "vit": WeightSource(
        names=("medclip-vit-pretrained.zip", "medclip-vit.bin"),
        page=_PAGE,
        url=f"{_FILES}/medclip-vit-pretrained.zip",
    ),
    "resnet": WeightSource(
        names=("medclip-pretrained.zip", "medclip-resnet.bin"),
        page=_PAGE,
        url=f"{_FILES}/medclip-pretrained.zip",
    ),
}
MEMBER = "pytorch_model.bin"
# Arguments of timm's SwinTransformer: Swin-T, and the same kind of network with windows of the same size.
SWIN: Geometry = {"patch_size": 4, "embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
TINY_SWIN: Geometry = {"patch_size": 16, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}

_PREFIXES = (
    ("vision_model.projection_head.", "visual.projection."),
    ("vision_model.model.fc.", "visual.projection."),
    ("vision_model.model.", "visual.model."),
    ("text_model.projection_head.", "text.projection."),
    ("text_model.model.", "text.model."),
)
# Swin's parts in old releases of transformers and in timm, applied in this order.
_SWIN_PARTS = (
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("embeddings.norm", "patch_embed.norm"),
    ("encoder.layers.", "layers."),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("layernorm", "norm"),
    ("attention.self.", "attn."),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
_THIRD = re.compile(r"(?P<layer>.*\.attn)\.(?P<part>query|key|value)\.(?P<kind>weight|bias)")
_DOWNSAMPLE = re.compile(r"layers\.(\d+)\.downsample")


class MedCLIPEncoder(ClinicalTowers):
    """Swin-T or ResNet-50 and Bio_ClinicalBERT, trained on chest radiographs and reports that need not be pairs.

    ``features`` is the projected image embedding of 512 numbers as it is (what FairMedFM's linear probe reads),
    ``zero_shot`` the same scaled to unit length. (The authors' supervised classifier reads the 768 numbers of Swin-T
    before the projection.)

    The mean over a prompt's tokens counts padding, so that the longest prompt of a batch would change the embeddings of
    all others: here each prompt is encoded as if alone.

    Args:
        variant: ``vit`` (Swin-T) or ``resnet``.
        weights: ``pretrained``, a path (the authors' .zip or the ``pytorch_model.bin`` in it), ``random`` or ``tiny``;
            these two take a stand-in tokenizer.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = "MedCLIP"
    folder = "medclip"

    def __init__(self, variant: str = "vit", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        super().__init__(
            build_vit_towers if variant == "vit" else build_resnet_towers,
            input_spec=SPEC,
            weights=weights,
            source=self.source(variant),
            read=read_medclip,
            rename=rename_medclip,
            seed=seed,
        )

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return pick_variant(variant, SOURCES, "MedCLIP")

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, 3, 224, 224) normalised images to ``features`` (B, D) and ``zero_shot`` (B, D)."""
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
        tokens = self.tokens(texts)
        return {"zero_shot": F.normalize(encode_alone(self.text, tokens), dim=-1)}


class ImageTower(nn.Module):
    """A network of timm and the projection of its features without bias.

    Args:
        model: gives features (B, ``num_features``).
        dim: length D of the embedding.
    """

    def __init__(self, model: nn.Module, dim: int) -> None:
        super().__init__()
        self.model = model
        self.dim = dim
        self.projection = nn.Linear(int(model.num_features), dim, bias=False)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, D)."""
        return self.projection(self.model(image))


def build_vit_towers(tiny: bool) -> tuple[nn.Module, nn.Module]:
    """Swin and text tower."""
    swin = SwinTransformer(img_size=SPEC.size, num_classes=0, **(TINY_SWIN if tiny else SWIN))
    return _towers(swin, tiny)


def build_resnet_towers(tiny: bool) -> tuple[nn.Module, nn.Module]:
    """Residual network and text tower."""
    return _towers(build_resnet(RESNET50, tiny=tiny), tiny)


def _towers(model: nn.Module, tiny: bool) -> tuple[nn.Module, nn.Module]:
    dim = 24 if tiny else 512
    return ImageTower(model, dim), MeanOfLayers(bert_geometry(tiny), dim, unit=False)


def read_medclip(path: Path) -> State:
    """Tensors of a ``pytorch_model.bin``, or of the one inside the authors' zip.

    Raises:
        WeightsError: as :func:`read_checkpoint`.
    """
    if not zipfile.is_zipfile(path):
        return read_checkpoint(path)
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        member = next((name for name in archive.namelist() if Path(name).name == MEMBER), None)
        if member is None:  # files of torch.save are archives too
            return read_checkpoint(path)
        try:
            return read_checkpoint(Path(archive.extract(member, folder)))
        except (zipfile.BadZipFile, WeightsError) as error:
            msg = f"{path}: its {member} is not usable: {error}"
            raise WeightsError(msg) from error


def rename_medclip(state: State) -> State:
    """Published names to :class:`MedCLIPEncoder`'s.

    Swin's queries, keys and values become one matrix. BERT's ``position_ids`` and Swin's ``relative_position_index``,
    which are computed, are dropped.
    """
    renamed: State = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for own, tensor in rename_prefixes(state, _PREFIXES).items():
        if own.endswith("attention.self.relative_position_index"):
            continue
        name = _swin_name(own) if own.startswith("visual.") else own
        if match := _THIRD.fullmatch(name):
            parts.setdefault(f"{match['layer']}.qkv.{match['kind']}", {})[match["part"]] = tensor
        else:
            renamed[name] = tensor
    # Where a third is missing the tensor is too short, which loading then tells.
    order = ("query", "key", "value")
    return renamed | {
        name: torch.cat([found[part] for part in order if part in found]) for name, found in parts.items()
    }


def _swin_name(name: str) -> str:
    """The name in timm of one tensor of Swin; those of a residual network stay as they are."""
    for old, new in _SWIN_PARTS:
        name = name.replace(old, new)
    # Patches are merged after a stage in one library, before the next stage in the other.
    return _DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample", name)
