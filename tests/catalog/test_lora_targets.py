"""LoRA's targets: each variant of each row has layers that the catalog names and that train."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fairmedfm_monai.bundle.configs.classification_recipes import settings
from fairmedfm_monai.catalog import find_row, input_spec, lora_targets, rows
from fairmedfm_monai.usages.linear_probe import LinearProbe
from fairmedfm_monai.usages.lora import add_lora, check_gradients
from tests.bundle.runs import run
from tests.bundle.toy_cases import make_toy
from tests.bundle.usage_bundles import write_bundle

# Models of volumes take seconds each; their own tests adapt them.
ENCODERS = [row for row in rows().values() if "lora" in row.usages and not (row.is_volumetric or row.prompts)]


@pytest.mark.parametrize("name", [row.name for row in ENCODERS])
def test_every_variant_has_adapters_that_train(name: str) -> None:
    row = find_row(name)
    module, encoder_name = row.network.rsplit(".", 1)
    build = getattr(importlib.import_module(module), encoder_name)
    for variant in row.variants:
        encoder = build(variant=variant, weights="tiny")
        spec = input_spec(name, variant)
        targets = lora_targets(name, variant)
        model = add_lora(LinearProbe(encoder, 2), rank=2, alpha=4, dropout=0.0, target_modules=targets)
        window = spec.get("window") or [spec["size"]] * 2
        trained = check_gradients(model, (1, spec["channels"], *window))
        assert trained > 2 * (encoder.feature_dim + 1), variant


@pytest.mark.parametrize("name", [row.name for row in ENCODERS])
def test_gradient_checkpointing_gives_every_encoder_the_same_gradients(name: str) -> None:
    row = find_row(name)
    module, encoder_name = row.network.rsplit(".", 1)
    spec = input_spec(name, row.default_variant)
    image = torch.randn(2, spec["channels"], spec["size"], spec["size"], generator=torch.Generator().manual_seed(0))
    found = []
    for checkpointing in (False, True):
        encoder = getattr(importlib.import_module(module), encoder_name)(variant=row.default_variant, weights="tiny")
        model = add_lora(
            LinearProbe(encoder, 2),
            rank=2,
            alpha=4,
            dropout=0.0,
            target_modules=lora_targets(name, row.default_variant),
            gradient_checkpointing=checkpointing,
        ).train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        generator = torch.Generator().manual_seed(1)
        for parameter in trained:  # half of the adapters start at zero, which would hide the gradient of the others
            parameter.data.normal_(0, 0.05, generator=generator)
        model(image).square().sum().backward()
        found.append([parameter.grad for parameter in trained])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_variant_may_have_targets_of_its_own_which_are_no_input() -> None:
    assert lora_targets("lvm_med") == ["qkv"]
    assert lora_targets("lvm_med", "resnet50") == ["conv1", "conv2"]
    assert "lora_targets" not in input_spec("lvm_med", "resnet50")
    assert input_spec("pubmedclip", "RN50x4")["size"] == 288
    with pytest.raises(ValueError, match="Did you mean resnet50"):
        lora_targets("lvm_med", "resnet5")


def test_bundles_look_targets_up_by_variant_only_where_variants_differ() -> None:
    assert settings(find_row("dinov2"), "lora")["lora_targets"] == ["qkv"]
    found = settings(find_row("lvm_med"), "lora")["lora_targets"]
    assert (found["fm"], found["variant"]) == ("lvm_med", "@variant")


def test_a_bundle_adapts_the_variant_that_is_asked_for(tmp_path: Path) -> None:
    data = make_toy(tmp_path / "toy")
    bundle = write_bundle("lora", tmp_path, fm="lvm_med")
    options = {"weights": "tiny", "epochs": 1, "dataset_dir": str(data), "tracking_uri": "off"}
    run(bundle, "train", variant="resnet50", **options)
    with safe_open(bundle / "models" / "adapter.safetensors", "pt") as file:
        adapted = {name.rpartition(".")[2] for name in json.loads(file.metadata()["target_modules"])}
    assert adapted == {"conv1", "conv2"}
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run(bundle, "train", variant="resnet50", lora_targets=["qkv"], **options)
    assert "nothing in the encoder is called qkv; layers there are" in str(caught.value.__cause__ or caught.value)
