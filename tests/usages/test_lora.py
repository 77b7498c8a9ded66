"""LoRA: what trains, what is saved, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from fairmedfm_monai.networks.checkpoint import WeightsError
from fairmedfm_monai.networks.encoders.clip import CLIPEncoder
from fairmedfm_monai.usages import lora
from fairmedfm_monai.usages.linear_probe import LinearProbe

TARGETS = [["c_fc", "c_proj"], ["attn"], ["attn", "c_fc", "c_proj"]]
SETTINGS = {"rank": 4, "alpha": 8.0, "dropout": 0.1}


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def plain(seed: int = 0) -> LinearProbe:
    return LinearProbe(CLIPEncoder("ViT-B-32-quickgelu", "tiny", seed=seed), 2)


def train(network: torch.nn.Module, image: Tensor, steps: int = 5) -> None:
    network.train()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(image), torch.tensor([0, 1, 0, 1])).backward()
        optimizer.step()
    network.eval()


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_the_merged_state_is_that_of_a_plain_network_with_the_same_logits(
    image: Tensor, targets: list[str], tmp_path: Path
) -> None:
    network = lora.add_lora(plain(), **SETTINGS, target_modules=targets)
    before = network.eval()(image)
    torch.testing.assert_close(before, plain()(image))
    assert lora.check_gradients(network, [1, 3, 224, 224]) == lora.trainable_parameters(network)[0]
    merged = lora.MergedState(network)
    train(network, image)
    torch.save(merged.state_dict(), tmp_path / "model.pt")
    restored = plain(seed=1)
    restored.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert (network(image) - before).abs().max() > 0.1
    assert (restored.eval()(image) - network(image)).abs().max() <= 1e-5
    scripted = torch.jit.script(restored)
    assert (scripted(image) - network(image)).abs().max() <= 1e-5


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_every_adapter_learns_and_only_the_targets_change(image: Tensor, targets: list[str]) -> None:
    network = lora.add_lora(plain(), **SETTINGS, target_modules=targets)
    merged = lora.MergedState(network)
    original = plain().state_dict()
    train(network, image)
    changed = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, original[name])}
    parts = {"c_fc": "mlp.c_fc.weight", "c_proj": "mlp.c_proj.weight"}
    attention = ["attn.in_proj_weight", "attn.out_proj.weight"]
    ends = [end for target in targets for end in ([parts[target]] if target in parts else attention)]
    block = "encoder.visual.transformer.resblocks"
    assert changed == {f"{block}.{number}.{end}" for number in (0, 1) for end in ends} | {"head.weight", "head.bias"}


def test_the_trainable_parameters_are_counted() -> None:
    network = lora.add_lora(plain(), **SETTINGS, target_modules=["c_fc", "c_proj"])
    adapters = 2 * 2 * 4 * (64 + 128)  # blocks, layers, rank, both widths
    assert lora.trainable_parameters(network)[0] == adapters + 2 * 64 + 2


def test_a_layer_whose_name_ends_in_head_is_not_taken_for_the_head() -> None:
    network = plain()
    network.encoder.image_head = torch.nn.Linear(4, 4).requires_grad_(False)
    lora.check_gradients(lora.add_lora(network, **SETTINGS, target_modules=["c_fc"]), [1, 3, 224, 224])


def test_saving_leaves_the_training_undisturbed(image: Tensor) -> None:
    first, second = (lora.add_lora(plain(), rank=4, alpha=8, dropout=0, target_modules=["c_fc"]) for _ in range(2))
    merged = lora.MergedState(second)
    train(first, image, steps=4)
    train(second, image, steps=2)
    # Adam starts anew in the second half, so the first network gets the same break.
    first = lora.add_lora(plain(), rank=4, alpha=8, dropout=0, target_modules=["c_fc"])
    train(first, image, steps=2)
    merged.state_dict()
    train(first, image, steps=2)
    train(second, image, steps=2)
    assert torch.equal(first(image), second(image))


def test_adapters_drop_out_in_training_while_the_encoder_stays_in_evaluation_mode(image: Tensor) -> None:
    network = lora.add_lora(plain(), rank=4, alpha=8, dropout=0.5, target_modules=["c_fc", "c_proj"])
    train(network, image)
    network.train()
    encoder = network.base_model.model.encoder
    assert not encoder.training
    assert not torch.equal(network(image), network(image))
    assert torch.equal(network.eval()(image), network(image))


def test_gradient_checkpointing_keeps_less_and_trains_the_same(image: Tensor) -> None:
    def trained(checkpointing: bool) -> tuple[int, torch.nn.Module, lora.MergedState]:
        options = {"rank": 4, "alpha": 8, "dropout": 0.5, "target_modules": ["attn", "c_fc", "c_proj"]}
        network, kept = lora.add_lora(plain(), **options, gradient_checkpointing=checkpointing), []
        merged = lora.MergedState(network)
        torch.manual_seed(0)  # of the dropout, which recomputing must draw again
        train(network, image, steps=2)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            network(image)
        return sum(kept), network, merged

    (much, plainly, _), (little, again, merged) = trained(False), trained(True)
    assert little < much / 2
    torch.testing.assert_close(again(image), plainly(image))
    assert merged.state_dict().keys() == plain().state_dict().keys()


class TestAdapterFile:
    def test_an_adapter_comes_back_with_its_settings(self, image: Tensor, tmp_path: Path) -> None:
        network = lora.add_lora(plain(), **SETTINGS, target_modules=["attn", "c_fc"])
        train(network, image)
        path = lora.save_adapter(network, tmp_path / "models" / "adapter.safetensors")
        other = lora.add_lora(plain(), **SETTINGS, target_modules=["attn", "c_fc"], seed=5)
        lora.load_adapter(other, path)
        torch.testing.assert_close(other.eval()(image), network(image), atol=1e-5, rtol=0)
        with safe_open(path, "pt") as file:
            assert file.metadata()["rank"] == "4"
            assert file.metadata()["alpha"] == "8.0"
        assert [entry.name for entry in path.parent.iterdir()] == ["adapter.safetensors"]

    def test_an_adapter_of_another_rank_or_target_is_refused(self, tmp_path: Path) -> None:
        network = lora.add_lora(plain(), **SETTINGS, target_modules=["c_fc"])
        path = lora.save_adapter(network, tmp_path / "adapter.safetensors")
        other = lora.add_lora(plain(), rank=2, alpha=8, dropout=0, target_modules=["c_fc"])
        with pytest.raises(WeightsError, match="adapter of another model: 4 tensors differ"):
            lora.load_adapter(other, path)
        other = lora.add_lora(plain(), **SETTINGS, target_modules=["c_proj"])
        with pytest.raises(WeightsError, match=r"file \(4, 64\), model None"):
            lora.load_adapter(other, path)


class TestRefusals:
    def test_a_layer_inside_multihead_attention(self) -> None:
        with pytest.raises(ValueError, match=r"out_proj lies inside nn\.MultiheadAttention.*\(attn\)"):
            lora.add_lora(plain(), **SETTINGS, target_modules=["c_fc", "out_proj"])

    def test_a_target_that_matches_nothing_lists_the_layers(self) -> None:
        with pytest.raises(ValueError, match=r"nothing in the encoder is called qkv.*attn, c_fc, c_proj"):
            lora.add_lora(plain(), **SETTINGS, target_modules=["c_fc", "qkv"])

    def test_the_nearest_names_and_the_place_to_choose_are_told(self) -> None:
        message = r"is called fc; .*\(nearest: c_fc.*field `lora_targets` of the FM's catalog row"
        with pytest.raises(ValueError, match=message):
            lora.add_lora(plain(), **SETTINGS, target_modules=["fc"])

    def test_a_module_that_takes_no_adapter(self) -> None:
        message = r"ln_1 means encoder\.visual\..*\.0\.ln_1 \(LayerNorm.*\), which takes no adapter; layers there are"
        with pytest.raises(ValueError, match=message):
            lora.add_lora(plain(), **SETTINGS, target_modules=["ln_1"])

    def test_no_target_at_all(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            lora.add_lora(plain(), **SETTINGS, target_modules=[])

    @pytest.mark.parametrize("wrong", [{"rank": 0}, {"dropout": 1.0}])
    def test_numbers_that_cannot_be(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="`rank` must be at least 1"):
            lora.add_lora(plain(), **{**SETTINGS, **wrong}, target_modules=["c_fc"])

    def test_parameters_that_no_gradient_reaches_are_named(self) -> None:
        network = plain()
        network.encoder.logit_scale.requires_grad_(True)
        with pytest.raises(RuntimeError, match=r"1 of 3 trainable tensors get no gradient.*encoder\.logit_scale"):
            lora.check_gradients(network, [1, 3, 224, 224])

    def test_a_network_without_trainable_parameters(self) -> None:
        with pytest.raises(RuntimeError, match="no trainable parameter"):
            lora.check_gradients(plain().requires_grad_(False), [1, 3, 224, 224])

    def test_the_check_leaves_gradients_modes_and_random_state_alone(self) -> None:
        network = lora.add_lora(plain(), **SETTINGS, target_modules=["c_fc"]).train()
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        lora.check_gradients(network, [1, 3, 224, 224])
        assert torch.equal(torch.rand(1), expected)
        assert network.training
        assert all(parameter.grad is None for parameter in network.parameters())
