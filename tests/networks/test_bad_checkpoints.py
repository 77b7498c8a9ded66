"""Files that are no checkpoint, half of one, another model's, or one that would run code."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import pickle
import re
import sys
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fairmedfm_monai.networks import integrity
from fairmedfm_monai.networks.checkpoint import UNSAFE, WeightsError, check_digest, read_checkpoint
from fairmedfm_monai.networks.encoders import medclip
from fairmedfm_monai.networks.weights import WeightSource, fill_weights
from tests.networks.test_keys import read_keys

NOWHERE = WeightSource(names=(), page="")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(64, 64))


def save_zip(path: Path) -> None:
    torch.save(net().state_dict(), path)


def save_legacy(path: Path) -> None:
    torch.save(net().state_dict(), path, _use_new_zipfile_serialization=False)


def save_tensors(path: Path) -> None:
    save_file(dict(net().state_dict()), path)


def save_script(path: Path) -> None:
    torch.jit.script(net().eval()).save(path)


def save_packed(path: Path) -> None:
    """A zip around a file of ``torch.save``, as MedCLIP's authors publish theirs."""
    save_zip(path.with_name("pytorch_model.bin"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_name("pytorch_model.bin"), "pytorch_model.bin")


FORMATS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "zip": ("net.pt", save_zip),
    "legacy": ("net.pth", save_legacy),
    "safetensors": ("net.safetensors", save_tensors),
    "TorchScript": ("net.pt", save_script),
    "packed": ("net.zip", save_packed),
}
each_format = pytest.mark.parametrize("kind", FORMATS)


def saved(kind: str, folder: Path) -> Path:
    name, save = FORMATS[kind]
    save(folder / name)
    return folder / name


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


class TestDamaged:
    @each_format
    @pytest.mark.parametrize("part", [0.5, 0.98])
    def test_a_download_that_broke_off(self, kind: str, part: float, tmp_path: Path) -> None:
        path = saved(kind, tmp_path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(WeightsError, match=rf"{path.name} cannot be read.*fetch it again") as caught:
            medclip.read_medclip(path)
        assert "code to be run" not in str(caught.value)

    @pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
    @pytest.mark.parametrize(
        ("content", "seen"),
        [
            (b"", r"an empty file \(0 bytes\)"),
            (b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>", "a web page"),
            (b"\xef\xbb\xbf\n <HTML><body>Virus scan warning</body></HTML>", "a web page"),
            (b'{"error": "Access to this repository is restricted"}', "a text"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "a pointer of Git LFS"),
        ],
    )
    def test_what_servers_send_in_place_of_a_file(self, name: str, content: bytes, seen: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{name} cannot be read: it is {seen}.*fetch it again"):
            read_checkpoint(tmp_path / name)

    def test_the_missing_bytes_of_safetensors_are_told(self, tmp_path: Path) -> None:
        path = saved("safetensors", tmp_path)
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(WeightsError, match=rf"of {size - 1000} bytes where its header promises {size}"):
            read_checkpoint(path)

    def test_bytes_of_another_kind_of_file(self, tmp_path: Path) -> None:
        for name in ("image.pt", "image.safetensors"):
            (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100))
            with pytest.raises(WeightsError, match=f"{name} cannot be read"):
                read_checkpoint(tmp_path / name)

    @each_format
    def test_whole_files_are_read_by_the_same_reader(self, kind: str, tmp_path: Path) -> None:
        path = saved(kind, tmp_path)
        assert integrity.damage(path) is None
        state = medclip.read_medclip(path)
        assert set(state) >= {name for name, _ in net().named_parameters()}

    def test_a_header_that_begins_like_a_text_is_no_text(self, tmp_path: Path) -> None:
        """A .safetensors file begins with a number, which may look like the beginning of JSON."""
        header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        header += b" " * (0x227B - len(header))  # `{"` when read as two letters
        (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        assert read_checkpoint(tmp_path / "a.safetensors")["a"].tolist() == [0.0]


class TestDigest:
    def test_both_digests_and_what_to_do_are_told(self, tmp_path: Path) -> None:
        path = tmp_path / "net.pth"
        path.write_bytes(b"<html>quota exceeded</html>")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        with pytest.raises(WeightsError) as caught:
            check_digest(path, "ab" * 32)
        for part in (str(path), found, "ab" * 32, "a web page", "Delete it and fetch it again", "give `weights`"):
            assert part in str(caught.value)

    @pytest.mark.parametrize("digits", [8, 64])
    def test_first_digits_are_enough_and_their_case_is_not_looked_at(self, digits: int, tmp_path: Path) -> None:
        path = saved("zip", tmp_path)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        check_digest(path, found[:digits].upper())
        with pytest.raises(WeightsError, match="not the published file"):
            check_digest(path, "0" * digits)

    def test_the_sum_is_that_of_hashlib(self, tmp_path: Path) -> None:
        path = tmp_path / "bytes"
        path.write_bytes(b"x" * 3_000_000)
        with path.open("rb") as file:
            assert integrity.sha256_of(file) == hashlib.sha256(path.read_bytes()).hexdigest()


class TestOtherModels:
    @pytest.mark.parametrize("other", ["sam_vit_b", "rad_dino_hub4x", "plip_hf"])
    def test_the_file_of_another_model_is_counted(self, other: str, tmp_path: Path) -> None:
        names = list(read_keys(other))
        torch.save({"state_dict": {name: torch.zeros(1) for name in names}}, tmp_path / "net.pt")
        module = net()
        wanted = len(module.state_dict())
        message = rf"0 of {wanted} tensors match, {wanted} missing, {len(names)} unexpected, 0 of another shape"
        with pytest.raises(WeightsError, match=message) as caught:
            fill_weights(module, tmp_path / "net.pt", source=NOWHERE)
        assert str(tmp_path / "net.pt") in str(caught.value)
        assert f"unexpected: {names[0]}" in str(caught.value)


class TestPickles:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        torch.save({"state_dict": {"a": torch.ones(2)}, "x": Attack(tmp_path / "executed")}, tmp_path / "net.pt")
        return tmp_path / "net.pt"

    @pytest.fixture(autouse=True)
    def no_consent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(UNSAFE, raising=False)

    def test_the_refused_object_and_the_way_out_are_named(self, path: Path, tmp_path: Path) -> None:
        with pytest.raises(
            WeightsError, match=r"it asks for (posix|nt)\.mkdir, which is not on the allow-list"
        ) as caught:
            read_checkpoint(path)
        assert f"{UNSAFE}={hashlib.sha256(path.read_bytes()).hexdigest()}" in str(caught.value)
        assert ".safetensors" in str(caught.value)
        # torch's own advice, to switch the check off, is not passed on.
        assert "weights_only" not in str(caught.value)
        assert not (tmp_path / "executed").exists()

    def test_a_pickle_of_another_kind_is_named_in_torchs_words_without_its_advice(self, tmp_path: Path) -> None:
        (tmp_path / "net.pkl").write_bytes(pickle.dumps({"a": 1}, protocol=5))
        with pytest.raises(WeightsError, match=r"as plain weights: Unsupported operand \d+\. A file") as caught:
            read_checkpoint(tmp_path / "net.pkl")
        assert "weights_only" not in str(caught.value)

    @pytest.mark.parametrize("value", ["1", "true", "*", "0" * 64, ","])
    def test_no_other_value_opens_it(
        self, value: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(UNSAFE, value)
        with pytest.raises(WeightsError, match=re.escape(f"(it holds {value!r}, which is not this file's)")):
            read_checkpoint(path)
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize("before", ["", f"{'0' * 64}, "])
    def test_the_very_file_is_read_when_its_user_names_it(
        self, before: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(UNSAFE, before + hashlib.sha256(path.read_bytes()).hexdigest())
        with pytest.warns(UserWarning, match=r"net\.pt is read by Python's pickle, which runs its code"):
            state = read_checkpoint(path)
        assert state["a"].tolist() == [1.0, 1.0]
        assert (tmp_path / "executed").exists()

    def test_consent_to_one_file_is_none_to_another(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(UNSAFE, hashlib.sha256(path.read_bytes()).hexdigest())
        torch.save({"state_dict": {"a": torch.ones(3)}, "x": Attack(tmp_path / "executed")}, path)
        with pytest.raises(WeightsError, match="is not this file's"):
            read_checkpoint(path)
        assert not (tmp_path / "executed").exists()

    def test_harmless_files_are_read_safely_even_when_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = saved("zip", tmp_path)
        monkeypatch.setenv(UNSAFE, hashlib.sha256(path.read_bytes()).hexdigest())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_checkpoint(path)

    def test_torchscript_has_no_way_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script, forged = saved("TorchScript", tmp_path), tmp_path / "forged.pt"
        with zipfile.ZipFile(script) as old, zipfile.ZipFile(forged, "w") as new:
            for name in old.namelist():
                attack = pickle.dumps(Attack(tmp_path / "executed"))
                new.writestr(name, attack if name.endswith("/data.pkl") else old.read(name))
        monkeypatch.setenv(UNSAFE, hashlib.sha256(forged.read_bytes()).hexdigest())
        with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.mkdir, which is not on the allow-list") as caught:
            read_checkpoint(forged)
        assert UNSAFE not in str(caught.value)
        assert not (tmp_path / "executed").exists()


class TestStandIns:
    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A file with an object of a package that whoever reads it does not have."""
        module = types.ModuleType("trainer")
        ran = str(tmp_path / "ran")

        class Callback:
            def __setstate__(self, state: object) -> None:
                os.mkdir(ran)

        Callback.__module__, Callback.__qualname__ = "trainer", "Callback"
        module.Callback = Callback  # type: ignore[attr-defined]
        callback = Callback()
        callback.__dict__["scores"] = collections.defaultdict(list, {"auc": [0.5]})
        with monkeypatch.context() as here:
            here.setitem(sys.modules, "trainer", module)
            torch.save({"state_dict": {"a": torch.ones(2)}, "callback": callback}, tmp_path / "net.pt")
        return tmp_path / "net.pt"

    def test_named_classes_are_replaced_and_never_run(self, path: Path, tmp_path: Path) -> None:
        assert read_checkpoint(path, inert=("trainer.Callback",))["a"].tolist() == [1.0, 1.0]
        assert not (tmp_path / "ran").exists()
        assert "trainer" not in sys.modules

    @pytest.mark.parametrize("inert", [(), ("trainer.Logger",)])
    def test_others_are_refused_before_and_after(self, inert: tuple[str, ...], path: Path) -> None:
        read_checkpoint(path, inert=("trainer.Callback",))
        with pytest.raises(WeightsError, match=r"it asks for trainer\.Callback"):
            read_checkpoint(path, inert=inert)
