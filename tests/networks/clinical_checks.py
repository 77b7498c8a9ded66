"""What MedCLIP, GLoRIA and FLAIR must pass, and what they are tested with: a small vocabulary and seeded weights."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.catalog import input_spec
from fairmedfm_monai.networks.checkpoint import WeightsError
from fairmedfm_monai.networks.encoders import clinical_towers
from fairmedfm_monai.networks.encoders.base import VisionLanguageEncoder
from fairmedfm_monai.usages import lora
from fairmedfm_monai.usages.linear_probe import LinearProbe
from tests.networks import clip_checks, parity
from tests.networks.encoder_checks import images
from tests.networks.test_keys import read_keys

Builder = Callable[..., VisionLanguageEncoder]
# The special tokens of BERT, some words, and pieces of others.
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a of lungs are clear pleural ef ##fusion ##s pneu ##monia ##thorax in left lung"
# Capitals, a word of pieces, an unknown word, punctuation, and lengths that differ.
PROMPTS = ("Pleural effusion in left lung", "Lungs are clear. A pneumothorax of lung", "Pneumonia: bilateral effusions")
_BERT_BLOCK = re.compile(r".*text_(?:model|encoder)\.model\.encoder\.layer\.(\d+)\..*")


def write_vocabulary(folder: Path) -> Path:
    """A ``vocab.txt`` in ``folder``, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS.split(" ")), encoding="utf-8")
    return folder


def published_state(keys: str, seed: int, *, layers: int) -> dict[str, Tensor]:
    """Seeded weights by published names, of BERT the first ``layers`` blocks."""
    found = {name: (_BERT_BLOCK.fullmatch(name), tensor) for name, tensor in read_keys(keys).items()}
    kept = {name: tensor for name, (block, tensor) in found.items() if block is None or int(block[1]) < layers}
    return clip_checks.clip_state(clip_checks.shapes_of(kept), seed)


def shorten_bert(monkeypatch: pytest.MonkeyPatch, layers: int) -> None:
    """Give BERT of full geometry ``layers`` blocks."""
    monkeypatch.setattr(
        clinical_towers, "CLINICAL_BERT", {**clinical_towers.CLINICAL_BERT, "num_hidden_layers": layers}
    )


def use_vocabulary(encoder: VisionLanguageEncoder, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an encoder of ``random`` or ``tiny`` weights read :func:`write_vocabulary`'s file, as one of a file does."""
    monkeypatch.setenv("FAIRMEDFM_HOME", str(home))
    monkeypatch.setenv("FAIRMEDFM_OFFLINE", "1")
    write_vocabulary(home / "weights" / str(encoder.folder))
    monkeypatch.setattr(encoder, "_weights", "pretrained")


@torch.no_grad()
def check_interface(build: Builder, fm: str, variant: str, *, entries: Sequence[str]) -> None:
    """Shapes, unit length, the catalog's input, batch against single, seeds, refused images, TorchScript."""
    encoder = build(variant, "tiny")
    spec, row = encoder.input_spec, input_spec(fm, variant)
    assert (row["size"], row["channels"]) == (spec.size, spec.channels)
    assert (tuple(row["mean"]), tuple(row["std"])) == (spec.mean, spec.std)
    batch = images(spec.size, count=3) + torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1)
    encoded = encoder.encode_image(batch)
    assert list(encoded) == list(entries)
    assert encoded["features"].shape == (3, encoder.feature_dim)
    assert all(value.isfinite().all() for value in encoded.values())
    torch.testing.assert_close(encoded["zero_shot"].norm(dim=1), torch.ones(3))
    for index, image in enumerate(batch):
        for name, value in encoder.encode_image(image[None]).items():
            torch.testing.assert_close(value[0], encoded[name][index], atol=1e-5, rtol=1e-5)
    assert (encoded["zero_shot"][0] - encoded["zero_shot"][1]).abs().max() > 1e-4
    assert torch.equal(build(variant, "tiny", seed=0)(batch), encoded["features"])
    assert not torch.equal(build(variant, "tiny", seed=1)(batch), encoded["features"])
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 1e6
    with pytest.raises(ValueError, match=rf"`image` must be \(B, 3, {spec.size}, {spec.size}\)"):
        encoder(torch.zeros(1, 3, spec.size + 14, spec.size))
    encoder.encode_text(PROMPTS)
    encoder.release_text()
    assert not any(name.startswith("text") for name in encoder.state_dict())
    scripted = torch.jit.script(encoder).encode_image(batch)
    assert all(torch.equal(scripted[name], value) for name, value in encoded.items())
    with pytest.raises(RuntimeError, match="build the encoder again"):
        encoder.encode_text(PROMPTS)


@torch.no_grad()
def check_texts(build: Builder, variant: str) -> None:
    """Prompts together give what they give alone; logits are scale * cosine; long prompts are counted."""
    encoder = build(variant, "tiny")
    texts = encoder.encode_text(PROMPTS)
    torch.testing.assert_close(texts["zero_shot"].norm(dim=1), torch.ones(len(PROMPTS)))
    for index, prompt in enumerate(PROMPTS):
        for name, value in encoder.encode_text([prompt]).items():
            torch.testing.assert_close(value[0], texts[name][index], atol=1e-5, rtol=1e-5)
    assert (texts["zero_shot"][0] - texts["zero_shot"][1]).abs().max() > 1e-4
    limit = encoder.limit
    with pytest.warns(UserWarning, match=f"1 of 2 prompts are longer than {encoder.title}'s {limit} tokens"):
        encoder.encode_text(["two words", "word " * limit])


def check_lora(build: Builder, variant: str, targets: Sequence[str], *, full: int) -> None:
    """``full`` modules of the image tower are meant in full geometry, and each adapter gets a gradient that counts."""
    with torch.device("meta"):
        whole = build(variant, "random")
    whole.release_text()
    names = [name for name, _ in whole.named_modules() if name.endswith(tuple(f".{target}" for target in targets))]
    assert len(names) == full
    assert all(name.startswith("visual.model.") for name in names)
    encoder, plain = build(variant, "tiny"), LinearProbe(build(variant, "tiny"), 2)
    size = encoder.input_spec.size
    model = lora.add_lora(LinearProbe(encoder, 2), rank=2, alpha=4, dropout=0.0, target_modules=targets)
    adapters = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for number, parameter in enumerate(adapters.values()):
            parameter.copy_(parity.seeded_tensor(f"lora{number}", parameter.shape, 0))
    trained = sum(map(torch.Tensor.numel, adapters.values())) + 2 * (encoder.feature_dim + 1)
    assert lora.check_gradients(model, (2, 3, size, size)) == trained
    image = images(size)
    model(image)[:, 0].sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in adapters.values())
    with torch.no_grad():
        assert (model.eval()(image) - plain(image)).abs().max() > 1e-4
        plain.load_state_dict(lora.MergedState(model).state_dict())
        torch.testing.assert_close(plain(image), model(image), atol=1e-4, rtol=1e-4)


def shrink(monkeypatch: pytest.MonkeyPatch, home: Path, module: Any, name: str, value: Any) -> None:
    """Small geometry for every file (``value`` instead of the image tower's ``name``), no network, an own home."""
    monkeypatch.setattr(clinical_towers, "CLINICAL_BERT", clinical_towers.TINY_BERT)
    monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setenv("FAIRMEDFM_HOME", str(home))
    monkeypatch.setenv("FAIRMEDFM_OFFLINE", "1")


def published(encoder: VisionLanguageEncoder, prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights of a residual network and BERT under the names whose beginnings ``prefixes`` translates."""
    state: dict[str, Tensor] = {}
    for name, tensor in encoder.state_dict().items():
        own = next((own for own in prefixes if name.startswith(own)), "")
        state[prefixes.get(own, "") + name.removeprefix(own)] = tensor
    text = next(name for name in state if name.endswith("embeddings.word_embeddings.weight"))
    return state | {text.replace("word_embeddings.weight", "position_ids"): torch.arange(512)[None]}


def check_pretrained(build: Builder, variant: str, path: Path, expected: Mapping[str, Tensor]) -> None:
    """The file at ``path`` is found and holds ``expected``; the vocabulary is asked for on first use."""
    assert path.is_file()
    encoder = build(variant)
    found = encoder.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with pytest.raises(WeightsError, match=rf"the tokenizer is not here.*{encoder.folder}.*Bio_ClinicalBERT"):
        encoder.encode_text(["two words"])


def check_refusal(build: Builder, variant: str, path: Path, state: Mapping[str, Tensor], missing: str) -> None:
    """Without the tensor ``missing`` the state is refused, and so is another model's."""
    torch.save({name: tensor for name, tensor in state.items() if name != missing}, path)
    count = len(state) - 1  # position_ids is not counted
    message = rf"{count - 1} of {count} tensors match, 1 missing, 0 unexpected, 0 of another shape"
    with pytest.raises(WeightsError, match=message):
        build(variant, path)
    torch.save({"visual.proj": torch.zeros(2, 3)}, path)
    with pytest.raises(WeightsError, match=rf"0 of {count} tensors match, {count} missing, 1 unexpected"):
        build(variant, path)
