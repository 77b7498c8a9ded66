"""Inference of promptable segmenters, with the prompts that travel in the image's meta data."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from fairmedfm_monai.inferers.slices import background, segment_slices, split_by_slice, to_grid
from fairmedfm_monai.transforms.prompts import PROMPTS_KEY, USER, Prompt, label_values

logger = logging.getLogger(__name__)

# Above this size of the output, half precision: only the sign of a logit and the order of two labels matter afterwards.
_HALF_PRECISION_FROM = 2**30


class PromptedInferer(Inferer):
    """Segment everything that the prompts in ``inputs.meta["prompts"]`` point at.

    The meta data is written by `fairmedfm_monai.transforms.PromptsToMetad` and is the one road that serves
    DataLoaders, MONAI Label and MONAI Deploy alike. A 2D segmenter goes through a volume slice by slice; every slice
    with a prompt is embedded once for all labels and kinds, the others not at all.

    Args:
        labels: label names, or name -> mask value, in the order of the channels.
        kinds: the kinds of prompts, in the order of the channels: those that are simulated, or ``user``.
        axis: the axis that numbers the slices of a volume, in the preprocessed image.
        slice_batch: slices per call of the image encoder.
        prompt_batch: prompts per call of the mask decoder; lower it where memory is short.
        dtype: of the output: "float32", "float16", or "auto" = float16 where float32 would take more than 1 GiB.
        device: where the output is put together, e.g. "cpu" for volumes too big for the GPU; None = where the input is.
    """

    def __init__(
        self,
        labels: Mapping[str, int] | Sequence[str],
        kinds: Sequence[str] = (USER,),
        *,
        axis: int = -1,
        slice_batch: int = 8,
        prompt_batch: int = 32,
        dtype: str = "auto",
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        self.labels, self.kinds = list(label_values(labels)), list(kinds)
        if isinstance(kinds, str) or not kinds or min(slice_batch, prompt_batch) < 1 or axis not in range(-3, 3):
            msg = (
                "kinds must be a list of names, slice_batch and prompt_batch at least 1, axis -3..2, got "
                f"{kinds!r}, {slice_batch}, {prompt_batch}, {axis}"
            )
            raise ValueError(msg)
        if dtype not in {"auto", "float32", "float16"}:
            msg = f"dtype must be 'auto', 'float32' or 'float16', got {dtype!r}"
            raise ValueError(msg)
        pairs = [(kind, label) for kind in self.kinds for label in self.labels]
        self.channels = {pair: channel for channel, pair in enumerate(pairs)}
        self.axis, self.slice_batch, self.prompt_batch = axis % 3, slice_batch, prompt_batch
        self.dtype, self.device = dtype, device

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Mask logits of all prompts.

        Args:
            inputs: (1, C, H, W) or (1, C, H, W, D), C = 1 or 3, in the range that the network expects (0..255).
            network: a `fairmedfm_monai.networks.segmenters.PromptableSegmenter`, possibly inside
                DistributedDataParallel.
            args: not used; callers such as MONAI Deploy hand over whatever the preprocessing left.
            kwargs: not used, likewise.

        Returns:
            (1, kinds x labels, H, W[, D]), channel = kind index x number of labels + label index, with the meta data
            and applied operations of a MetaTensor `inputs`, so that ``Invertd`` works. Object where positive; -1e4
            wherever there is no prompt, so a case without any prompt comes out as background, with a warning.

        Raises:
            TypeError: the network takes no prompts.
            ValueError: several images in a batch, another number of channels, prompts that are no JSON or that are of a
                kind or label this inferer was not built for, or a network of dimensions that it cannot drive.
        """
        network = _unwrap(network)
        _check_inputs(inputs, network)
        prompts = self._read_prompts(inputs)
        if not prompts:
            name = inputs.meta.get("filename_or_obj", "image") if isinstance(inputs, MetaTensor) else "image"
            logger.warning("%s has no prompt: everything is background", name)
        image = inputs.as_tensor()[0] if isinstance(inputs, MetaTensor) else inputs[0]
        shape = tuple(image.shape[1:])
        slices = split_by_slice(prompts, channels=self.channels, shape=shape, axis=self.axis)
        masks = background(
            len(self.channels), image, axis=self.axis, dtype=self._dtype(shape), device=self.device or image.device
        )
        batches = {"slice_batch": self.slice_batch, "prompt_batch": self.prompt_batch}
        segment_slices(image, network, slices, masks, axis=self.axis, **batches)
        pred = to_grid(masks, axis=self.axis, spatial_dims=len(shape))[None]
        return MetaTensor(pred).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else pred

    def _dtype(self, shape: tuple[int, ...]) -> torch.dtype:
        big = torch.Size((len(self.channels), *shape)).numel() * 4 > _HALF_PRECISION_FROM
        return torch.float16 if self.dtype == "float16" or (self.dtype == "auto" and big) else torch.float32

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


def _unwrap(network: Any) -> Any:
    """The segmenter itself; DistributedDataParallel hides its methods."""
    network = network if hasattr(network, "embed") else getattr(network, "module", network)
    if not (hasattr(network, "embed") and hasattr(network, "decode")):
        msg = f"network must be a promptable segmenter with embed and decode, got {type(network).__name__}"
        raise TypeError(msg)
    return network


def _check_inputs(inputs: Tensor, network: Any) -> None:
    if inputs.ndim not in (4, 5) or inputs.shape[0] != 1 or inputs.shape[1] not in (1, 3):
        msg = (
            "inputs must be one image (1, C, H, W) or volume (1, C, H, W, D) with C = 1 or 3, got shape "
            f"{tuple(inputs.shape)}; loaders of prompted bundles use batch size 1"
        )
        raise ValueError(msg)
    if network.spatial_dims != 2:
        msg = f"network must be a 2D segmenter, got spatial_dims {network.spatial_dims}"
        raise ValueError(msg)
