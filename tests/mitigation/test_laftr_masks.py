"""LAFTR on promptable segmenters, against the same computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from segment_anything.modeling.mask_decoder import MaskDecoder
from torch import Tensor, nn

from fairmedfm_monai.data.dataset import DatasetInfo
from fairmedfm_monai.mitigation import make_method
from fairmedfm_monai.networks.segmenters.base import PromptableSegmenter
from fairmedfm_monai.networks.segmenters.demo_sam import DemoSAM
from fairmedfm_monai.networks.segmenters.sam2 import Sam2Segmenter
from fairmedfm_monai.networks.segmenters.sam_med3d import SamMed3dSegmenter
from fairmedfm_monai.usages import (
    PromptedDecoder,
)
from fairmedfm_monai.usages.prompted_training import probe_image
from tests.mitigation.mask_trainings import (
    CODES,
    GRID,
    USAGES,
    Training,
    base_loss,
    box,
    make_training,
    picture,
    targets,
    two_sexes,
)

STRENGTH = 0.7


@pytest.fixture
def info(ct2d_dir: Path) -> DatasetInfo:
    return two_sexes(ct2d_dir)


class TestLaftr:
    @pytest.mark.parametrize("usage", USAGES)
    def test_gradients_are_those_of_the_plain_loss_less_those_of_the_audit(self, usage: str, info: DatasetInfo) -> None:
        method = make_method("laftr", info, attributes="sex", options={"strength": STRENGTH, "hidden": 8})
        training, base, target = make_training(usage, method), base_loss(usage), targets(usage)
        loss: Any = method.loss(base, network=training.network)
        loss.set_codes(CODES)
        value = loss(training.network.train()(*training.inputs()), target)
        value.backward()
        plain, audit = by_hand(training, base, target, loss.auditor)
        torch.testing.assert_close(value, plain + audit)

        trains = {name: p for name, p in training.network.named_parameters() if p.requires_grad}
        parts = [
            torch.autograd.grad(part, list(trains.values()), retain_graph=True, allow_unused=True)
            for part in (plain, audit)
        ]
        turned = 0.0
        for (name, parameter), one, other in zip(trains.items(), *parts, strict=True):
            expected = one if other is None else one - STRENGTH * other
            torch.testing.assert_close(
                parameter.grad, expected, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
            if other is not None and ("image_encoder" in name) == (usage != "decoder_finetune"):
                turned = max(turned, float(other.abs().max()))
        assert turned > 1e-4
        expected = torch.autograd.grad(audit, list(loss.auditor.parameters()))
        torch.testing.assert_close([parameter.grad for parameter in loss.auditor.parameters()], list(expected))

    def test_finite_differences_agree(self, info: DatasetInfo) -> None:
        """Along the gradient of an adapter inside the image encoder."""
        method = make_method("laftr", info, attributes="sex", options={"strength": 50.0})
        training, base, target = make_training("lora", method), base_loss("lora"), targets("lora")
        loss: Any = method.loss(base, network=training.network)
        loss.set_codes(CODES)
        loss(training.network.train()(*training.inputs()), target).backward()
        name, weight = next((n, p) for n, p in training.network.named_parameters() if "lora_B" in n)
        assert "image_encoder" in name
        direction, values = weight.grad / weight.grad.norm(), []
        for step in (1e-2, -1e-2):
            with torch.no_grad():
                weight.add_(direction, alpha=step)
                plain, audit = by_hand(training, base, target, loss.auditor)
                values.append(float(plain - 50.0 * audit))
                weight.sub_(direction, alpha=step)
        assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(weight.grad.norm()), rel=0.02)

    @pytest.mark.parametrize("usage", USAGES)
    def test_it_says_what_the_auditor_reads(self, usage: str, info: DatasetInfo) -> None:
        method = make_method("laftr", info, attributes="sex")
        training = make_training(usage, method)
        loss: Any = method.loss(base_loss(usage), network=training.network)
        about = method.describe()
        frozen = usage == "decoder_finetune"
        assert about["options"]["criterion"] == "demographic_parity"
        assert about["representation"].startswith("upscaled features of the mask" if frozen else "image embedding")
        assert loss.auditor.layers[0].in_features == (4 if frozen else 32)  # an eighth of the embedding's channels

    def test_all_levels_of_an_embedding_are_read(self, info: DatasetInfo) -> None:
        method = make_method("laftr", info, attributes="sex")
        training = make_training("lora_prompted", method, lambda: Sam2Segmenter(weights="tiny"))
        loss: Any = method.loss(base_loss(""), network=training.network)
        assert loss.auditor.layers[0].in_features == 64 + 64 // 4 + 64 // 8
        loss.set_codes(CODES)
        loss(training.network(*training.inputs()), targets("")).backward()

    @pytest.mark.parametrize("make", [Sam2Segmenter, SamMed3dSegmenter])
    def test_frozen_encoders_of_other_makes(self, make: Callable[..., PromptableSegmenter], info: DatasetInfo) -> None:
        method = make_method("laftr", info, attributes="sex")
        segmenter: Any = make(weights="tiny")
        kinds = ["center"]
        network = PromptedDecoder(segmenter, kinds=kinds, grid=GRID)
        vector, size = network.encode(probe_image(segmenter)[:, :1])
        shape = probe_image(segmenter).shape[2:]
        prompt = torch.full((2, 1, 1, len(shape)), 9.0), torch.ones(2, 1, 1).long()
        loss: Any = method.loss(base_loss(""), network=network)
        loss.set_codes([0, 1])
        sizes = torch.tensor([list(shape)] * 2), torch.tensor([list(size)] * 2)
        pred = network.train()(vector.expand(2, -1), *prompt, *sizes)
        loss(pred, torch.zeros_like(pred)).backward()
        assert all(p.grad is not None for p in network.parameters() if p.requires_grad)

    def test_validation_in_between_leaves_nothing(self, info: DatasetInfo) -> None:
        method = make_method("laftr", info, attributes="sex")
        training = make_training("decoder_finetune", method)
        loss: Any = method.loss(base_loss(""), network=training.network)
        pred = training.network(*training.inputs())
        with torch.no_grad():
            training.alone(0)
        loss.set_codes(CODES)
        loss(pred, targets(""))
        with torch.no_grad():
            pred = training.network(*training.inputs())
        loss.set_codes(CODES)
        with pytest.raises(ValueError, match="was not called with this batch"):
            loss(pred, targets(""))

    def test_a_prompt_that_is_none_is_no_vector_of_nan(self, info: DatasetInfo) -> None:
        method = make_method("laftr", info, attributes="sex")
        training = make_training("decoder_finetune", method)
        loss: Any = method.loss(base_loss(""), network=training.network)
        vector, coords, labels, *sizes = training.inputs()
        labels = labels.clone()
        labels[1] = -1
        loss.set_codes(CODES)
        assert loss(training.network(vector, coords, labels, *sizes), targets("")).isfinite()

    @pytest.mark.parametrize(
        "options",
        [{"criterion": "equalised_odds"}, {"criterion": "equal_opportunity"}, {"positive_class": "liver"}],
    )
    def test_criteria_that_need_classes_are_refused(self, options: dict[str, Any], info: DatasetInfo) -> None:
        with pytest.raises(ValueError, match=r"masks have no class per case.*needs criterion demographic_parity"):
            make_method("laftr", info, attributes="sex", options=options)

    def test_a_frozen_encoder_with_another_decoder_is_refused(self, info: DatasetInfo) -> None:
        method = make_method("laftr", info, attributes="sex")
        training = make_training("decoder_finetune", method)
        training.segmenter.mask_decoder.output_upscaling = None
        with pytest.raises(ValueError, match=r"frozen image encoder reads.*that of DemoSAM has no"):
            method.loss(base_loss(""), network=training.network)

    def test_a_network_that_is_none_for_training_is_refused(self, info: DatasetInfo) -> None:
        with pytest.raises(TypeError, match="made for training"):
            make_method("laftr", info, attributes="sex").loss(base_loss(""), network=DemoSAM("tiny"))


def by_hand(training: Training, base: nn.Module, target: Tensor, auditor: Any) -> tuple[Tensor, Tensor]:
    """Plain loss and mean error of the auditor over the groups, case by case, without the code under test."""
    rows = range(len(CODES))
    plain = torch.stack([base(training.alone(row), target[row : row + 1]) for row in rows]).mean()
    frozen = isinstance(training.network, PromptedDecoder)
    vectors = [upscaled(training.segmenter, row) if frozen else features(training.segmenter, row) for row in rows]
    missed = [1 - auditor.layers(vector).softmax(1)[0] for vector in vectors]
    groups = [torch.stack([missed[row][code] for row in rows if CODES[row] == code]).mean() for code in (0, 1)]
    return plain, (groups[0] + groups[1]) / 2


def features(segmenter: Any, row: int) -> Tensor:
    return segmenter.embed(picture(row)).features.mean(dim=(2, 3))


def upscaled(segmenter: Any, row: int) -> Tensor:
    """Mean upscaled features by segment-anything's own steps."""
    decoder: MaskDecoder = segmenter.mask_decoder
    embedding = segmenter.embed(picture(row))
    coords = segmenter.scale_coords(box(row)[0], embedding)
    sparse, dense = segmenter.prompt_encoder(points=None, boxes=coords[0].flatten(1), masks=None)
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None]
    source = embedding.features + dense
    _, flat = decoder.transformer(source, segmenter.prompt_encoder.get_dense_pe(), torch.cat([tokens, sparse], 1))
    return decoder.output_upscaling(flat.transpose(1, 2).reshape(source.shape)).mean(dim=(2, 3))
