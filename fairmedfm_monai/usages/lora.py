"""LoRA (Hu et al., ICLR 2022) through peft: low-rank updates of an encoder, trained together with other parts."""

from __future__ import annotations

import copy
import difflib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked, read_checkpoint
from fairmedfm_monai.networks.weights import seeded
from fairmedfm_monai.usages.fused_qkv import fuse_qkv
from fairmedfm_monai.usages.gradient_checkpointing import recompute
from fairmedfm_monai.usages.layer_decay import blocks
from fairmedfm_monai.usages.trainable import trainable_parameters

ADAPTER_NAME = "adapter.safetensors"
_SAME = 1e-3  # of the largest value: merging rounds, and graphics cards more than others


def add_lora(
    network: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    target_modules: Sequence[str],
    encoder: str = "encoder",
    trained: Sequence[str] = ("head",),
    seed: int = 0,
    gradient_checkpointing: bool = False,
) -> peft.PeftModel:
    """Put adapters into an encoder; they and ``trained`` are what trains.

    ``network`` is changed in place. Save it through :class:`MergedState`.

    Args:
        network: e.g. a classifier with ``encoder`` and ``head``, such as ``LinearProbe``.
        rank: r of the update W + alpha / r * B A.
        alpha: its scale.
        dropout: probability at the input of A (peft applies none to ``nn.MultiheadAttention``).
        target_modules: last parts of module names inside the encoder, e.g. ``c_fc`` and ``c_proj`` of open_clip's ViT.
        encoder: name of the module that gets the adapters.
        trained: names of the modules that train as a whole.
        seed: of A (B starts at zero, so nothing changes before the first step).
        gradient_checkpointing: of the encoder's blocks: one more forward pass for much less memory.

    Raises:
        ValueError: for a rank below 1, a target that matches nothing, or something that takes no adapter, or a layer
            inside ``nn.MultiheadAttention``, whose weight is read past the adapter: it would never train.
    """
    if rank < 1 or not 0 <= dropout < 1:
        msg = f"`rank` must be at least 1 and `dropout` in [0, 1), but got {rank} and {dropout}"
        raise ValueError(msg)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_matches(network, target_modules, encoder=encoder),
    )
    if gradient_checkpointing:  # before there are adapters: they would pass for blocks
        recompute(blocks(network.get_submodule(encoder)).values())
    with seeded(seed):
        model = peft.get_peft_model(network, config)
    # Not through peft's `modules_to_save`: it goes by the end of a name and would take an encoder's `image_head` too.
    for name in trained:
        network.get_submodule(name).requires_grad_(True)
    return model


def _matches(network: nn.Module, targets: Sequence[str], *, encoder: str) -> list[str]:
    """Full names of the modules that ``targets`` mean, checked."""
    modules = {f"{encoder}.{name}": module for name, module in network.get_submodule(encoder).named_modules() if name}
    found: list[str] = []
    for target in targets:
        names = [name for name in modules if name.endswith(f".{target}")]
        inside = [name for name in names if isinstance(modules.get(name.rpartition(".")[0]), nn.MultiheadAttention)]
        if inside:
            owner = inside[0].split(".")[-2]
            msg = (
                f"`target_modules`: {target} lies inside nn.MultiheadAttention, which reads its weight directly, so an "
                f"adapter there gets no gradient; name the attention itself ({owner})"
            )
            raise ValueError(msg)
        linear = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)
        unfit = [f"{name} ({type(modules[name]).__name__})" for name in names if not isinstance(modules[name], linear)]
        if unfit or not names:
            known = sorted({name.rpartition(".")[2] for name, module in modules.items() if isinstance(module, linear)})
            raise ValueError(_no_layer(target, unfit[0] if unfit else "", known))
        found += names
    if not found:
        msg = "`target_modules` must name at least one kind of layer"
        raise ValueError(msg)
    return found


def _no_layer(target: str, unfit: str, known: Sequence[str]) -> str:
    """What is wrong with a target (``unfit``: a module that it means), which names are near and where to choose."""
    problem = f"nothing in the encoder is called {target}"
    if unfit:
        problem = f"{target} means {unfit}, which takes no adapter"
    near = difflib.get_close_matches(target.rpartition(".")[2], known, n=3, cutoff=0.4)
    nearest = f" (nearest: {', '.join(near)})" if near else ""
    return (
        f"`target_modules`: {problem}; layers there are {', '.join(known)}{nearest}. Choose by `lora_targets` of "
        "train.json or of the command line; its default is the field `lora_targets` of the FM's catalog row, or of its "
        "variant there"
    )


def check_gradients(network: nn.Module, image: Tensor | Sequence[int]) -> int:
    """Make sure that every trainable parameter is reached by the gradient; return the number of trainable parameters.

    One forward and backward pass in evaluation mode; gradients, modes and the random state stay as they were.

    Args:
        network: gives logits (B, C).
        image: (B, C, H, W) images, or that shape (zeros are then used).

    Raises:
        RuntimeError: if nothing is trainable or a parameter gets no gradient, naming the first ones.
    """
    trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if not trainable:
        msg = "the network has no trainable parameter"
        raise RuntimeError(msg)
    device = next(iter(trainable.values())).device
    sample = image if isinstance(image, Tensor) else torch.zeros(tuple(image))
    training = network.training
    network.eval()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        loss = network(sample.to(device)).float().square().sum()
        gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
    network.train(training)
    idle = [name for name, gradient in zip(trainable, gradients, strict=True) if gradient is None]
    if idle:
        msg = (
            f"{len(idle)} of {len(trainable)} trainable tensors get no gradient and would never train, first "
            f"{', '.join(idle[:3])}; choose other `target_modules`"
        )
        raise RuntimeError(msg)
    return trainable_parameters(network)[0]


class MergedState:
    """What a CheckpointSaver saves of a LoRA model: its ``state_dict`` is that of the plain, merged network.

    Make it before training: it remembers the base weights, because peft adds and subtracts the update of
    ``nn.MultiheadAttention`` in every forward pass and rounding lets the frozen weights drift.

    Args:
        model: result of :func:`add_lora`.
        adapter: file for the adapters, written whenever the state is taken, so that the two are of the same epoch.
    """

    def __init__(self, model: peft.PeftModel, *, adapter: str | Path | None = None) -> None:
        self._model = model
        self._adapter = adapter
        self._base = {
            f"{name}.{part}": parameter.detach().clone()
            for name, layer in _lora_layers(model)
            for part, parameter in layer.get_base_layer().named_parameters(recurse=False)
        }

    def merged(self) -> nn.Module:
        """The plain network (a copy) with the adapters folded into its weights, without peft."""
        model = copy.deepcopy(self._model)
        with torch.no_grad():
            for name, layer in _lora_layers(model):
                for part, parameter in layer.get_base_layer().named_parameters(recurse=False):
                    parameter.copy_(self._base[f"{name}.{part}"])
        plain = model.merge_and_unload()
        fuse_qkv(plain)
        return plain

    def state_dict(self) -> dict[str, Tensor]:
        """Names and values of :meth:`merged`; writes the adapters beside where that was asked for."""
        if self._adapter is not None:
            save_adapter(self._model, self._adapter)
        return dict(self.merged().state_dict())

    def start(self, checkpoint: str | Path) -> None:
        """Go on from what another instance saved.

        Adapters, and what trained beside them, come from ``adapter.safetensors`` beside the checkpoint, all else but
        the adapted layers from the checkpoint itself. Those layers keep the weights of the foundation model, so that
        the same parameters train on; merged they must be the checkpoint's, which shows that all belongs together.

        Args:
            checkpoint: ``model.pt``.

        Raises:
            WeightsError: a checkpoint of another model, rank or targets, adapters missing or of another checkpoint, or
                other weights of the foundation model.
        """
        path = Path(checkpoint)
        adapter, state = path.with_name(ADAPTER_NAME), read_checkpoint(path)
        if not adapter.is_file():
            msg = f"{path} has no {ADAPTER_NAME} beside it, which its training wrote: without it LoRA cannot go on"
            raise WeightsError(msg)
        load_checked(self.merged(), state, origin=str(path))  # names and shapes; the copy is thrown away
        load_adapter(self._model, adapter)
        own = self._model.get_base_model().state_dict()
        with torch.no_grad():
            for name in own.keys() & state.keys():
                own[name].copy_(state[name])
        again = self.merged().state_dict()
        for name in sorted(state.keys() - own.keys()):
            given = state[name].to(again[name])
            if not torch.allclose(again[name], given, rtol=0, atol=_SAME * float(given.abs().max())):
                msg = (
                    f"{path} and {adapter.name} do not give the same model here, first {name}: `weights` must be the "
                    "foundation model's that the training had, and both files of one training"
                )
                raise WeightsError(msg)


def _lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    return ((name, module) for name, module in list(model.named_modules()) if isinstance(module, LoraLayer))


def save_adapter(model: peft.PeftModel, path: str | Path) -> Path:
    """Write the adapters and what trained beside them to .safetensors (settings in its metadata); return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    config = model.peft_config["default"]
    settings = {
        "rank": str(config.r),
        "alpha": str(config.lora_alpha),
        "dropout": str(config.lora_dropout),
        "target_modules": json.dumps(sorted(config.target_modules)),
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in _adapter_state(model).items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(state, partial, metadata=settings)
    partial.replace(path)
    return path


def load_adapter(model: peft.PeftModel, path: str | Path) -> None:
    """Put what :func:`save_adapter` wrote back into ``model``, e.g. to resume a training.

    Raises:
        WeightsError: if the file belongs to another model, rank or choice of targets.
    """
    state, current = load_file(path), _adapter_state(model)
    wrong = [name for name in {**state, **current} if _shape(state, name) != _shape(current, name)]
    if wrong:
        msg = (
            f"{path} is the adapter of another model: {len(wrong)} tensors differ, first {wrong[0]} "
            f"(file {_shape(state, wrong[0])}, model {_shape(current, wrong[0])})"
        )
        raise WeightsError(msg)
    with torch.no_grad():
        for name, tensor in current.items():
            tensor.copy_(state[name])


def _adapter_state(model: peft.PeftModel) -> dict[str, Tensor]:
    """Adapters by peft's names, and whatever else trains by its own; the tensors share memory with the model."""
    others = {
        name: parameter.detach()
        for name, parameter in model.get_base_model().named_parameters()
        if parameter.requires_grad and "lora_" not in name
    }
    return {**peft.get_peft_model_state_dict(model), **others}


def _shape(state: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None
