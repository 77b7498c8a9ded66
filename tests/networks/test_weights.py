"""Where weights come from and what is refused."""

from __future__ import annotations

import argparse
import copy
import hashlib
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fairmedfm_monai.networks import weights
from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked, read_checkpoint, strict_keys
from fairmedfm_monai.networks.weights import WeightSource, fill_weights, resolve_weights

SOURCE = WeightSource(names=("net.pth", "net.safetensors"), page="https://example.org/page")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path))
    monkeypatch.setenv("FAIRMEDFM_OFFLINE", "1")
    (tmp_path / "weights").mkdir()
    return tmp_path


def net() -> nn.Module:
    return strict_keys(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))


class TestKind:
    def test_paths_are_files_and_the_rest_is_named(self) -> None:
        assert [weights.weights_kind(w) for w in ("pretrained", "random", "tiny", "a/tiny.pt", Path("random.pt"))] == [
            "pretrained",
            "random",
            "tiny",
            "file",
            "file",
        ]

    def test_geometry_only_keeps_tiny_and_reads_no_file(self) -> None:
        assert [weights.geometry_only(w) for w in ("pretrained", "x.pt", "random", "tiny")] == ["random"] * 3 + ["tiny"]


class TestFinding:
    def test_a_missing_file_is_named_with_its_folder_and_page(self, home: Path) -> None:
        with pytest.raises(WeightsError, match=r"put net\.pth \(or net\.safetensors\)") as caught:
            resolve_weights("pretrained", SOURCE)
        assert str(home / "weights") in str(caught.value)
        assert "https://example.org/page" in str(caught.value)

    def test_the_local_file_comes_first_whichever_accepted_name_it_has(self, home: Path) -> None:
        path = home / "weights" / "net.safetensors"
        save_file({"a": torch.zeros(1)}, path)
        assert resolve_weights("pretrained", SOURCE) == path

    def test_a_file_that_differs_from_the_published_one_is_refused(self, home: Path) -> None:
        path = home / "weights" / "net.pth"
        path.write_bytes(b"published")
        digest = hashlib.sha256(b"published").hexdigest()
        known = WeightSource(names=("net.pth",), page="", sha256={"net.pth": digest})
        assert resolve_weights("pretrained", known) == path
        path.write_bytes(b"changed")
        with pytest.raises(WeightsError, match="not the published file"):
            resolve_weights("pretrained", known)

    def test_a_download_is_checked_before_it_takes_its_name(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("FAIRMEDFM_OFFLINE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        origin = home / "server" / "net.pth"
        origin.parent.mkdir()
        origin.write_bytes(b"bytes")
        digest = hashlib.sha256(b"bytes").hexdigest()
        good = WeightSource(names=("net.pth",), page="", url=origin.as_uri(), sha256={"net.pth": digest})
        bad = WeightSource(names=("net.pth",), page="", url=origin.as_uri(), sha256={"net.pth": "0" * 64})
        with pytest.raises(WeightsError, match="not the published file"):
            resolve_weights("pretrained", bad)
        assert not list((home / "weights").iterdir())
        path = resolve_weights("pretrained", good)
        assert path is not None
        assert path.read_bytes() == b"bytes"

    def test_a_link_that_gives_a_web_page_leaves_no_file(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("FAIRMEDFM_OFFLINE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        (home / "server").mkdir()
        (home / "server" / "net.pth").write_text("<!DOCTYPE html><title>Sign in</title>", encoding="utf-8")
        source = WeightSource(names=("net.pth",), page="", url=(home / "server" / "net.pth").as_uri())
        with pytest.raises(WeightsError, match=r"put net\.pth into .*a web page"):
            resolve_weights("pretrained", source)
        assert not list((home / "weights").iterdir())

    def test_a_path_that_is_no_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"nothing\.pt is no file"):
            resolve_weights(tmp_path / "nothing.pt", SOURCE)


class TestReading:
    @pytest.mark.parametrize("container", [None, "state_dict", "model", "model_state_dict"])
    def test_containers_and_the_data_parallel_prefix_come_off(self, tmp_path: Path, container: str | None) -> None:
        reference = net()
        state = {f"module.{name}": tensor for name, tensor in reference.state_dict().items()}
        content = state if container is None else {container: state, "epoch": 3, "args": argparse.Namespace(lr=1)}
        torch.save(content, tmp_path / "net.pt")
        module = net()
        fill_weights(module, tmp_path / "net.pt", source=SOURCE)
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), reference.parameters(), strict=True))

    def test_half_precision_is_loaded_as_float32(self, tmp_path: Path) -> None:
        reference = net()
        save_file({name: t.half() for name, t in reference.state_dict().items()}, tmp_path / "net.safetensors")
        module = net()
        fill_weights(module, tmp_path / "net.safetensors", source=SOURCE)
        assert {tensor.dtype for tensor in module.parameters()} == {torch.float32}
        torch.testing.assert_close(module[0].weight, reference[0].weight, atol=1e-3, rtol=0)

    def test_a_pickle_that_would_run_code_is_refused_and_not_run(self, tmp_path: Path) -> None:
        class Attack:
            def __reduce__(self) -> tuple[object, ...]:
                return os.mkdir, (str(tmp_path / "executed"),)

        torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Attack()}, tmp_path / "net.pt")
        with pytest.raises(WeightsError, match="cannot be read as plain weights"):
            read_checkpoint(tmp_path / "net.pt")
        assert not (tmp_path / "executed").exists()

    def test_a_truncated_file_is_reported(self, tmp_path: Path) -> None:
        torch.save(net().state_dict(), tmp_path / "net.pt")
        (tmp_path / "cut.pt").write_bytes((tmp_path / "net.pt").read_bytes()[:500])
        with pytest.raises(WeightsError, match=r"cut\.pt cannot be read"):
            read_checkpoint(tmp_path / "cut.pt")

    def test_a_file_without_weights_is_reported(self, tmp_path: Path) -> None:
        torch.save({"epoch": 3}, tmp_path / "net.pt")
        with pytest.raises(WeightsError, match="holds no weights"):
            read_checkpoint(tmp_path / "net.pt")


class TestTorchScriptArchive:
    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        module = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Linear(4, 4).half()).eval()
        torch.jit.script(module).save(tmp_path / "net.pt")
        return tmp_path / "net.pt"

    def test_tensors_equal_those_of_torch_jit_load(self, archive: Path) -> None:
        expected = torch.jit.load(archive).state_dict()
        state = read_checkpoint(archive)
        assert set(state) == set(expected)
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert state["2.weight"].dtype == torch.float16

    def test_a_foreign_class_in_the_archive_is_refused_and_not_run(self, archive: Path, tmp_path: Path) -> None:
        class Attack:
            def __reduce__(self) -> tuple[object, ...]:
                return os.mkdir, (str(tmp_path / "executed"),)

        forged = tmp_path / "forged.pt"
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(forged, "w") as new:
            for name in old.namelist():
                new.writestr(name, pickle.dumps(Attack()) if name.endswith("/data.pkl") else old.read(name))
        with pytest.raises(WeightsError, match="not on the allow-list"):
            read_checkpoint(forged)
        assert not (tmp_path / "executed").exists()


class TestChecking:
    def test_missing_unexpected_and_misshapen_tensors_are_counted(self) -> None:
        state = dict(net().state_dict())
        state["0.weight"] = torch.zeros(5, 3)
        state["2.extra"] = state.pop("1.bias")
        with pytest.raises(
            WeightsError, match="5 of 7 tensors match, 1 missing, 1 unexpected, 1 of another shape"
        ) as caught:
            load_checked(net(), state, origin="file.pt")
        message = str(caught.value)
        assert "missing: 1.bias (2,)" in message
        assert "unexpected: 2.extra (2,)" in message
        assert "0.weight is (5, 3), not (2, 3)" in message

    def test_a_refused_load_changes_nothing(self) -> None:
        module = net()
        before = copy.deepcopy(module.state_dict())
        state = {name: tensor + 1 for name, tensor in module.state_dict().items() if name != "1.bias"}
        with pytest.raises(WeightsError):
            load_checked(module, state, origin="file.pt")
        assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())

    @pytest.mark.parametrize("strict", [True, False])
    def test_strict_keys_refuses_a_half_filled_network(self, strict: bool) -> None:
        state = net().state_dict()
        state["other"] = state.pop("1.bias")
        with pytest.raises(RuntimeError, match=r"1\.bias"):
            net().load_state_dict(state, strict=strict)

    def test_strict_keys_survives_copies_and_guards_inside_another_network(self) -> None:
        outer = nn.Sequential(copy.deepcopy(net()), nn.Linear(2, 2))
        state = outer.state_dict()
        del state["0.0.bias"]
        with pytest.raises(WeightsError, match=r"1 missing: 0\.0\.bias"):
            outer.load_state_dict(state, strict=False)

    def test_strict_keys_is_no_obstacle_to_torchscript(self) -> None:
        module = net().eval()
        sample = torch.ones(4, 3)
        assert torch.equal(torch.jit.script(module)(sample), module(sample))


def test_importing_the_packages_loads_no_model_library() -> None:
    code = (
        "import sys, fairmedfm_monai.networks, fairmedfm_monai.usages, fairmedfm_monai.networks.encoders, "
        "fairmedfm_monai.networks.segmenters; "
        "print([n for n in ('torch', 'open_clip', 'segment_anything', 'transformers', 'peft', 'monai', 'timm') "
        "if n in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout == "[]\n"
    )
