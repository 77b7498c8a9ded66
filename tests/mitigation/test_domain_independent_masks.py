"""Domain-independent training of promptable segmenters, against networks with the layers of one group."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairmedfm_monai.data.dataset import DatasetInfo
from fairmedfm_monai.mitigation import make_method
from fairmedfm_monai.networks.segmenters.base import PromptableSegmenter
from fairmedfm_monai.networks.segmenters.demo_sam import DemoSAM
from fairmedfm_monai.usages import (
    MergedState,
    PromptFreeSegmenter,
)
from fairmedfm_monai.usages.prompted_training import probe_image
from tests.mitigation.mask_trainings import (
    CODES,
    USAGES,
    Training,
    base_loss,
    make_training,
    picture,
    targets,
    two_sexes,
)
from tests.mitigation.test_mask_heads import FAMILIES


@pytest.fixture
def info(ct2d_dir: Path) -> DatasetInfo:
    return two_sexes(ct2d_dir)


def move_layers(training: Training) -> None:
    """Layers of the groups as after some steps."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in training.whole.named_parameters():
            if ".heads." in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.5)


def plain_twin(training: Training, method: Any, group: int | None) -> Training:
    """The same network without layers of groups: with those of one, or with the mean as model.pt has it."""
    twin = copy.deepcopy(training)
    for place in method._places:
        parent, _, last = place.rpartition(".")
        layers = twin.whole.get_submodule(place).heads
        one = copy.deepcopy(layers[group or 0])
        if group is None:
            with torch.no_grad():
                for name, parameter in one.named_parameters():
                    parameter.copy_(sum(layer.get_parameter(name) for layer in layers) / len(layers))
        setattr(twin.whole.get_submodule(parent), last, one)
    return twin


class TestDomainIndependent:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_merged_model_gives_the_mean_of_the_groups_logits(
        self, family: Callable[..., PromptableSegmenter], info: DatasetInfo
    ) -> None:
        """In every family, for one point, where some choose among masks; before MedSAM resizes probabilities."""
        method: Any = make_method("domain_independent", info, attributes="sex")
        segmenter: Any = family(weights="tiny")
        training = Training(method.prepare(segmenter), None, segmenter)
        move_layers(training)
        image = probe_image(segmenter)
        prompts = torch.full((1, 1, 1, segmenter.spatial_dims), 9.0), torch.ones(1, 1, 1).long()
        merged = family(weights="tiny", seed=1)
        merged.load_state_dict(method.plain(segmenter).state_dict())

        def logits(network: PromptableSegmenter) -> Tensor:
            return network.decode_low_res(network.embed(image), *prompts)[0]

        with torch.no_grad():
            groups = [logits(plain_twin(training, method, group).whole) for group in (0, 1)]
            assert (groups[0] - groups[1]).abs().max() > 1e-2
            for found in (logits(merged), logits(segmenter)):
                torch.testing.assert_close(found, (groups[0] + groups[1]) / 2, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("usage", USAGES)
    def test_each_case_is_answered_by_its_own_group(self, usage: str, info: DatasetInfo) -> None:
        method: Any = make_method("domain_independent", info, attributes="sex")
        training, base, target = make_training(usage, method), base_loss(usage), targets(usage)
        move_layers(training)
        loss: Any = method.loss(base, network=training.network)
        loss.set_codes(CODES)
        pred = training.network.train()(*training.inputs())
        value = loss(pred, target)
        twins = {code: plain_twin(training, method, None if code < 0 else code) for code in (-1, 0, 1)}
        expected = torch.cat([twins[code].alone(row) for row, code in enumerate(CODES)])
        torch.testing.assert_close(pred, expected, rtol=1e-4, atol=1e-4)
        assert (twins[0].alone(1) - expected[1]).abs().max() > 1e-2  # the other group's would be another
        cases = [base(expected[row : row + 1], target[row : row + 1]) for row in range(len(CODES))]
        torch.testing.assert_close(value, torch.stack(cases).mean(), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("usage", USAGES)
    def test_layers_learn_from_their_own_group_and_nothing_is_without_gradient(
        self, usage: str, info: DatasetInfo
    ) -> None:
        method: Any = make_method("domain_independent", info, attributes="sex")
        training = make_training(usage, method)
        loss: Any = method.loss(base_loss(usage), network=training.network)
        inputs, target = training.inputs(), targets(usage)
        for codes, learning in (([0] * 4, {0}), ([1] * 4, {1}), ([-1] * 4, {0, 1})):
            training.network.zero_grad()
            loss.set_codes(codes)
            loss(training.network.train()(*inputs), target).backward()
            assert all(p.grad is not None for p in training.network.parameters() if p.requires_grad)
            layers = training.whole.get_submodule(method._places[0]).heads
            assert {group for group, layer in enumerate(layers) if layer.weight.grad.abs().max() > 0} == learning

    @pytest.mark.parametrize("usage", USAGES)
    def test_model_pt_is_the_plain_model(self, usage: str, info: DatasetInfo) -> None:
        method: Any = make_method("domain_independent", info, attributes="sex")
        training, erm = make_training(usage, method), make_training(usage, make_method("erm", info))
        state = training.state
        move_layers(training)
        found = method.plain(state).state_dict()
        assert list(found) == list(erm.state.state_dict())
        erm.whole = PromptFreeSegmenter(DemoSAM("tiny"), 2) if usage == "lora" else DemoSAM("tiny")
        erm.whole.load_state_dict(found)
        image = picture(0)
        with torch.no_grad():
            torch.testing.assert_close(erm.whole(image), training.whole(image), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("usage", ["lora", "decoder_finetune"])
    def test_it_can_start_from_a_plain_model_and_a_plain_training_from_its_own(
        self, usage: str, info: DatasetInfo, tmp_path: Path
    ) -> None:
        """With adapters by the file that is written beside model.pt."""
        methods = {name: make_method(name, info, attributes="sex") for name in ("erm", "domain_independent")}
        trainings = {name: make_training(usage, method) for name, method in methods.items()}
        states = {}
        for name, training in trainings.items():
            adapter = tmp_path / "adapter.safetensors"
            state = MergedState(training.adapted, adapter=adapter) if usage == "lora" else training.whole
            states[name] = methods[name].plain(state)
        image = picture(0)
        for source, target in (("erm", "domain_independent"), ("domain_independent", "erm")):
            with torch.no_grad():
                for parameter in trainings[source].network.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.1 * parameter.requires_grad)
                expected = trainings[source].whole(image)
                torch.save(states[source].state_dict(), tmp_path / "model.pt")
                if isinstance(states[target], nn.Module):
                    states[target].load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
                else:
                    states[target].start(tmp_path / "model.pt")
                torch.testing.assert_close(trainings[target].whole(image), expected, rtol=1e-3, atol=1e-3)

    def test_as_many_parameters_train_as_there_are_layers(self, info: DatasetInfo) -> None:
        method: Any = make_method("domain_independent", info, attributes="sex")
        several, one = make_training("lora", method), make_training("lora", make_method("erm", info))
        names = [{n for n, p in t.network.named_parameters() if p.requires_grad} for t in (several, one)]
        assert {name for name in names[0] if ".heads." not in name} == {
            name for name in names[1] if not any(f"{place}." in name for place in method._places)
        }
        assert sum(".heads." in name for name in names[0]) == 2 * 2 * 3  # groups, weight and bias, classes

    def test_codes_are_needed_in_training_alone(self, info: DatasetInfo) -> None:
        method: Any = make_method("domain_independent", info, attributes="sex")
        training = make_training("lora_prompted", method)
        method.loss(base_loss(""), network=training.network)
        training.network.eval()(*training.inputs())
        with pytest.raises(ValueError, match="groups of this batch are not known: call set_codes"):
            training.network.train()(*training.inputs())

    def test_another_decoder_and_an_unseen_group_are_refused(self, info: DatasetInfo) -> None:
        segmenter: Any = DemoSAM("tiny")
        del segmenter.mask_decoder.output_hypernetworks_mlps
        with pytest.raises(ValueError, match=r"mask decoder of SAM's make.*that of DemoSAM is not"):
            make_method("domain_independent", info, attributes="sex").prepare(segmenter)
        table = info.table[(info.table["split"] != "train") | (info.table["sex"] != "male")]
        method = make_method("domain_independent", dataclasses.replace(info, table=table), attributes="sex")
        with pytest.raises(ValueError, match="there is none of male"):
            method.prepare(DemoSAM("tiny"))

    def test_it_needs_what_it_prepared(self, info: DatasetInfo) -> None:
        method = make_method("domain_independent", info, attributes="sex")
        with pytest.raises(ValueError, match="needs a network, prepared"):
            method.loss(base_loss(""), network=make_training("lora", make_method("erm", info)).network)
