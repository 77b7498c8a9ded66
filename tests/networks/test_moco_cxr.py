"""MoCo-CXR: published names with exactly what training needs left out, and the official code's backbone features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import load_checked
from fairmedfm_monai.networks.encoders.moco_cxr import MoCoCXREncoder, rename_moco
from tests.networks import cnn_checks, encoder_checks, parity
from tests.networks.test_keys import read_keys

# Tensors in the file and in the backbone, width of the feature, name of the projection.
FILES = {
    "resnet18": (250, 120, 512, "fc"),
    "resnet50": (646, 318, 2048, "fc"),
    "densenet121": (1460, 725, 1024, "classifier"),
}


def published(variant: str, seed: int) -> dict[str, Tensor]:
    """Seeded weights of a whole file; the slow encoder differs from the one that is wanted."""
    return cnn_checks.cnn_state(cnn_checks.shapes_of(read_keys(f"moco_cxr_{variant}")), seed)


def images(seed: int) -> Tensor:
    return encoder_checks.images(320, seed, amplitude=2)


@torch.no_grad()
def ours(seed: int) -> dict[str, Tensor]:
    """The outputs that the recording holds, of our class."""
    outputs = {}
    for variant in FILES:
        encoder = MoCoCXREncoder(variant, "random")
        load_checked(encoder.net, rename_moco(published(variant, seed)), origin="seeded")
        outputs[variant] = encoder(images(seed))
    return outputs


def test_features_are_those_of_the_official_code() -> None:
    record = parity.read("moco_cxr")
    parity.compare(record, ours(record["weight_seed"]), tolerance=1e-4)


@pytest.mark.parametrize("variant", FILES)
def test_every_published_tensor_is_taken_but_those_of_training(variant: str) -> None:
    count, kept, width, projection = FILES[variant]
    keys = read_keys(f"moco_cxr_{variant}")
    with torch.device("meta"):
        encoder = MoCoCXREncoder(variant, "random")
    renamed = rename_moco(keys)
    load_checked(encoder.net, renamed, origin=variant)
    assert (len(keys), len(renamed), encoder.feature_dim) == (count, kept, width)
    dropped = {name.removeprefix("module.") for name in keys} - {f"encoder_q.{name}" for name in renamed}
    own = {name for name in dropped if not name.startswith("encoder_k.")}
    layers = {f"encoder_q.{projection}.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")}
    assert own == {"queue", "queue_ptr"} | layers


def test_a_projection_of_one_layer_is_dropped_and_nothing_else() -> None:
    names = ("encoder_q.fc.weight", "encoder_q.fc.bias", "encoder_q.fc.1.weight", "encoder_q.layer1.0.fc.weight")
    kept = rename_moco({f"module.{name}": torch.zeros(1) for name in names})
    assert set(kept) == {"fc.1.weight", "layer1.0.fc.weight"}


class TestFiles:
    def test_the_authors_file_is_read(self, tmp_path: Path) -> None:
        state = published("resnet18", 1)
        content = {"epoch": 20, "arch": "resnet18", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}
        torch.save(content, tmp_path / "file.pth.tar")
        loaded = MoCoCXREncoder("resnet18", tmp_path / "file.pth.tar").net.state_dict()
        assert all(torch.equal(loaded[name], state[f"module.encoder_q.{name}"]) for name in loaded)

    def test_files_of_other_models_are_refused(self, tmp_path: Path) -> None:
        path, state = tmp_path / "file.pth", published("resnet18", 1)
        message = r"of 318 tensors match, \d+ missing, 0 unexpected"
        encoder_checks.check_refusals(MoCoCXREncoder, "resnet50", path, {"state_dict": state}, message)
        fast = {name: tensor for name, tensor in state.items() if "encoder_q" not in name}
        message = "0 of 120 tensors match, 120 missing, 0 unexpected"
        encoder_checks.check_refusals(MoCoCXREncoder, "resnet18", path, fast, message)


@pytest.mark.parametrize("variant", FILES)
def test_interface(variant: str) -> None:
    encoder_checks.check_interface(MoCoCXREncoder, "moco_cxr", variant)


def test_variants() -> None:
    encoder_checks.check_variants(MoCoCXREncoder, "moco_cxr")


@pytest.mark.parametrize(("variant", "found"), [("resnet18", 17), ("resnet50", 33), ("densenet121", 116)])
def test_lora(variant: str, found: int) -> None:
    cnn_checks.check_lora(MoCoCXREncoder, "moco_cxr", variant, found=found)


@pytest.mark.parametrize("variant", FILES)
def test_it_can_be_scripted(variant: str) -> None:
    encoder = MoCoCXREncoder(variant, "tiny")
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(encoder)(images(0)), encoder(images(0)))


def test_batch_statistics_stay() -> None:
    cnn_checks.check_frozen_statistics(MoCoCXREncoder, "densenet121")
