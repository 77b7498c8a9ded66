"""Inference of promptable segmenters, with the prompts that travel in the image's meta data."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor
from tqdm import tqdm

from fairmedfm_monai.catalog.prompt_kinds import parse_kind
from fairmedfm_monai.inferers.assembly import OUTPUTS, Assembly
from fairmedfm_monai.inferers.clicks import click_records
from fairmedfm_monai.inferers.memory import BatchSize
from fairmedfm_monai.inferers.propagation import StopRule, propagate_boxes, propagate_memory
from fairmedfm_monai.inferers.slice_prompts import check_accepted, split_by_slice
from fairmedfm_monai.inferers.slices import SliceRun, segment_slices
from fairmedfm_monai.inferers.volume_prompts import check_finite
from fairmedfm_monai.inferers.voting import VOTE, majority
from fairmedfm_monai.transforms.prompts import PROMPTS_KEY, USER, Prompt, label_values

logger = logging.getLogger(__name__)

CLICK_DICE_KEY = "click_dice"
PROPAGATIONS = (None, "box", "memory")
# Above this size of the output, half precision: only the sign of a logit and the order of two labels matter afterwards.
_HALF_PRECISION_FROM = 2**30


class PromptedInferer(Inferer):
    """Segment everything that the prompts in ``inputs.meta["prompts"]`` point at.

    The meta data is written by `fairmedfm_monai.transforms.PromptsToMetad` and is the one road that serves
    DataLoaders, MONAI Label and MONAI Deploy alike. A 2D segmenter goes through a volume slice by slice; every slice
    with a prompt is embedded once for all labels, kinds and correction clicks, the others not at all. A segmenter of
    volumes sees windows around the prompts in its own spacing.

    Args:
        labels: label names, or name -> mask value, in the order of the channels.
        kinds: the kinds of prompts, in the order of the channels: those that are simulated, or ``user``. For kinds
            with correction clicks (``center-k5``), the Dice after each click comes as ``meta["click_dice"]``.
        axis: the axis that numbers the slices of a volume, in the preprocessed image; "vote": all three, and what at
            least two of them say (see `fairmedfm_monai.inferers.voting.majority`). Prompts made for one axis (key
            ``axis``) are used along that axis only. Segmenters of volumes ignore it.
        propagation: None: only slices with prompts are segmented. "box": objects are carried from slice to slice by the
            box of their mask. "memory": by the network's own memory (the SAM 2 family).
        stop: when an object that is carried by its box ends; None = `StopRule` as it is.
        output: "logits", or "masks" (uint8, 0 and 1), one channel per kind and label; or "label_map": one channel with
            the values of the labels, where they overlap that with the larger logit, for one kind of prompt.
        threshold: logits above it are object, in "masks" and "label_map".
        slice_batch: slices per call of the image encoder; halved, with a warning, when memory runs out.
        prompt_batch: prompts per call of the mask decoder; likewise.
        max_windows: windows per prompt of segmenters of volumes.
        dtype: of logits: "float32", "float16", or "auto" = float16 where float32 would take more than 1 GiB.
        device: where the output is put together, e.g. "cpu" for volumes too big for the GPU; None = where the input is.
        progress: show a progress bar on stderr.
    """

    def __init__(
        self,
        labels: Mapping[str, int] | Sequence[str],
        kinds: Sequence[str] = (USER,),
        *,
        axis: int | str = -1,
        propagation: str | None = None,
        stop: StopRule | None = None,
        output: str = "logits",
        threshold: float = 0.0,
        slice_batch: int = 8,
        prompt_batch: int = 32,
        max_windows: int = 27,
        dtype: str = "auto",
        device: str | torch.device | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.values = label_values(labels)
        self.labels, self.kinds = list(self.values), list(kinds)
        if isinstance(kinds, str) or not kinds or min(slice_batch, prompt_batch, max_windows) < 1:
            msg = (
                "kinds must be a list of names, slice_batch, prompt_batch and max_windows at least 1, got "
                f"{kinds!r}, {slice_batch}, {prompt_batch}, {max_windows}"
            )
            raise ValueError(msg)
        for kind in self.kinds:
            parse_kind(kind)
        choices: list[tuple[str, Any, Sequence[Any]]] = [
            ("dtype", dtype, ("auto", "float32", "float16")),
            ("output", output, OUTPUTS),
            ("propagation", propagation, PROPAGATIONS),
            ("axis", axis, (*range(-3, 3), VOTE)),
        ]
        for name, value, allowed in choices:
            if value not in allowed:
                msg = f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}"
                raise ValueError(msg)
        if output == "label_map" and len(self.kinds) > 1:
            msg = f"output 'label_map' takes one kind of prompt, got kinds {self.kinds}; use output='masks'"
            raise ValueError(msg)
        pairs = [(kind, label) for kind in self.kinds for label in self.labels]
        self.channels = {pair: channel for channel, pair in enumerate(pairs)}
        self.axes = (0, 1, 2) if isinstance(axis, str) else (axis % 3,)
        self.propagation, self.stop, self.output = propagation, stop or StopRule(), output
        self.threshold = threshold
        self.slice_batch, self.prompt_batch, self.max_windows = slice_batch, prompt_batch, max_windows
        self.dtype, self.device, self.progress = dtype, device, progress

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Masks of all prompts.

        Args:
            inputs: (1, C, H, W) or (1, C, H, W, D), C = 1 or 3, in the range that the network expects (0..255);
                (1, 1, X, Y, Z) in the file's own intensities for a segmenter of volumes.
            network: a `fairmedfm_monai.networks.segmenters.PromptableSegmenter`, possibly inside
                DistributedDataParallel.
            args: not used; callers such as MONAI Deploy hand over whatever the preprocessing left.
            kwargs: not used, likewise.

        Returns:
            (1, kinds x labels, H, W[, D]), channel = kind index x number of labels + label index, or (1, 1, H, W[, D])
            of label values, with the meta data and applied operations of a MetaTensor `inputs`, so that ``Invertd``
            works. Logits are positive where there is an object and -1e4 wherever there is no prompt, so a case without
            any prompt comes out as background, with a warning.

        Raises:
            TypeError: the network takes no prompts.
            ValueError: several images in a batch, another number of channels or dimensions than the network takes, NaN
                in the image, prompts that are no JSON, of a kind or label this inferer was not built for, or that the
                network does not take, or a propagation that it does not know.
        """
        network = _unwrap(network)
        self._check(inputs, network)
        prompts = self._read_prompts(inputs)
        if not prompts:
            name = inputs.meta.get("filename_or_obj", "image") if isinstance(inputs, MetaTensor) else "image"
            logger.warning("%s has no prompt: everything is background", name)
        image = inputs.as_tensor()[0] if isinstance(inputs, MetaTensor) else inputs[0]
        check_finite(image)
        if network.spatial_dims == 3:
            result, dice = self._segment_volume(image, _spacing(inputs), network, prompts)
        else:
            check_accepted(prompts, network.accepts, network=type(network).__name__)
            result, dice = self._segment_images(image, network, prompts)
        pred = result[None]
        if not isinstance(inputs, MetaTensor):
            return pred
        pred = MetaTensor(pred).copy_meta_from(inputs)
        if dice:
            pred.meta[CLICK_DICE_KEY] = json.dumps(click_records(dice))
        return pred

    def _segment_images(self, image: Tensor, network: Any, prompts: list[Prompt]) -> _Result:
        """Slice by slice along one axis, or along all three."""
        batches = {name: BatchSize(name, getattr(self, name)) for name in ("slice_batch", "prompt_batch")}
        results: list[Tensor] = []
        dice: list[tuple[int, Sequence[float]]] = []
        for axis in self.axes:
            slices = split_by_slice(prompts, channels=self.channels, shape=image.shape[1:], axis=axis)
            assembly = self._assembly(image, axis=axis)
            total = sum(map(len, slices.values()))
            if self.propagation:
                total = image.shape[1 + axis] * len({prompt.source for row in slices.values() for prompt in row})
            quiet = not self.progress or image.ndim == 3  # a bar per picture would bury the log of a folder of them
            with tqdm(total=total, desc=f"axis {axis}", unit="mask", disable=quiet, leave=False) as bar:
                run = SliceRun(image, network, assembly, axis=axis, bar=bar, **batches)
                if self.propagation == "memory":
                    propagate_memory(run, slices)
                elif self.propagation == "box":
                    propagate_boxes(run, slices, stop=self.stop)
                else:
                    segment_slices(run, slices)
            results.append(assembly.result())
            dice += [(channel, values) for (_, _, channel), values in sorted(run.dice.items())]
        return (majority(results, self.output) if len(results) > 1 else results[0]), dice

    def _segment_volume(
        self, volume: Tensor, spacing: tuple[float, ...], network: Any, prompts: list[Prompt]
    ) -> _Result:
        """Windows in the network's own spacing."""
        if network.volume_spec.zoom:
            from fairmedfm_monai.inferers.zoom import segment_zoomed as segment
        else:
            from fairmedfm_monai.inferers.windows import segment_windows as segment
        assembly = self._assembly(volume, axis=None)
        dice = segment(
            volume,
            spacing,
            network,
            prompts,
            assembly,
            channels=self.channels,
            prompt_batch=self.prompt_batch,
            max_windows=self.max_windows,
            progress=self.progress,
        )
        return assembly.result(), list(dice or ())

    def _assembly(self, image: Tensor, *, axis: int | None) -> Assembly:
        shape = tuple(image.shape[1:])
        big = torch.Size((len(self.channels), *shape)).numel() * 4 > _HALF_PRECISION_FROM
        half = self.dtype == "float16" or (self.dtype == "auto" and big)
        return Assembly(
            len(self.channels),
            shape,
            output=self.output,
            values=list(self.values.values()) if self.output == "label_map" else None,
            threshold=self.threshold,
            dtype=torch.float16 if half else torch.float32,
            device=self.device or image.device,
            axis=axis,
        )

    def _check(self, inputs: Tensor, network: Any) -> None:
        """Refuse what this inferer and the network cannot do."""
        dims = inputs.ndim - 2
        if dims not in (2, 3) or inputs.shape[0] != 1 or inputs.shape[1] not in (1, 3):
            msg = (
                "inputs must be one image (1, C, H, W) or volume (1, C, H, W, D) with C = 1 or 3, got shape "
                f"{tuple(inputs.shape)}; loaders of prompted bundles use batch size 1, and the volumes of a series "
                "(time points, several sequences) are cases of their own"
            )
            raise ValueError(msg)
        name = type(network).__name__
        if network.spatial_dims == 3:
            if inputs.ndim != 5 or inputs.shape[1] != 1:
                msg = f"{name} segments volumes (1, 1, X, Y, Z), got shape {tuple(inputs.shape)}; use a 2D segmenter"
                raise ValueError(msg)
            if self.propagation:
                msg = f"{name} segments volumes as a whole: set propagation to None, got {self.propagation!r}"
                raise ValueError(msg)
        elif dims == 2 and (self.propagation or len(self.axes) > 1):
            what = f"propagation {self.propagation!r}" if self.propagation else "axis 'vote'"
            msg = f"{what} needs a volume (1, C, H, W, D), got an image of shape {tuple(inputs.shape)}"
            raise ValueError(msg)

    def _read_prompts(self, inputs: Tensor) -> list[Prompt]:
        text: Any = inputs.meta.get(PROMPTS_KEY) if isinstance(inputs, MetaTensor) else None
        if isinstance(text, (list, tuple)) and len(text) == 1:
            text = text[0]  # a DataLoader makes a list of one
        if text is None:
            return []
        try:
            prompts: list[Prompt] = json.loads(text)
            unknown = {(prompt["kind"], prompt["label"]) for prompt in prompts} - set(self.channels)
        except (TypeError, ValueError, KeyError) as error:
            msg = f"meta['{PROMPTS_KEY}'] must be the JSON text that PromptsToMetad writes, got {str(text)[:200]!r}"
            raise ValueError(msg) from error
        if unknown:
            msg = (
                f"prompts of kind and label {sorted(unknown)} came, but the inferer was built for kinds {self.kinds} "
                f"and labels {self.labels}; give both the same `kinds` and `labels`"
            )
            raise ValueError(msg)
        return prompts


# The output (channels, spatial...) and, per object with correction clicks, its channel and Dice after each.
_Result = tuple[Tensor, list[tuple[int, Sequence[float]]]]


def _unwrap(network: Any) -> Any:
    """The segmenter itself; DistributedDataParallel hides its methods."""
    network = network if hasattr(network, "embed") else getattr(network, "module", network)
    if not (hasattr(network, "embed") and hasattr(network, "decode")):
        msg = f"network must be a promptable segmenter with embed and decode, got {type(network).__name__}"
        raise TypeError(msg)
    return network


def _spacing(inputs: Tensor) -> tuple[float, ...]:
    """Voxel spacing (3,) in mm; 1 where the image has no affine."""
    if not isinstance(inputs, MetaTensor):
        logger.warning("the volume has no affine: its voxels are taken as 1 mm wide")
        return (1.0, 1.0, 1.0)
    affine = inputs.affine[0] if inputs.affine.ndim == 3 else inputs.affine
    # Not MONAI's affine_to_spacing, which turns a spacing of zero into one.
    spacing = tuple(float(size) for size in affine[:3, :3].double().norm(dim=0))
    if not all(0 < size < math.inf for size in spacing):
        msg = f"the volume's affine must have voxels of positive size, got spacing {spacing}; mend the file's header"
        raise ValueError(msg)
    return spacing
