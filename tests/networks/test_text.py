"""Tokenizers from local files, from the hub (not reached here) and the stand-in."""

from __future__ import annotations

import socket
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from fairmedfm_monai.networks import text
from fairmedfm_monai.networks.checkpoint import WeightsError
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

        monkeypatch.setattr(text, "offline", lambda: False)
        monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
        with pytest.raises(WeightsError, match=r"owner/bert failed \(PermissionError: 401: owner/bert is gated\)"):
            load_tokenizer("owner/bert", "bert", "BertTokenizer")

    def test_a_repository_without_vocabulary(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text, "offline", lambda: False)
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: None)
        with pytest.raises(WeightsError, match=r"owner/bert has none of tokenizer.json"):
            load_tokenizer("owner/bert", "bert", "BertTokenizer")

    def test_the_hub_is_asked_for_tokenizer_files_only_and_once(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        asked = []

        def download(repo: str, *, allow_patterns: list[str], local_dir: Path) -> None:
            asked.append((repo, allow_patterns))
            local_dir.mkdir(parents=True)
            (local_dir / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")

        monkeypatch.setattr(text, "offline", lambda: False)
        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        for _ in range(2):
            assert load_tokenizer("owner/bert", "fresh", "BertTokenizer").numbers("a") == [2, 5, 3]
        assert (tmp_path / "weights" / "fresh" / "vocab.txt").is_file()
        assert [repo for repo, _ in asked] == ["owner/bert"]
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

        texts = ["a chest x-ray.", "a " * 20, ""]
        ours = load_tokenizer("owner/bert", "bert", "BertTokenizer")
        with pytest.warns(UserWarning, match="1 of 3 prompts are longer than BERT's 10 tokens .*longest: 22"):
            found = tokenize(ours, texts, limit=10, model="BERT", pad_to=10)
        library = BertTokenizer.from_pretrained(str(text.weights_dir() / "bert"), local_files_only=True)
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
