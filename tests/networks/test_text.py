"""Tokenizers from local files, from the hub (not reached here) and the stand-in."""

from __future__ import annotations

import importlib
import socket
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import errors

from fairmedfm_monai.networks import tokenizer_files, weights
from fairmedfm_monai.networks.integrity import WeightsError
from fairmedfm_monai.networks.text import StandInTokenizer, TokenizerSource, find_tokenizer, load_tokenizer, tokenize

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "chest",
    "x",
    "-",
    "ray",
    "effusion",
    "##s",
    ".",
    "Effusion",
]
SOURCE = TokenizerSource(repo="owner/bert", folder="bert")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        message = "a tokenizer reached for the network"
        raise AssertionError(message)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path))
    monkeypatch.setenv("FAIRMEDFM_OFFLINE", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with BERT's smallest file, one word a line."""
    path = tmp_path / "weights" / "bert"
    path.mkdir(parents=True)
    (path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return path


@pytest.mark.usefixtures("folder")
class TestLocalFolder:
    def test_word_pieces_are_those_of_the_vocabulary(self) -> None:
        tokenizer = load_tokenizer("owner/bert", "bert", "BertTokenizer")
        numbers = tokenizer.numbers("A chest X-ray, effusions.")
        assert tokenizer.pieces(numbers) == (
            ["[CLS]", "a", "chest", "x", "-", "ray", "[UNK]", "effusion", "##s", ".", "[SEP]"]
        )
        assert tokenizer.pad == 0

    def test_options_reach_the_class(self) -> None:
        tokenizer = load_tokenizer("owner/bert", "bert", "BertTokenizer", do_lower_case=False)
        assert tokenizer.numbers("Effusion") == [2, WORDS.index("Effusion"), 3]

    def test_nothing_is_cut_or_said_before_the_models_own_limit(self, caplog: pytest.LogCaptureFixture) -> None:
        assert len(load_tokenizer("owner/bert", "bert", "BertTokenizer").numbers("a " * 600)) == 602
        assert not caplog.records

    def test_a_folder_written_by_transformers(self, folder: Path, tmp_path: Path) -> None:
        from transformers import BertTokenizer

        BertTokenizer.from_pretrained(str(folder), local_files_only=True).save_pretrained(tmp_path / "weights" / "new")
        tokenizer = load_tokenizer("owner/bert", "new", "BertTokenizer")
        assert tokenizer.numbers("chest ray") == [2, WORDS.index("chest"), WORDS.index("ray"), 3]


class TestMissing:
    def test_offline_and_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError) as caught:
            load_tokenizer("owner/bert", "bert", "BertTokenizer")
        for part in (
            str(tmp_path / "weights" / "bert"),
            "vocab.txt",
            "https://huggingface.co/owner/bert",
            "switched off",
        ):
            assert part in str(caught.value)

    def test_a_hub_that_fails_is_named_with_its_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def gated(repo: str, **_: Any) -> None:
            message = f"401: {repo} is gated\nlog in"
            raise PermissionError(message)

        monkeypatch.setattr(tokenizer_files, "offline", lambda: False)
        monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
        with pytest.raises(WeightsError, match=r"owner/bert failed \(PermissionError: 401: owner/bert is gated\)"):
            load_tokenizer("owner/bert", "bert", "BertTokenizer")

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            (errors.GatedRepoError, "owner/bert is gated and no token was given: accept its terms at"),
            (errors.RepositoryNotFoundError, "the hub knows no repository owner/bert"),
        ],
    )
    def test_refusals_of_the_hub_come_with_advice(
        self, kind: type[errors.HfHubHTTPError], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def refuse(repo: str, **_: Any) -> None:
            raise kind("401 Client Error.", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]

        monkeypatch.setattr(tokenizer_files, "offline", lambda: False)
        monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        with pytest.raises(WeightsError, match=rf"{tmp_path / 'weights' / 'bert'}.*{said}"):
            load_tokenizer("owner/bert", "bert", "BertTokenizer")

    def test_a_hub_out_of_reach_is_no_repository_without_vocabulary(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The hub's client is satisfied with a folder that holds anything, such as settings copied by hand."""

        def download(repo: str, *, allow_patterns: list[str], local_dir: Path) -> None:
            if not any(local_dir.iterdir()):
                message = "An error happened while trying to locate the files on the Hub"
                raise errors.LocalEntryNotFoundError(message) from ConnectionError("no route")

        (tmp_path / "weights" / "bert").mkdir(parents=True)
        (tmp_path / "weights" / "bert" / "tokenizer_config.json").write_text("{}", encoding="utf-8")
        monkeypatch.setattr(tokenizer_files, "offline", lambda: False)
        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        with pytest.raises(WeightsError, match=r"the hub was not reached for owner/bert \(ConnectionError: no route\)"):
            load_tokenizer("owner/bert", "bert", "BertTokenizer")

    def test_a_repository_without_vocabulary(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokenizer_files, "offline", lambda: False)
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: None)
        with pytest.raises(WeightsError, match=r"owner/bert has none of tokenizer.json"):
            load_tokenizer("owner/bert", "bert", "BertTokenizer")

    def test_the_hub_is_asked_for_tokenizer_files_only_and_once(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        asked = []

        def download(repo: str, *, allow_patterns: list[str], local_dir: Path) -> None:
            asked.append((repo, allow_patterns))
            (local_dir / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")

        monkeypatch.setattr(tokenizer_files, "offline", lambda: False)
        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        for _ in range(2):
            assert load_tokenizer("owner/bert", "fresh", "BertTokenizer").numbers("a") == [2, 5, 3]
        assert (tmp_path / "weights" / "fresh" / "vocab.txt").is_file()
        assert [repo for repo, _ in asked] == ["owner/bert"]
        assert [path.name for path in (tmp_path / "weights").iterdir()] == ["fresh"]
        assert not any(pattern.endswith((".bin", ".safetensors", ".py")) or "*" in pattern for pattern in asked[0][1])

    def test_damaged_files(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{", encoding="utf-8")
        with pytest.raises(WeightsError, match=r"cannot be read as BertTokenizer .*fetch them again"):
            load_tokenizer("owner/bert", "bert", "BertTokenizer")


class TestStandIn:
    def test_the_same_words_have_the_same_numbers_everywhere(self) -> None:
        tokenizer = StandInTokenizer(30522)
        first, second = tokenizer.numbers("Left effusion."), tokenizer.numbers("effusion, left")
        assert (first[0], first[-1]) == (101, 102)
        assert (first[1], first[2]) == (second[3], second[1])
        # 104 + (first 8 bytes of the word's SHA-256) mod (30522 - 104), worked out by hand with sha256sum
        assert first == [101, 2478, 26309, 28094, 102]

    def test_numbers_stay_in_a_small_vocabulary_above_the_special_ones(self) -> None:
        tokenizer = StandInTokenizer(110)
        numbers = [number for word in range(200) for number in tokenizer.numbers(f"word{word}")[1:-1]]
        assert set(numbers) == set(range(104, 110))

    def test_special_tokens_of_another_layout(self) -> None:
        tokenizer = StandInTokenizer(50, begin=(), end=(1,), pad=1, first=3)
        numbers = tokenizer.numbers("a b")
        assert len(numbers) == 3
        assert numbers[-1] == tokenizer.pad == 1

    def test_names_of_tokens(self) -> None:
        assert StandInTokenizer(200).pieces([101, 150, 102, 0]) == ["[CLS]", "w150", "[SEP]", "[PAD]"]

    def test_too_small_a_vocabulary(self) -> None:
        with pytest.raises(ValueError, match="`words` must be above `first`"):
            StandInTokenizer(100)

    @pytest.mark.parametrize("weights", ["random", "tiny"])
    def test_untrained_weights_take_it(self, weights: str) -> None:
        assert isinstance(find_tokenizer(SOURCE, weights, words=512), StandInTokenizer)

    @pytest.mark.parametrize("weights", ["pretrained", "folder/file.bin"])
    def test_trained_weights_do_not(self, weights: str) -> None:
        with pytest.raises(WeightsError, match="the tokenizer is not here"):
            find_tokenizer(SOURCE, weights, words=512)


class TestTokenize:
    def test_padding_and_mask(self) -> None:
        tokens = tokenize(StandInTokenizer(512), ["one", "one two three"], limit=8, model="X")
        assert tokens.ids.shape == tokens.mask.shape == (2, 5)
        assert tokens.ids.dtype == tokens.mask.dtype == torch.int64
        assert tokens.mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
        assert tokens.ids[0, 3:].tolist() == [0, 0]
        assert tokenize(StandInTokenizer(512), ["one"], limit=8, model="X", pad_to=8).ids.shape == (1, 8)

    @pytest.mark.usefixtures("folder")
    def test_cutting_and_padding_are_those_of_the_library(self) -> None:
        from transformers import BertTokenizer

        texts = ["a chest x-ray.", "a " * 20, "effusions"]
        ours = load_tokenizer("owner/bert", "bert", "BertTokenizer")
        with pytest.warns(UserWarning, match="1 of 3 prompts are longer than BERT's 10 tokens .*longest: 22"):
            found = tokenize(ours, texts, limit=10, model="BERT", pad_to=10)
        library = BertTokenizer.from_pretrained(str(weights.weights_dir() / "bert"), local_files_only=True)
        expected = library(texts, max_length=10, truncation=True, padding="max_length", return_tensors="pt")
        assert torch.equal(found.ids, expected["input_ids"])
        assert torch.equal(found.mask, expected["attention_mask"])

    def test_a_text_that_just_fits_is_not_reported(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert tokenize(StandInTokenizer(512), ["a " * 6], limit=8, model="X").ids.shape == (1, 8)

    @pytest.mark.parametrize("texts", [[], "one text"])
    def test_no_list_of_texts(self, texts: Any) -> None:
        with pytest.raises(ValueError, match="`texts` must be a non-empty list"):
            tokenize(StandInTokenizer(512), texts, limit=8, model="X")

    @pytest.mark.parametrize("empty", ["", "  \n", "\u00a0"])
    def test_an_empty_prompt_is_named_by_its_place(self, empty: str) -> None:
        with pytest.raises(ValueError, match=r"number 2 of 3 is .*; give each class at least one prompt"):
            tokenize(StandInTokenizer(512), ["one", empty, ""], limit=8, model="X")


# One model for each way from prompts to numbers; sentencepiece's own vocabularies have a file of tests.
WAYS = {
    "byte pairs": ("clip.CLIPEncoder", 77),
    "word pieces": ("biomedclip.BiomedCLIPEncoder", 256),
    "word pieces and words": ("gloria.GLoRIAEncoder", 97),
    "sentencepiece": ("siglip.SigLIPEncoder", 64),
}


@pytest.fixture(scope="module")
def encoders() -> dict[str, Any]:
    found = {}
    for way, (path, _) in WAYS.items():
        module, name = path.split(".")
        found[way] = getattr(importlib.import_module(f"fairmedfm_monai.networks.encoders.{module}"), name)
    return {way: cls(weights="tiny") for way, cls in found.items()}


@pytest.mark.parametrize("way", WAYS)
class TestEveryWay:
    @torch.no_grad()
    def test_long_prompts_are_counted_and_those_that_fit_are_not(self, way: str, encoders: dict[str, Any]) -> None:
        limit = WAYS[way][1]
        with pytest.warns(UserWarning, match=rf"2 of 3 prompts are longer than \S+'s {limit} tokens"):
            encoders[way].encode_text(["an effusion", "word " * (limit + 1), "word " * 2 * limit])
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            encoders[way].encode_text(["an effusion", "word " * (limit - 2)])

    @pytest.mark.parametrize("texts", [[], "an effusion", ["an effusion", " "]])
    def test_no_prompts_are_refused(self, texts: Any, way: str, encoders: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"non-empty list of strings|at least one word|must have a word"):
            encoders[way].encode_text(texts)
