"""Carrying objects from frame to frame by SAM 2's memory, with bounded memory and frames fetched one by one.

Ravi et al., "SAM 2: Segment Anything in Images and Videos", ICLR 2025, section 4 and appendix D.1: a frame attends to
the memories of all prompted frames and of the last six tracked ones, and to the object pointers of the last fifteen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.sam2_video.modeling_sam2_video import NO_OBJ_SCORE, get_1d_sine_pe

from fairmedfm_monai.networks.segmenters.base import NO_PROMPT

if TYPE_CHECKING:
    from fairmedfm_monai.networks.segmenters.sam2_core import Decoded, Features, Sam2Core

Prompts = Mapping[int, tuple[Tensor, Tensor]]
# Objects that attend to their memories together: about 0.5 GB for the attention at 1,024 pixels and a full memory.
OBJECTS_AT_ONCE = 4


@dataclass
class Bank:
    """Memories of P objects that were prompted on the same frames.

    Args:
        rows: (P,) numbers of the objects.
        prompted: frame -> (spatial memory (h w, P, M), pointers (P, C), low-resolution logits (P, h, w)).
        spatial: the last tracked frames -> spatial memory.
        pointers: the last tracked frames -> object pointers.
    """

    rows: Tensor
    prompted: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    spatial: dict[int, Tensor] = field(default_factory=dict)
    pointers: dict[int, Tensor] = field(default_factory=dict)

    @property
    def first(self) -> int:
        """The first prompted frame: tracking goes both ways from it."""
        return min(self.prompted)

    def forget(self, frame: int | None = None, *, n_spatial: int = 0, n_pointers: int = 0) -> None:
        """Drop tracked frames: all, or those further from ``frame`` than a later frame will look back."""
        for kept, reach in ((self.spatial, n_spatial), (self.pointers, n_pointers)):
            for old in [other for other in kept if frame is None or abs(frame - other) >= reach]:
                del kept[old]


@torch.no_grad()
def track(
    network: Sam2Core, frames: Callable[[int], Tensor], indices: Sequence[int], prompts: Prompts
) -> Iterator[tuple[int, Tensor]]:
    """Carry P objects from the frames on which they are prompted through all others.

    As in the authors' predictor, each object is tracked from its first prompted frame to the end, its other prompted
    frames being known from the start; then, as in MedSAM2's scripts for volumes, from that frame to the beginning,
    without the memories of the way forth. Objects do not influence each other. Not done: filling of holes up to 8
    pixels, which the authors' code does where its CUDA extension is installed.

    Args:
        network: a SAM 2 model.
        frames: index -> (3, H, W), intensities 0..255; called at most three times per frame, and only for one at once.
        indices: all frames in order; neighbours in this sequence count as one step of time.
        prompts: index -> coords (P, N, 2) and labels (P, N) as for ``decode`` on that frame. A row of nothing but
            padding = this object is not prompted there.

    Yields:
        (index, mask logits (P, H, W)); prompted frames first within their direction, each frame once. Where objects
        have different first frames, the frames between these come twice, each object being ``NO_PROMPT`` in one of
        them: merge by the larger logit. Objects that are prompted nowhere are ``NO_PROMPT`` on all frames.

    Raises:
        ValueError: if there is no prompt, a prompted frame is not in ``indices``, or shapes do not fit.
    """
    order = _check(indices, prompts)
    tracker = Tracker(network, frames, indices)
    banks = tracker.start(
        {order[index]: prompt for index, prompt in sorted(prompts.items(), key=lambda p: order[p[0]])}
    )
    firsts = [bank.first for bank in banks]
    if not firsts:
        msg = "`prompts` holds nothing but padding (labels -1): at least one object needs a point or a box"
        raise ValueError(msg)
    for frame in range(min(firsts), len(indices)):
        yield indices[frame], tracker.step([bank for bank in banks if bank.first <= frame], frame, reverse=False)
    for bank in banks:
        bank.forget()
    for frame in range(max(firsts) - 1, -1, -1):
        yield indices[frame], tracker.step([bank for bank in banks if bank.first > frame], frame, reverse=True)


class Tracker:
    """Steps of :func:`track`; frames are counted by their place in ``indices``."""

    def __init__(self, network: Sam2Core, frames: Callable[[int], Tensor], indices: Sequence[int]) -> None:
        self.network, self.model, self.config = network, network.sam2, network.sam2.config
        self.frames, self.indices = frames, indices
        self.n_objects = 0
        self.n_pointers = min(len(indices), self.config.max_object_pointers_in_encoder)

    def start(self, prompts: Prompts) -> list[Bank]:
        """Decode and remember the prompted frames."""
        labels = {frame: prompt[1] for frame, prompt in prompts.items()}
        self.n_objects = len(next(iter(labels.values())))
        banks = _banks(labels)
        for frame, (coords, marks) in prompts.items():
            image = self.fetch(frame)
            features = self.network.encode(self.network.preprocess_frame(image[None]))
            scaled, kinds = self.network.scale_coords(coords, image.shape[-2:]), marks.detach().cpu().long()
            for bank in banks:
                if (kinds[bank.rows] >= 0).any():
                    decoded = self.prompted(features, scaled[bank.rows], kinds[bank.rows])
                    spatial, pointers = self.remember(features, decoded, from_prompt=True)
                    bank.prompted[frame] = spatial, pointers, decoded.low_res
        return banks

    def step(self, banks: list[Bank], frame: int, *, reverse: bool) -> Tensor:
        """Logits (P, H, W) of one frame; objects of other banks are ``NO_PROMPT``."""
        image = self.fetch(frame)
        features = None
        low_res = image.new_full((self.n_objects, *self.model.prompt_encoder.mask_input_size), NO_PROMPT)
        for bank in banks:
            if frame in bank.prompted:
                low_res[bank.rows] = bank.prompted[frame][2].to(low_res)
                continue
            if features is None:
                features = self.network.encode(self.network.preprocess_frame(image[None]))
            decoded = self.tracked(features, bank, frame, reverse=reverse)
            bank.spatial[frame], bank.pointers[frame] = self.remember(features, decoded, from_prompt=False)
            bank.forget(frame, n_spatial=self.config.num_maskmem - 1, n_pointers=self.n_pointers - 1)
            low_res[bank.rows] = decoded.low_res.to(low_res)
        return F.interpolate(low_res[None], image.shape[-2:], mode="bilinear", align_corners=False)[0]

    def fetch(self, frame: int) -> Tensor:
        """Frame (3, H, W) as float32 on the network's device."""
        image = self.frames(self.indices[frame])
        if image.ndim != 3 or image.shape[0] != 3:
            msg = (
                f"`frames({self.indices[frame]})` must be (3, H, W) with intensities 0..255, but has shape "
                f"{tuple(image.shape)}; repeat a grey channel three times"
            )
            raise ValueError(msg)
        return image.as_subclass(Tensor).float().to(self.network.pixel_mean.device)

    def prompted(self, features: Features, coords: Tensor, labels: Tensor) -> Decoded:
        """Decode a prompted frame: no memory, and a lone point chooses among three masks."""
        top = features.top + self.model.no_memory_embedding.view(1, -1, 1, 1)
        decoded = self.network.decode_rows(top, features.high_res, coords, labels, multimask=None, stability=True)
        return _hide_absent(decoded)

    def tracked(self, features: Features, bank: Bank, frame: int, *, reverse: bool) -> Decoded:
        """Decode a frame from memory alone, with the best of three masks."""
        top = self.attend(features, bank, frame, reverse=reverse)
        empty = torch.zeros(len(top), 1, 2), torch.full((len(top), 1), -1)
        decoded = self.network.predict(top, features.high_res, *empty, multimask=True, stability=True)
        return _hide_absent(decoded)

    def attend(self, features: Features, bank: Bank, frame: int, *, reverse: bool) -> Tensor:
        """Image features (P, C, h, w) conditioned on the bank's memories."""
        way = -1 if reverse else 1
        times = self.model.memory_temporal_positional_encoding  # of 1, 2, ... frames ago; the last: prompted frames
        size = features.top.shape[-2:]
        place = _flat(self.model.memory_encoder.position_encoding((1, 1, *size), times.device, times.dtype))
        spatial = [(memory, times[-1]) for memory, _, _ in bank.prompted.values()]
        for ago in range(self.config.num_maskmem - 1, 0, -1):
            if frame - way * ago in bank.spatial:
                spatial.append((bank.spatial[frame - way * ago], times[ago - 1]))
        pointers = [
            (way * (frame - other), row[1]) for other, row in bank.prompted.items() if way * (frame - other) >= 0
        ]
        for ago in range(1, self.n_pointers):
            if frame - way * ago in bank.pointers:
                pointers.append((ago, bank.pointers[frame - way * ago]))
        memory = [entry for entry, _ in spatial]
        position = [(place + time).expand(-1, len(bank.rows), -1) for _, time in spatial]
        tokens, at = self.pointer_tokens(pointers)
        fused = self.model.memory_attention(
            current_vision_features=_flat(features.top).expand(-1, len(bank.rows), -1),
            current_vision_position_embeddings=_flat(features.position),
            memory=torch.cat([*memory, tokens]).to(features.top.dtype),
            memory_posision_embeddings=torch.cat([*position, at]),
            num_object_pointer_tokens=len(tokens),
        )
        return fused[0].transpose(1, 2).unflatten(-1, size)

    def pointer_tokens(self, pointers: list[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
        """Object pointers, cut into tokens of the memory's width, and the encoding of how long ago they were made.

        Args:
            pointers: (frames ago, (P, C)).

        Returns:
            Both (tokens, P, M).
        """
        width = self.model.mem_dim
        if not pointers:
            return self.model.no_object_pointer.new_zeros(0, 1, width), self.model.no_object_pointer.new_zeros(
                0, 1, width
            )
        stacked = torch.stack([pointer for _, pointer in pointers])
        ago = torch.tensor([float(ago) for ago, _ in pointers], device=stacked.device) / (self.n_pointers - 1)
        project = self.model.temporal_positional_encoding_projection_layer
        encoding = project(get_1d_sine_pe(ago, dim=stacked.shape[-1]).to(stacked.dtype))
        parts = stacked.shape[-1] // width
        tokens = stacked.unflatten(-1, (parts, width)).transpose(1, 2).flatten(0, 1)
        return tokens, encoding.repeat_interleave(parts, dim=0)[:, None].expand(-1, stacked.shape[1], -1)

    def remember(self, features: Features, decoded: Decoded, *, from_prompt: bool) -> tuple[Tensor, Tensor]:
        """Spatial memory (h w, P, M) and object pointers (P, C) of one frame.

        The masks of prompted frames are remembered as the user sees them, binary; those of others as probabilities.
        """
        height, width = self.model.prompt_encoder.mask_input_size
        high_res = F.interpolate(
            decoded.low_res[:, None].float(), (4 * height, 4 * width), mode="bilinear", align_corners=False
        )
        mask = (high_res > 0).float() if from_prompt else high_res.sigmoid()
        mask = mask * self.config.sigmoid_scale_for_mem_enc + self.config.sigmoid_bias_for_mem_enc
        top = features.top.expand(len(mask), -1, -1, -1)
        memory, _ = self.model.memory_encoder(top, mask.to(top.dtype))
        absent = (decoded.score <= 0).to(memory.dtype)
        memory = memory + absent.view(-1, 1, 1, 1) * self.model.occlusion_spatial_embedding_parameter.view(1, -1, 1, 1)
        pointers = self.model.object_pointer_proj(decoded.token)
        pointers = torch.where(absent[:, None] > 0, self.model.no_object_pointer, pointers)
        # The authors store memories in this precision, on any device.
        return _flat(memory.to(torch.bfloat16)), pointers


def _hide_absent(decoded: Decoded) -> Decoded:
    """Masks of objects that are not there, by the decoder's own score, are background."""
    absent = (decoded.score <= 0)[:, None, None]
    return decoded._replace(low_res=decoded.low_res.masked_fill(absent, NO_OBJ_SCORE))


def _flat(features: Tensor) -> Tensor:
    """(B, C, h, w) to (h w, B, C)."""
    return features.flatten(2).permute(2, 0, 1)


def _banks(labels: Mapping[int, Tensor]) -> list[Bank]:
    """Objects that are prompted on the same frames, at most ``OBJECTS_AT_ONCE`` in a bank."""
    prompted = torch.stack([(marks >= 0).any(-1).cpu() for marks in labels.values()], dim=-1)
    banks = []
    for pattern in prompted.unique(dim=0):
        rows = (prompted == pattern).all(-1).nonzero().flatten()
        if pattern.any():
            banks += [Bank(rows=chunk) for chunk in rows.split(OBJECTS_AT_ONCE)]
    return banks


def _check(indices: Sequence[int], prompts: Prompts) -> dict[int, int]:
    """Index -> its place in ``indices``."""
    order = {index: place for place, index in enumerate(indices)}
    if len(order) != len(indices):
        msg = f"`indices` must name each frame once, but names {len(indices) - len(order)} of them again"
        raise ValueError(msg)
    outside = sorted(set(prompts) - set(order))
    if not prompts or outside:
        what = f"frames {outside} of `prompts` are not in `indices`" if outside else "`prompts` is empty"
        msg = f"{what}: give coords and labels for at least one of the {len(indices)} frames"
        raise ValueError(msg)
    shapes = {labels.shape[0] for _, labels in prompts.values()}
    bad = [
        index for index, (coords, labels) in prompts.items() if labels.ndim != 2 or coords.shape != (*labels.shape, 2)
    ]
    if bad or len(shapes) > 1:
        msg = (
            f"`prompts` must hold coords (P, N, 2) and labels (P, N) with the same P for each frame; see frame(s) {bad}"
        )
        raise ValueError(msg)
    return order
