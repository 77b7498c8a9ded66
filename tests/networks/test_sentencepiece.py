"""SigLIP's tokenizers on vocabularies that sentencepiece trains here, against sentencepiece and transformers."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import string
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch

from fairmedfm_monai.networks.encoders.siglip import MedSigLIPEncoder, SigLIP2Encoder, SigLIPEncoder
from fairmedfm_monai.networks.integrity import WeightsError

LINES = [
    "a chest x ray of a patient with pleural effusion",
    "no finding in the chest of a woman",
    "pneumonia in the left lung",
    "cardiomegaly and edema of the heart",
    "the right lung is clear and normal",
]
TEXTS = ["A chest X-ray, with PLEURAL effusion.", "pneumonia", "The  right lung", "Ödem: 肺炎", "no finding (normal)!"]
LONG = "the right lung is clear and normal " * 20
# What the hub's repository says beside Gemma's vocabulary.
SETTINGS = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
V1 = [SigLIPEncoder, MedSigLIPEncoder]


def train(**options: object) -> bytes:
    """A vocabulary in sentencepiece's own format."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 20),
        model_writer=model,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def unigrams() -> bytes:
    """As SigLIP's: padding and end are one token, an unknown one, no byte pairs."""
    return train(vocab_size=80, model_type="unigram", pad_id=-1, eos_id=1, unk_id=2, bos_id=-1)


@pytest.fixture(scope="module")
def byte_pairs() -> bytes:
    """As Gemma's: bytes for what is unknown, spaces kept, no space before the first word."""
    return train(
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        user_defined_symbols=["<mask>"],
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[type[SigLIPEncoder]], SigLIPEncoder]:
    """Encoders that ask for their own tokenizer, as after loading a file, in a home of their own."""
    monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path))
    monkeypatch.setenv("FAIRMEDFM_OFFLINE", "1")

    def build(cls: type[SigLIPEncoder]) -> SigLIPEncoder:
        encoder = cls(cls.variants[0], "tiny")
        encoder._weights = "pretrained"
        return encoder

    return build


def place(encoder: SigLIPEncoder, home: Path, name: str, content: bytes) -> Path:
    folder = home / "weights" / encoder.tokenizer.folder
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    return folder


def padded(rows: list[list[int]], pad: int) -> list[list[int]]:
    return [[*row, *[pad] * (64 - len(row))] for row in rows]


@pytest.mark.parametrize("cls", V1)
class TestUnigrams:
    def test_numbers_are_those_of_sentencepiece_and_of_transformers(
        self, cls: type[SigLIPEncoder], trained: Callable[..., SigLIPEncoder], unigrams: bytes, tmp_path: Path
    ) -> None:
        from transformers import SiglipTokenizer

        encoder = trained(cls)
        folder = place(encoder, tmp_path, "spiece.model", unigrams)
        numbers = encoder.token_numbers(TEXTS)
        assert numbers.shape == (len(TEXTS), 64)
        # Lower case and no punctuation (big_vision's `canonicalize`), then sentencepiece, then the end.
        plain = [re.sub(f"[{re.escape(string.punctuation)}]", "", text.lower()) for text in TEXTS]
        pieces = sentencepiece.SentencePieceProcessor(model_proto=unigrams)
        rows = [[*pieces.encode(" ".join(text.split())), 1] for text in plain]
        assert numbers.tolist() == padded(rows, 1)
        library = SiglipTokenizer.from_pretrained(str(folder), local_files_only=True)
        expected = library(TEXTS, padding="max_length", max_length=64, truncation=True, return_tensors="pt")
        assert torch.equal(numbers, expected["input_ids"])

    def test_long_prompts_are_cut_as_by_transformers_and_counted(
        self, cls: type[SigLIPEncoder], trained: Callable[..., SigLIPEncoder], unigrams: bytes, tmp_path: Path
    ) -> None:
        from transformers import SiglipTokenizer

        encoder = trained(cls)
        folder = place(encoder, tmp_path, "spiece.model", unigrams)
        with pytest.warns(UserWarning, match=rf"2 of 3 prompts are longer than {cls.title}'s 64 tokens"):
            numbers = encoder.token_numbers([LONG, "pneumonia", LONG.upper()])
        library = SiglipTokenizer.from_pretrained(str(folder), local_files_only=True)
        expected = library([LONG], padding="max_length", max_length=64, truncation=True, return_tensors="pt")
        assert torch.equal(numbers[[0]], expected["input_ids"])
        assert torch.equal(numbers[0], numbers[2])

    def test_half_a_vocabulary_and_a_web_page(
        self, cls: type[SigLIPEncoder], trained: Callable[..., SigLIPEncoder], unigrams: bytes, tmp_path: Path
    ) -> None:
        encoder = trained(cls)
        folder = place(encoder, tmp_path, "spiece.model", unigrams[: len(unigrams) // 2])
        with pytest.raises(WeightsError, match=rf"{folder} cannot be read as SiglipTokenizer.*fetch them again"):
            encoder.token_numbers(TEXTS)
        (folder / "spiece.model").write_bytes(b"<!DOCTYPE html><title>Sign in</title>")
        with pytest.raises(WeightsError, match=r"spiece\.model is a web page"):
            encoder.token_numbers(TEXTS)

    def test_another_file_is_no_vocabulary_of_it(
        self, cls: type[SigLIPEncoder], trained: Callable[..., SigLIPEncoder], tmp_path: Path
    ) -> None:
        encoder = trained(cls)
        folder = place(encoder, tmp_path, "tokenizer.json", b"{}")
        with pytest.raises(WeightsError, match=rf"put its files \(spiece\.model.*into {folder}") as caught:
            encoder.token_numbers(TEXTS)
        assert encoder.tokenizer.repo in str(caught.value)

    @pytest.mark.parametrize("missing", ["sentencepiece", "google", "google.protobuf"])
    def test_missing_packages_are_asked_for(
        self,
        cls: type[SigLIPEncoder],
        missing: str,
        trained: Callable[..., SigLIPEncoder],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
        with pytest.raises(WeightsError, match="pip install sentencepiece protobuf"):
            trained(cls).token_numbers(TEXTS)


class TestBytePairs:
    @pytest.fixture(params=["tokenizer.model", "tokenizer.json"])
    def encoder(
        self,
        request: pytest.FixtureRequest,
        trained: Callable[..., SigLIPEncoder],
        byte_pairs: bytes,
        tmp_path: Path,
    ) -> SigLIPEncoder:
        """With sentencepiece's own file, or with that which transformers makes from it, as on the hub."""
        from transformers import GemmaTokenizer

        encoder = trained(SigLIP2Encoder)
        source = place(encoder, tmp_path, "tokenizer.model", byte_pairs)
        settings = json.dumps(SETTINGS)
        (source / "tokenizer_config.json").write_text(settings, encoding="utf-8")
        if request.param == "tokenizer.json":
            GemmaTokenizer.from_pretrained(str(source), local_files_only=True).save_pretrained(tmp_path / "made")
            (source / "tokenizer.model").unlink()
            (tmp_path / "made" / "tokenizer.json").rename(source / "tokenizer.json")
        return encoder

    def test_numbers_are_those_of_sentencepiece_in_lower_case(self, encoder: SigLIPEncoder, byte_pairs: bytes) -> None:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=byte_pairs)
        numbers = encoder.token_numbers(TEXTS)
        assert numbers.tolist() == padded([[*pieces.encode(text.lower()), 1] for text in TEXTS], 0)

    def test_numbers_are_those_of_transformers_gemma_in_lower_case(
        self, encoder: SigLIPEncoder, tmp_path: Path
    ) -> None:
        from transformers import GemmaTokenizer

        folder = tmp_path / "weights" / "siglip2"
        library = GemmaTokenizer.from_pretrained(str(folder), local_files_only=True)
        options = {"padding": "max_length", "max_length": 64, "truncation": True, "return_tensors": "pt"}
        expected = library([text.lower() for text in TEXTS], **options)["input_ids"]
        assert torch.equal(encoder.token_numbers(TEXTS), expected)
        # The trap: the class that the repository names leaves capitals as they are.
        assert not torch.equal(encoder.token_numbers(TEXTS), library(TEXTS, **options)["input_ids"])

    def test_long_prompts_are_cut_before_the_end_and_counted(self, encoder: SigLIPEncoder, byte_pairs: bytes) -> None:
        with pytest.warns(UserWarning, match=r"1 of 2 prompts are longer than SigLIP 2's 64 tokens"):
            numbers = encoder.token_numbers(["pneumonia", LONG])
        pieces = sentencepiece.SentencePieceProcessor(model_proto=byte_pairs)
        assert numbers[1].tolist() == [*pieces.encode(LONG)[:63], 1]


def test_a_vocabulary_without_its_settings_is_refused(
    trained: Callable[..., SigLIPEncoder], byte_pairs: bytes, tmp_path: Path
) -> None:
    """Gemma's own default is no end token, on which SigLIP's text embedding rests."""
    encoder = trained(SigLIP2Encoder)
    place(encoder, tmp_path, "tokenizer.model", byte_pairs)
    with pytest.raises(WeightsError, match=r"is not SigLIP 2's: it must lower-case, end with token 1"):
        encoder.token_numbers(TEXTS)
