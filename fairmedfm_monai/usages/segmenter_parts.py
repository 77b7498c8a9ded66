"""The parts of a promptable segmenter, and which of them train.

A segmenter that is to be trained has the parts ``image_encoder`` (everything between image and embedding),
``prompt_encoder`` and ``mask_decoder``: children of these names, or what its attribute ``parts`` (part -> path of the
module) says instead. Other modules stay frozen in every usage but a full fine-tuning.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairmedfm_monai.usages.trainable import trainable_parameters

PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")
_LORA = "lora_"
_LOGGER = logging.getLogger(__name__)


def part_path(segmenter: nn.Module, name: str) -> str:
    """Path inside the segmenter of one of `PARTS`.

    Raises:
        ValueError: when the segmenter has no such part.
    """
    path = str(getattr(segmenter, "parts", {}).get(name, name))
    try:
        segmenter.get_submodule(path)
    except AttributeError as error:
        children = ", ".join(child for child, _ in segmenter.named_children())
        msg = (
            f"{type(segmenter).__name__} cannot be trained: it needs a child {name!r}, or an attribute `parts` that "
            f"says where that is (the parts of a segmenter are {', '.join(PARTS)}); its children are {children}"
        )
        raise ValueError(msg) from error
    return path


def part(segmenter: nn.Module, name: str) -> nn.Module:
    """One of `PARTS`; ValueError where there is none."""
    return segmenter.get_submodule(part_path(segmenter, name))


def whole_path(network: nn.Module, name: str) -> str:
    """Path of one of `PARTS` inside a segmenter, or inside what has one as its child ``segmenter``."""
    inner = getattr(network, "segmenter", None)
    return f"segmenter.{part_path(inner, name)}" if isinstance(inner, nn.Module) else part_path(network, name)


def train_only(segmenter: nn.Module, parts: Sequence[str]) -> None:
    """Freeze a segmenter but for some of `PARTS`."""
    segmenter.requires_grad_(False)
    for name in parts:
        part(segmenter, name).requires_grad_(True)


def set_modes(segmenter: nn.Module, mode: bool) -> None:
    """Training mode for the parts that train; the frozen rest stays in evaluation mode whatever ``mode`` is.

    Batch statistics and dropout of a frozen part must not move. Of a part that only LoRA adapts, the adapters' dropout
    alone follows ``mode``.
    """
    segmenter.train(False)
    if not mode:
        return
    for name in PARTS:
        own = part(segmenter, name)
        if any(parameter.requires_grad for key, parameter in own.named_parameters() if _LORA not in key):
            own.train(True)
    for name, module in segmenter.named_modules():
        if "lora_dropout" in name:
            module.train(True)


def freeze_unreached(network: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """Freeze what the loss cannot reach, so that weight decay leaves it alone and no process waits for its gradient.

    Such are the head that predicts the IoU and the embeddings of prompts that are never given. One forward and backward
    pass in evaluation mode finds them; gradients, modes and the random state stay as they were.

    Args:
        network: gives logits.
        inputs: its arguments; prompts of all kinds that the training will use.

    Returns:
        Names of the frozen tensors.

    Raises:
        RuntimeError: if nothing is left to train or an adapter gets no gradient.
    """
    trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    training = network.training
    network.eval()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        loss = network(*inputs).float().square().sum()
        gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True) if trainable else ()
    network.train(training)
    idle = [name for name, gradient in zip(trainable, gradients, strict=True) if gradient is None]
    adapters = [name for name in idle if _LORA in name]
    if adapters or len(idle) == len(trainable):
        what = f"the adapter {adapters[0]}" if adapters else "any parameter that is to be trained"
        msg = f"no gradient reaches {what} of {type(network).__name__}; choose other `target_modules` or parts"
        raise RuntimeError(msg)
    for name in idle:
        trainable[name].requires_grad_(False)
    count, total = trainable_parameters(network)
    _LOGGER.info("%d of %d parameters train; %d tensors that the loss cannot reach are frozen", count, total, len(idle))
    return idle
