"""FastSAM3D against its key lists, values recorded from the official code, and both published forms of file."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.segmenters.fastsam3d import FastSam3dSegmenter, StudentBlock, join_student
from tests.networks import parity
from tests.networks.test_keys import read_keys
from tests.networks.test_sam_med3d import outputs

ENCODER = "image_encoder."


def test_every_tensor_of_the_whole_network_is_taken() -> None:
    keys = read_keys("fastsam3d")
    assert len(keys) == 216
    with torch.device("meta"):
        segmenter = FastSam3dSegmenter(weights="random")
    load_checked(segmenter, keys, origin="fastsam3d")
    assert list(segmenter.state_dict()) == list(keys)


def test_every_tensor_of_the_bare_encoder_is_taken_and_the_rest_is_sam_med3ds() -> None:
    student, teacher = read_keys("fastsam3d_student_encoder"), read_keys("sam_med3d")
    assert len(student) == 81
    joined = join_student(student, teacher)
    assert {name: tensor.shape for name, tensor in joined.items()} == {
        name: tensor.shape for name, tensor in read_keys("fastsam3d").items()
    }


@torch.no_grad()
def test_outputs_are_those_recorded_from_the_official_code() -> None:
    record = parity.read("fastsam3d")
    shapes = {name: tensor.shape for name, tensor in read_keys("fastsam3d").items()}
    segmenter = FastSam3dSegmenter(weights="random")
    load_checked(segmenter, parity.seeded_state(shapes, record["weight_seed"]), origin="seeded")
    parity.compare(record, outputs(segmenter, record), tolerance=1e-4)


@torch.no_grad()
def test_the_residual_starts_behind_the_norm() -> None:
    block = StudentBlock(8, 0, grid=2)
    tokens = 5 * torch.randn(1, 2, 2, 2, 8) + 3
    for parameter in block.mlp.parameters():
        parameter.zero_()
    found = block(tokens)  # the MLP gives nothing: what is left is the residual, normalised
    torch.testing.assert_close(found, torch.nn.functional.layer_norm(tokens, (8,), eps=1e-6))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Checkpoints of full geometry and few bytes: every tensor one value, spread over its shape."""

    def save(name: str, keys: Iterable[tuple[str, Tensor]], value: float, **beside: object) -> Path:
        state = {key: torch.full((1,), value).expand(tensor.shape) for key, tensor in keys}
        torch.save({"model_state_dict": state, **beside}, tmp_path / name)
        return tmp_path / name

    return save


def test_a_file_of_the_whole_network_is_read(write: Callable[..., Path]) -> None:
    beside = {
        "args": argparse.Namespace(model_type="vit_b_ori", device=torch.device("cpu")),
        "lr_scheduler_state_dict": {"milestones": Counter({120: 1})},
        "optimizer_state_dict": {"state": {0: {"exp_avg": torch.zeros(2)}}},
    }
    path = write("FastSAM3D.pth", read_keys("fastsam3d").items(), 0.5, **beside)
    segmenter = FastSam3dSegmenter(weights=path)
    assert all((tensor == 0.5).all() for tensor in segmenter.state_dict().values())


def test_a_bare_student_encoder_is_completed_by_sam_med3ds_file(write: Callable[..., Path]) -> None:
    student = write("student.pth", read_keys("fastsam3d_student_encoder").items(), 1.0, loss=0.1)
    teacher = write("sam_med3d_turbo.pth", read_keys("sam_med3d").items(), 2.0)
    state = FastSam3dSegmenter(weights=student, sam_med3d_weights=teacher).state_dict()
    assert all((tensor == (1.0 if name.startswith(ENCODER) else 2.0)).all() for name, tensor in state.items())


def test_a_bare_student_encoder_alone_is_refused(write: Callable[..., Path]) -> None:
    student = write("student.pth", read_keys("fastsam3d_student_encoder").items(), 1.0)
    with pytest.raises(WeightsError, match=r"bare student encoder.*sam_med3d_turbo\.pth"):
        FastSam3dSegmenter(weights=student)
    with pytest.raises(WeightsError, match="`sam_med3d_weights` must be pretrained or the path"):
        FastSam3dSegmenter(weights=student, sam_med3d_weights="random")
    with pytest.raises(WeightsError, match=r"completed by .*81 of 216 tensors match, 135 missing"):
        FastSam3dSegmenter(weights=student, sam_med3d_weights=student)


def test_sam_med3ds_file_is_refused_as_fastsam3ds(write: Callable[..., Path]) -> None:
    teacher = write("sam_med3d_turbo.pth", read_keys("sam_med3d").items(), 2.0)
    with pytest.raises(WeightsError, match=r"another model than FastSam3dSegmenter: \d+ of 216 .*12 of another shape"):
        FastSam3dSegmenter(weights=teacher)


def test_another_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="`variant` must be one of student, but got 'turbo'"):
        FastSam3dSegmenter("turbo", "tiny")


@torch.no_grad()
def test_tiny_segments_a_window() -> None:
    segmenter = FastSam3dSegmenter(weights="tiny")
    image = parity.seeded_input((1, 1, 128, 128, 128), 1, low=-500.0)
    logits = segmenter(image)
    assert logits.shape == (1, 1, 128, 128, 128)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0
    assert torch.equal(FastSam3dSegmenter(weights="tiny")(image), logits)


def test_the_catalog_names_what_is_there() -> None:
    row = find_row("fastsam3d")
    keys = read_keys("fastsam3d")
    adapted = [name for name in keys if name.endswith(tuple(f".{target}.weight" for target in row.lora_targets))]
    assert adapted == [f"image_encoder.blocks.{index}.attn.qkv.weight" for index in range(2, 6)]
    buffer = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    assert row.parameters == {"student": sum(tensor.numel() for name, tensor in keys.items() if name != buffer)}
