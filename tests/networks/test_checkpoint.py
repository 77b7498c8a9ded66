"""What comes out of a good file: precision, device, and reading without copying."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fairmedfm_monai.networks.checkpoint import load_checked, read_checkpoint
from fairmedfm_monai.networks.weights import fill_weights
from tests.networks.test_bad_checkpoints import FORMATS, NOWHERE, net, saved

DTYPES = [torch.float16, torch.bfloat16, torch.float64]


def save_as(state: dict[str, Tensor], path: Path, kind: str) -> None:
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")


class TestPrecisionAndDevice:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
    def test_whatever_the_file_holds_the_network_is_float32(
        self, kind: str, dtype: torch.dtype, tmp_path: Path
    ) -> None:
        state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in net().state_dict().items()}
        path = tmp_path / FORMATS[kind][0]
        save_as(state, path, kind)
        assert read_checkpoint(path)["0.weight"].dtype == dtype
        module = net()
        nn.init.zeros_(module[0].weight)
        fill_weights(module, path, source=NOWHERE)
        assert {tensor.dtype for tensor in module.state_dict().values() if tensor.is_floating_point()} == {
            torch.float32
        }
        assert all(torch.equal(t, state[name].to(t.dtype)) for name, t in module.state_dict().items())

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a file from a GPU is only a trap where there is none")
    @pytest.mark.parametrize("kind", ["zip", "legacy"])
    def test_a_file_from_a_gpu_is_read_without_one(self, kind: str, tmp_path: Path) -> None:
        path, forged = saved(kind, tmp_path), tmp_path / "gpu.pt"
        on_cpu, on_gpu = (b"X" + len(tag).to_bytes(4, "little") + tag for tag in (b"cpu", b"cuda:0"))
        if kind == "legacy":
            forged.write_bytes(path.read_bytes().replace(on_cpu, on_gpu))
        else:
            with zipfile.ZipFile(path) as old, zipfile.ZipFile(forged, "w") as new:
                for name in old.namelist():
                    new.writestr(name, old.read(name).replace(on_cpu, on_gpu))
        with pytest.raises(RuntimeError, match=r"CUDA"):
            torch.load(forged, weights_only=True)  # that it is such a file
        state = read_checkpoint(forged)
        assert {tensor.device.type for tensor in state.values()} == {"cpu"}
        assert all(torch.equal(state[name], tensor) for name, tensor in net().state_dict().items())


class TestMapping:
    @pytest.fixture
    def mapped(self, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """What ``torch.load`` is told."""
        told: list[bool] = []
        load = torch.load
        monkeypatch.setattr(torch, "load", lambda *a, mmap, **k: told.append(mmap) or load(*a, mmap=mmap, **k))
        return told

    def test_archives_are_mapped_and_hold_the_same_numbers(self, mapped: list[bool], tmp_path: Path) -> None:
        path = saved("zip", tmp_path)
        state = read_checkpoint(path)
        assert mapped == [os.name == "posix"]
        before = path.read_bytes()
        for tensor in state.values():
            tensor.zero_()
        assert path.read_bytes() == before
        path.unlink()
        assert all(not tensor.any() for tensor in state.values())

    def test_legacy_and_compressed_files_are_not(self, mapped: list[bool], tmp_path: Path) -> None:
        """torch fails on compressed members when told to map them."""
        path, packed = saved("zip", tmp_path), tmp_path / "packed.pt"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        for file in (packed, saved("legacy", tmp_path)):
            state = read_checkpoint(file)
            assert all(torch.equal(state[name], tensor) for name, tensor in net().state_dict().items())
        assert mapped == [False, False]

    def test_a_loaded_network_does_not_hang_on_the_file(self, tmp_path: Path) -> None:
        path, module = saved("zip", tmp_path), net()
        load_checked(module, read_checkpoint(path), origin="net")
        path.write_bytes(bytes(path.stat().st_size))
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), net().parameters(), strict=True))
