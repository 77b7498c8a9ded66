"""CLIP (Radford et al., ICML 2021; Cherti et al., CVPR 2023) through open_clip: OpenAI's and OpenCLIP's ViT and RN."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from fairmedfm_monai.networks.checkpoint import WeightsError, read_checkpoint
from fairmedfm_monai.networks.encoders.clip_towers import (
    QUICK,
    SETTINGS,
    CLIPTowers,
    build_towers,
    geometry_config,
    rename_clip,
    shrink,
)
from fairmedfm_monai.networks.jit_archive import is_jit_archive
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import State, WeightSource, resolve_weights, weights_kind

import open_clip  # isort: skip - after weights, which switches the hub's telemetry off
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model  # isort: skip


class CLIPEncoder(CLIPTowers):
    """CLIP's two towers.

    ``features`` is the projected image embedding as it is (what FairMedFM's linear probe reads), ``zero_shot`` the same
    scaled to unit length.

    OpenAI's weights (and some others) were trained with QuickGELU. The same file fits a network with GELU and then
    gives wrong features without an error: ``variant`` decides the activation, weights of the other kind are refused.

    Args:
        variant: open_clip's name, e.g. ``ViT-B-32-quickgelu`` (see :func:`clip_variants`); OpenAI's own names
            (``ViT-B/32``) mean the QuickGELU variant.
        weights: ``pretrained``, a path (open_clip's .safetensors/.bin/.pt or OpenAI's archive), ``random`` or ``tiny``.
        tag: which of open_clip's pretrained weights; "" = OpenAI's where they fit, else LAION-2B's, else the first.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: if ``variant`` or ``tag`` is unknown or they do not go together.
        WeightsError: if the weights cannot be had or do not fit.
    """

    def __init__(
        self,
        variant: str = "ViT-B-32-quickgelu",
        weights: str | Path = "pretrained",
        *,
        tag: str = "",
        seed: int = 0,
    ) -> None:
        name = canonical_name(variant)
        state = read_clip(name, weights, tag)
        config = model_config(name)
        spec = clip_input_spec(name, tag=tag)
        if weights_kind(weights) == "tiny":
            config = shrink(config)
        super().__init__(
            build_towers(config, seed=seed),
            feature_dim=config["embed_dim"],
            input_spec=spec,
            state=state,
            origin=weights,
        )

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return clip_source(canonical_name(variant))


@functools.cache
def clip_variants() -> tuple[str, ...]:
    """Names of open_clip's ViT and RN variants with CLIP's own text tower, whose vocabulary ships with open_clip."""
    return tuple(name for name in open_clip.list_models() if re.match(r"ViT-|RN\d", name) and _is_native(name))


def _is_native(name: str) -> bool:
    config = open_clip.get_model_config(name) or {}
    foreign = {"timm_model_name", "hf_model_name", "hf_tokenizer_name"}
    return not foreign & {*config["vision_cfg"], *config["text_cfg"]} and "multimodal_cfg" not in config


def canonical_name(variant: str) -> str:
    """open_clip's name of ``variant``; OpenAI's spelling (``ViT-L/14@336px``) means QuickGELU.

    Raises:
        ValueError: listing the names there are.
    """
    name = variant
    if "/" in variant:
        name = variant.replace("/", "-").replace("@336px", "-336") + QUICK
    if name not in clip_variants():
        msg = f"`variant` {variant!r} is unknown; known are {', '.join(clip_variants())}"
        raise ValueError(msg)
    return name


def model_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of ``name``, as arguments of ``CustomTextCLIP``."""
    return geometry_config(name)


def clip_input_spec(variant: str, *, tag: str = "") -> InputSpec:
    """Input of ``variant``, without building the network. ``tag`` as for :class:`CLIPEncoder`."""
    name = canonical_name(variant)
    known = get_pretrained_cfg(name, tag or default_tag(name) or "")
    statistics = known or {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    size = model_config(name)["vision_cfg"]["image_size"]
    return InputSpec(size=size, mean=statistics["mean"], std=statistics["std"])


def default_tag(name: str) -> str | None:
    """The pretrained weights that ``name`` stands for: OpenAI's, else LAION-2B's last, else the first, else None."""
    tags = _fitting_tags(name)
    laion = [tag for tag in tags if tag.startswith("laion2b")]
    return "openai" if "openai" in tags else next(iter(laion[-1:] or tags), None)


def _fitting_tags(name: str) -> list[str]:
    """Tags of weights that were trained with the activation of ``name``."""
    quick = bool(open_clip.get_model_config(name).get("quick_gelu"))
    tags = list_pretrained_tags_by_model(name)
    return [tag for tag in tags if bool(get_pretrained_cfg(name, tag).get("quick_gelu")) == quick]


def clip_source(name: str, tag: str = "") -> WeightSource:
    """Where the weights ``tag`` ("" = :func:`default_tag`) of the variant ``name`` are found.

    Raises:
        ValueError: if there are none, or they were trained with the other activation.
    """
    chosen, fitting = tag or default_tag(name), _fitting_tags(name)
    if chosen is None or chosen not in fitting:
        other = name.removesuffix(QUICK) if name.endswith(QUICK) else name + QUICK
        better = _fitting_tags(other) if other in clip_variants() else []
        fits = chosen in better if chosen else bool(better)
        hint = f"; those of `variant` {other} were trained with its activation: use that" if fits else ""
        wanted = f" {chosen!r}" if chosen else ""
        msg = f"{name} has no pretrained weights{wanted}{hint}. Fitting values of `tag`: {', '.join(fitting) or 'none'}"
        raise ValueError(msg)
    config = get_pretrained_cfg(name, chosen)
    url, (owner, project, *hub_file) = config.get("url", ""), config["hf_hub"].rstrip("/").split("/")
    repo, file = f"{owner}/{project}", url.rsplit("/", 1)[-1]
    own = tuple(f"{name}.{chosen}.{suffix}" for suffix in ("safetensors", "bin", "pt"))
    return WeightSource(
        names=(file, *own) if url else own,
        page=f"https://huggingface.co/{repo}",
        url=url,
        repo=repo,
        repo_files=tuple(hub_file) or ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
        sha256=_digest_in(url),
    )


def _digest_in(url: str) -> dict[str, str]:
    """The SHA-256 that OpenAI's and OpenCLIP's links carry: a folder name, or the last 8 digits of the file name."""
    folder, _, file = url.rpartition("/")
    whole, short = re.search(r"/([0-9a-f]{64})$", folder), re.search(r"-([0-9a-f]{8})\.pth?$", file)
    found = whole or short
    return {file: found[1]} if found else {}


def read_clip(name: str, weights: str | Path, tag: str = "") -> State | None:
    """Weights of the variant ``name`` by the names of :class:`CLIPEncoder`; None for ``random`` and ``tiny``.

    Raises:
        WeightsError: if the file cannot be had, or is OpenAI's and ``name`` has no QuickGELU.
    """
    source = clip_source(name, tag) if weights_kind(weights) == "pretrained" else WeightSource((), "")
    path = resolve_weights(weights, source)
    if path is None:
        return None
    state = read_checkpoint(path)
    if (is_jit_archive(path) or SETTINGS[0] in state) and not name.endswith(QUICK):
        msg = (
            f"{path} holds OpenAI's weights, trained with QuickGELU; {name} has GELU and would give wrong features: "
            f"set `variant` to {name + QUICK}"
        )
        raise WeightsError(msg)
    return rename_clip(state)
