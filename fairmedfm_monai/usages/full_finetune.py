"""Full fine-tuning: encoder and head are trained together."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import nn

from fairmedfm_monai.usages.gradient_checkpointing import recompute
from fairmedfm_monai.usages.layer_decay import blocks, parameter_depths
from fairmedfm_monai.usages.linear_probe import LinearProbe
from fairmedfm_monai.usages.trainable import trainable_parameters

_LOGGER = logging.getLogger(__name__)


class FullFinetune(LinearProbe):
    """One linear layer on the features of an encoder that trains with it.

    Built frozen, as for inference; :func:`train_whole` makes it trainable. ``train()`` reaches the encoder: its dropout
    is active and its batch statistics move.

    Args:
        encoder: its text tower, if any, is released.
        num_classes: number C of logits.
        seed: of the head's initial weights.
        **options: ``pooling`` and ``negative``, as for :class:`~fairmedfm_monai.usages.classifier.Classifier`.
    """

    @torch.jit.unused
    def train(self, mode: bool = True) -> FullFinetune:
        """Set everything to training mode."""
        nn.Module.train(self, mode)
        return self


def train_whole(
    network: FullFinetune, *, image_shape: Sequence[int], gradient_checkpointing: bool = False
) -> FullFinetune:
    """Make every parameter that the logits depend on trainable, in place; the others stay frozen.

    Others are, e.g., the projection into the space of texts where the head reads what comes before it: without
    gradient the optimizer would decay them and several processes would wait for them.

    Args:
        network: the classifier.
        image_shape: (B, C, H, W[, N]) of images to find out with.
        gradient_checkpointing: of the encoder's blocks: one more forward pass for much less memory.
    """
    network.requires_grad_(True)
    used = parameter_depths(network, image_shape)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in used)
    trained, total = trainable_parameters(network)
    _LOGGER.info("%d of %d parameters train", trained, total)
    if gradient_checkpointing:
        recompute(blocks(network.encoder).values())
    return network
