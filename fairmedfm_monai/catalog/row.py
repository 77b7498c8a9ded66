"""Reading and checking the catalog's rows."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

from fairmedfm_monai.catalog.releases import RELEASES, same_images

TASKS = ("classification", "segmentation")
COMMERCIAL_USE = ("yes", "no", "unstated")
# Outputs equal those of the authors' code on equal weights; every published tensor fits; a library's class is taken at
# its word; the weights were made by this project.
PROOF_LEVELS = ("official-equal", "keys-equal", "library-only", "trained-here")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the project knows of one foundation model.

    Attributes:
        name: slug, first part of the bundles' names.
        title: name that people read.
        task: ``classification`` or ``segmentation``.
        usages: usages it admits, each one bundle.
        network: dotted path of its class, called with ``variant`` and ``weights``.
        variants: variant name -> fields of ``input_spec`` that differ from the row's (often none), and
            ``lora_targets`` where its modules have other names.
        default_variant: the variant a bundle uses unless told otherwise.
        input_spec: ``size`` in pixels, ``channels``, ``mean`` and ``std`` per channel, of inputs in [0, 1]. Encoders of
            pictures also have ``resize``: ``mode`` (shortest, longest, squash), ``scale`` (edge before the crop /
            size), ``interpolation``, ``pad``; models that see volumes ``window`` (voxels along the three axes),
            ``axcodes``, ``spacing`` (mm; null = the image's own) and ``zoom``.
        prompts: prompt kinds it was trained for (segmentation).
        lora_targets: module names that LoRA adapts.
        weights: source, expected file names and hashes per variant; ``tokenizer``, where its files come from a hub:
            ``class``, ``repo`` and ``folder`` below the weights' cache.
        code_licence: SPDX name of the licence of the code.
        weights_licence: SPDX name of the licence of the weights, or ``unstated``.
        commercial_use: ``yes``, ``no`` or ``unstated``, as the weights' licence says.
        parameters: number of parameters per variant.
        peak_memory: ``{"value_gb": float | None, "status": "measured" | "estimated" | "unknown"}``.
        proof: what is proved about the loading code and the outputs.
        proof_level: one of ``PROOF_LEVELS``, the weakest claim unless told otherwise.
        description: one paragraph.
        intended_use: what it may be used for.
        training_data: data it was trained on, named so that leakage can be seen.
        overlaps: slugs of ``RELEASES`` whose images are part of its training data, in whole or in part.
        references: citations.
        demo_dataset: built-in dataset that its bundles use unless told otherwise.
        packages: packages that its network needs beside MONAI and torch.
        adjustable_input: whether its network also takes ``image_size``, ``pixel_mean`` and ``pixel_std``, which bundles
            that train it without prompts then offer.
    """

    name: str
    title: str
    task: str
    usages: tuple[str, ...]
    network: str
    variants: dict[str, dict[str, Any]]
    default_variant: str
    input_spec: dict[str, Any]
    weights: dict[str, Any]
    code_licence: str
    weights_licence: str
    commercial_use: str
    parameters: dict[str, int]
    peak_memory: dict[str, Any]
    proof: str
    description: str
    intended_use: str
    training_data: tuple[str, ...]
    references: tuple[str, ...]
    demo_dataset: str
    prompts: tuple[str, ...] = ()
    lora_targets: tuple[str, ...] = field(default=())
    overlaps: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    proof_level: str = "library-only"
    adjustable_input: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"`{key}` must be one of {', '.join(allowed)}, but got {value!r}"
            for key, value, allowed in (
                ("task", self.task, TASKS),
                ("commercial_use", self.commercial_use, COMMERCIAL_USE),
                ("proof_level", self.proof_level, PROOF_LEVELS),
                ("default_variant", self.default_variant, tuple(self.variants)),
            )
            if value not in allowed
        ]
        problems += [
            f"`overlaps` must hold slugs of {', '.join(RELEASES)}, but got {slug!r}"
            for slug in self.overlaps
            if slug not in RELEASES
        ]
        if {"lora", "lora_prompted"} & set(self.usages) and not self.lora_targets:
            problems.append("`lora_targets` must name modules because `usages` holds lora")
        if problems:
            msg = f"catalog row {self.name!r}: " + "; ".join(problems)
            raise ValueError(msg)

    @property
    def is_volumetric(self) -> bool:
        """Whether the model sees volumes and not slices."""
        return "window" in self.input_spec

    @property
    def is_restricted(self) -> bool:
        """Whether the weights' licence is unstated, or does not say that they may be used commercially."""
        return self.weights_licence == "unstated" or self.commercial_use != "yes"

    def saw(self, release: str) -> tuple[str, ...]:
        """Which of ``overlaps`` hold images of a release; empty where it was not trained on any of them."""
        return tuple(slug for slug in self.overlaps if slug in same_images(release))

    @property
    def bundles(self) -> tuple[str, ...]:
        """Names of the row's bundles, ``<fm>_<task>_<usage>``."""
        return tuple(f"{self.name}_{self.task}_{usage}" for usage in self.usages)


@lru_cache(maxsize=1)
def rows() -> dict[str, Row]:
    """All rows, by name."""
    found = {}
    for file in sorted(
        resources.files("fairmedfm_monai.catalog").joinpath("rows").iterdir(), key=lambda item: item.name
    ):
        if file.name.endswith(".json"):
            values = json.loads(file.read_text(encoding="utf-8"))
            lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
            row = Row(**{**values, **lists})
            found[row.name] = row
    return found


def find_row(name: str) -> Row:
    """The row of one foundation model.

    Raises:
        ValueError: for an unknown name; the message offers the nearest ones.
    """
    if name not in rows():
        near = difflib.get_close_matches(name, rows(), n=3) or sorted(rows())
        msg = f"`fm` must be a name of the catalog, but got {name!r}. Did you mean {', '.join(near)}?"
        raise ValueError(msg)
    return rows()[name]


def input_spec(fm: str, variant: str | None = None) -> dict[str, Any]:
    """What an FM expects: ``size`` (pixels), ``channels``, and ``mean`` and ``std`` per channel of inputs in [0, 1].

    ``resize`` (models of pictures) also holds ``edge``, the pixels to resize to before the middle is cut out.

    A plain dictionary, so that a configuration can name its entries without building a network.

    Raises:
        ValueError: for an unknown FM or variant.
    """
    row = find_row(fm)
    spec = {**row.input_spec, **_own_fields(row, variant)}
    spec.pop("lora_targets", None)
    if "resize" in spec:
        resize = {"pad": "centre", **spec["resize"]}
        spec["resize"] = {**resize, "edge": round(spec["size"] * resize["scale"])}
    return spec


def lora_targets(fm: str, variant: str | None = None) -> list[str]:
    """Names of the modules that LoRA adapts in a variant of an FM: the variant's own, or else the row's.

    Raises:
        ValueError: for an unknown FM or variant.
    """
    row = find_row(fm)
    return list(_own_fields(row, variant).get("lora_targets", row.lora_targets))


def _own_fields(row: Row, variant: str | None) -> dict[str, Any]:
    """What a variant (None: the default one) has of its own."""
    chosen = row.default_variant if variant is None else variant
    if chosen not in row.variants:
        near = difflib.get_close_matches(chosen, row.variants, n=3) or list(row.variants)
        msg = (
            f"`variant` must be one of {row.name!r} in the catalog, but got {chosen!r}. Did you mean {', '.join(near)}?"
        )
        raise ValueError(msg)
    return row.variants[chosen]
