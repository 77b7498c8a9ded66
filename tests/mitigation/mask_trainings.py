"""Segmenters in training, as bundles build them, with a small batch of two groups; for tests of methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from fairmedfm_monai.data import load_dataset
from fairmedfm_monai.data.dataset import DatasetInfo
from fairmedfm_monai.mitigation import Method
from fairmedfm_monai.networks.segmenters.base import PromptableSegmenter
from fairmedfm_monai.networks.segmenters.demo_sam import DemoSAM
from fairmedfm_monai.usages import (
    MergedState,
    PromptedDecoder,
    PromptedNetwork,
    PromptFreeNetwork,
    PromptFreeSegmenter,
    add_segmenter_lora,
)

USAGES = ("lora", "lora_prompted", "full_finetune", "decoder_finetune")
ADAPTED = USAGES[:2]
GRID = 24  # not the decoder's own: masks are resized
CODES = [0, 1, -1, 0]
SIZES = torch.tensor([[64, 64], [64, 48], [64, 64], [64, 48]])  # two kinds in turn: cases are decoded in another order


def two_sexes(folder: Path) -> DatasetInfo:
    """Slices of which some of both sexes are for training."""
    found = load_dataset(folder)
    table = found.table.copy()
    table["sex"] = ["female", "male"] * (len(table) // 2)
    return dataclasses.replace(found, table=table)


@dataclasses.dataclass
class Training:
    """A network for the trainer with a batch for it."""

    whole: Any  # what becomes network_def
    network: Any
    segmenter: Any
    adapted: Any = None

    @property
    def state(self) -> Any:
        return self.whole if self.adapted is None else MergedState(self.adapted)

    def inputs(self) -> tuple[Tensor, ...]:
        images = [picture(row)[:, :1] for row in range(len(SIZES))]
        padded = torch.cat([nn.functional.pad(image, (0, 64 - image.shape[-1])) for image in images])
        if isinstance(self.network, PromptFreeNetwork):
            return padded, SIZES
        coords, labels = torch.cat([box(row)[0] for row in range(4)]), torch.cat([box(row)[1] for row in range(4)])
        if isinstance(self.network, PromptedNetwork):
            return padded, coords, labels, SIZES
        vectors, sizes = zip(*(self.network.encode(image) for image in images), strict=True)
        return torch.cat(vectors), coords, labels, SIZES, torch.tensor(sizes)

    def alone(self, row: int) -> Tensor:
        """Logits (1, C, GRID, GRID) of one case, straight from the segmenter."""
        embedding = dataclasses.replace(self.segmenter.embed(picture(row)), original_size=tuple(SIZES[row].tolist()))
        if isinstance(self.network, PromptFreeNetwork):
            return self.whole.decode(dataclasses.replace(embedding, original_size=(GRID, GRID)))
        low_res, _ = self.segmenter.decode_low_res(embedding, *box(row))
        return self.segmenter.upscale(low_res, dataclasses.replace(embedding, original_size=(GRID, GRID)))


def picture(row: int) -> Tensor:
    """A grey image (1, 3, H, W), brighter with each row."""
    noise = torch.rand(1, 1, *SIZES[row].tolist(), generator=torch.Generator().manual_seed(row))
    return ((30 + 40 * row) * noise + 30).expand(-1, 3, -1, -1)


def box(row: int) -> tuple[Tensor, Tensor]:
    return torch.tensor([[[[4.0, 5.0 + row], [30.0, 40.0]]]]), torch.tensor([[[2, 3]]])


def make_training(usage: str, method: Method, make: Callable[[], PromptableSegmenter] | None = None) -> Training:
    """As a bundle builds it; adapters have values as after some steps."""
    segmenter: Any = DemoSAM("tiny") if make is None else make()
    whole = method.prepare(PromptFreeSegmenter(segmenter, 2) if usage == "lora" else segmenter)
    adapted = None
    if usage in ADAPTED:
        trained = ["prompt_encoder", "mask_decoder"] if usage == "lora" else ["mask_decoder"]
        options = {"rank": 2, "alpha": 2.0, "dropout": 0.0, "target_modules": ["qkv"], "trained": trained}
        adapted = add_segmenter_lora(whole, **options)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(3)
        for name, parameter in whole.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1, generator=generator)
    if usage == "lora":
        return Training(whole, PromptFreeNetwork(whole, grid=GRID), segmenter, adapted)  # type: ignore[arg-type]
    kind = PromptedDecoder if usage == "decoder_finetune" else PromptedNetwork
    return Training(whole, kind(segmenter, kinds=["box"], grid=GRID), segmenter, adapted)


def base_loss(usage: str) -> nn.Module:
    if usage == "lora":
        return DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True)
    return DiceCELoss(sigmoid=True, squared_pred=True)


def targets(usage: str) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    drawn = torch.randint(3 if usage == "lora" else 2, (len(SIZES), 1, 4, 4), generator=generator)
    return nn.functional.interpolate(drawn.float(), GRID)
