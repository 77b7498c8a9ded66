"""MedCLIP: outputs of the authors' code on seeded weights, names, files, LoRA."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.catalog import lora_targets
from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders import medclip
from fairmedfm_monai.networks.encoders.medclip import MedCLIPEncoder, read_medclip, rename_medclip
from fairmedfm_monai.usages import lora
from fairmedfm_monai.usages.linear_probe import LinearProbe
from tests.networks import clinical_checks as checks
from tests.networks import clip_checks, encoder_checks, parity
from tests.networks.test_keys import read_keys

VARIANTS = ("vit", "resnet")
COUNTS = {"vit": 434, "resnet": 521}
PUBLISHED = {
    "visual.projection.": "vision_model.model.fc.",
    "visual.model.": "vision_model.model.",
    "text.projection.": "text_model.projection_head.",
    "text.model.": "text_model.model.",
}
THIN = {**medclip.RESNET50, "layers": (1, 1, 1, 1), "channels": (8, 16, 16, 32)}


@torch.no_grad()
def test_outputs_are_those_of_the_authors_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both image towers as published; BERT as published but for its depth."""
    record = parity.read("medclip")
    layers, texts = record["layers"], record["texts"]
    checks.shorten_bert(monkeypatch, layers)
    outputs: dict[str, Tensor] = {}
    for variant, seed in zip(VARIANTS, record["seeds"], strict=True):
        encoder = MedCLIPEncoder(variant, "random")
        state = checks.published_state(f"medclip_{variant}", seed, layers=layers)
        load_checked(encoder, rename_medclip(state), origin="published")
        checks.use_vocabulary(encoder, tmp_path, monkeypatch)
        image = parity.seeded_input((2, 3, 224, 224), seed, low=-2, high=2)
        images, prompts = encoder.encode_image(image), encoder.encode_text(texts)
        found = {
            **images,
            "text": prompts["zero_shot"],
            "padded text": encoder.text(encoder.tokens(texts)),
            "logits": encoder.similarity(images, prompts),
        }
        outputs |= {f"{variant} {name}": value for name, value in found.items()}
        if variant == "vit":
            outputs["vit pooled"] = encoder.visual.model(image)
    parity.compare(record, outputs, tolerance=1e-4)


class TestNames:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_every_published_tensor_is_taken(self, variant: str) -> None:
        keys = read_keys(f"medclip_{variant}")
        assert len(keys) == COUNTS[variant]
        with torch.device("meta"):
            encoder = MedCLIPEncoder(variant, "random")
            load_checked(encoder, rename_medclip(keys), origin="medclip")
        computed = [name for name in keys if name.endswith(("position_ids", "relative_position_index"))]
        assert len(computed) == {"vit": 13, "resnet": 1}[variant]
        weights = sum(tensor.numel() for name, tensor in keys.items() if name not in computed)
        assert weights == sum(map(Tensor.numel, encoder.state_dict().values()))

    def test_a_missing_third_is_told(self) -> None:
        keys = read_keys("medclip_vit")
        del keys["vision_model.model.encoder.layers.1.blocks.0.attention.self.key.bias"]
        with torch.device("meta"):
            encoder = MedCLIPEncoder("vit", "random")
        message = r"1 of another shape.*visual.model.layers.1.blocks.0.attn.qkv.bias is \(384,\), not \(576,\)"
        with pytest.raises(WeightsError, match=message):
            load_checked(encoder, rename_medclip(keys), origin="medclip")

    def test_the_other_variants_file_is_refused(self) -> None:
        with torch.device("meta"):
            encoder = MedCLIPEncoder("vit", "random")
        with pytest.raises(WeightsError, match="201 of 373 tensors match, 171 missing, 318 unexpected, 1 of"):
            load_checked(encoder, rename_medclip(read_keys("medclip_resnet")), origin="medclip")


class TestFiles:
    @pytest.fixture
    def encoder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MedCLIPEncoder:
        checks.shrink(monkeypatch, tmp_path, medclip, "RESNET50", THIN)
        return MedCLIPEncoder("resnet", "random", seed=3)

    def test_the_authors_zip_is_found(self, encoder: MedCLIPEncoder, tmp_path: Path) -> None:
        message = r"put medclip-pretrained.zip \(or medclip-resnet.bin\) into .*pytrial/medclip-pretrained.zip"
        with pytest.raises(WeightsError, match=message):
            MedCLIPEncoder("resnet")
        path = tmp_path / "weights" / "medclip-pretrained.zip"
        path.parent.mkdir()
        inner = clip_checks.saved(checks.published(encoder, PUBLISHED), tmp_path / "pytorch_model.bin")
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(inner, "medclip/pytorch_model.bin")
            archive.writestr("__MACOSX/._readme", b"")
        checks.check_pretrained(MedCLIPEncoder, "resnet", path, encoder.state_dict())

    def test_the_unpacked_file_is_found(self, encoder: MedCLIPEncoder, tmp_path: Path) -> None:
        path = tmp_path / "weights" / "medclip-resnet.bin"
        path.parent.mkdir()
        clip_checks.saved(checks.published(encoder, PUBLISHED), path)
        checks.check_pretrained(MedCLIPEncoder, "resnet", path, encoder.state_dict())

    def test_other_files_are_refused(self, encoder: MedCLIPEncoder, tmp_path: Path) -> None:
        state = checks.published(encoder, PUBLISHED)
        checks.check_refusal(MedCLIPEncoder, "resnet", tmp_path / "file.bin", state, "vision_model.model.bn1.bias")

    def test_a_damaged_member_is_told_with_the_zips_name(self, tmp_path: Path) -> None:
        path = tmp_path / "medclip.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("pytorch_model.bin", b"no weights")
        with pytest.raises(WeightsError, match=r"medclip.zip: its pytorch_model.bin is not usable: .*cannot be read"):
            read_medclip(path)
        path.write_bytes(path.read_bytes().replace(b"no weights", b"NO WEIGHTS"))
        with pytest.raises(WeightsError, match=r"medclip.zip: its pytorch_model.bin is not usable: Bad CRC-32"):
            read_medclip(path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_interface(variant: str) -> None:
    checks.check_interface(MedCLIPEncoder, "medclip", variant, entries=["features", "zero_shot"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_texts(variant: str) -> None:
    checks.check_texts(MedCLIPEncoder, variant)


def test_the_scale_is_clamped_as_in_training() -> None:
    encoder = MedCLIPEncoder("vit", "tiny")
    torch.nn.init.constant_(encoder.logit_scale, -1.0)
    assert encoder.logit_terms()[0].item() == 1


def test_variants() -> None:
    encoder_checks.check_variants(MedCLIPEncoder, "medclip")


def test_zero_shot() -> None:
    clip_checks.check_zero_shot(MedCLIPEncoder, "vit")


@pytest.mark.parametrize(("variant", "full"), [("vit", 12), ("resnet", 16)])
def test_lora(variant: str, full: int) -> None:
    checks.check_lora(MedCLIPEncoder, variant, lora_targets("medclip", variant), full=full)


def test_lora_of_the_residual_network_says_what_is_missing() -> None:
    model = LinearProbe(MedCLIPEncoder("resnet", "tiny"), 2)
    with pytest.raises(ValueError, match=r"nothing in the encoder is called qkv; layers there are .*conv2"):
        lora.add_lora(model, rank=2, alpha=4, dropout=0.0, target_modules=lora_targets("medclip", "vit"))
