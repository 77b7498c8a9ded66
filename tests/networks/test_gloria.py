"""GLoRIA: outputs of the authors' code on seeded weights, local similarity, names, files, LoRA."""

from __future__ import annotations

import collections
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders import gloria
from fairmedfm_monai.networks.encoders.gloria import GLoRIAEncoder, plain_words, read_gloria, word_places
from fairmedfm_monai.usages.zero_shot import ZeroShotClassifier
from tests.networks import clinical_checks as checks
from tests.networks import clip_checks, encoder_checks, parity
from tests.networks.test_keys import read_keys

VARIANTS = ("resnet50", "resnet18")
ENTRIES = {"resnet50": ["features", "zero_shot", "local"], "resnet18": ["features", "zero_shot"]}
RENAME = {"resnet50": gloria.rename_gloria, "resnet18": gloria.rename_gloria_global}
PUBLISHED = {"visual.": "gloria.img_encoder.", "text.": "gloria.text_encoder."}
THIN = {
    variant: {**geometry, "layers": (1, 1, 1, 1), "channels": (8, 16, 16, 32)}
    for variant, geometry in gloria.GEOMETRIES.items()
}


def seeded_encoder(variant: str, seed: int, layers: int) -> GLoRIAEncoder:
    encoder = GLoRIAEncoder(variant, "random")
    state = checks.published_state(f"gloria_{variant}", seed, layers=layers)
    load_checked(encoder, RENAME[variant](state), origin="published")
    return encoder


def cosines(first: Tensor, second: Tensor) -> Tensor:
    return F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T


@torch.no_grad()
def test_outputs_are_those_of_the_authors_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both image towers as published; BERT as published but for its depth. From the raw prompts to class scores."""
    record = parity.read("gloria")
    texts, outputs = record["texts"], {}
    checks.shorten_bert(monkeypatch, record["layers"])
    for variant, seed in zip(VARIANTS, record["seeds"], strict=True):
        encoder = seeded_encoder(variant, seed, record["layers"])
        checks.use_vocabulary(encoder, tmp_path, monkeypatch)
        image = parity.seeded_input((2, 3, 224, 224), seed, low=-1, high=1)
        _, embedding, regions = encoder.visual(image)
        images, prompts = encoder.encode_image(image), encoder.encode_text(texts)
        together = encoder.similarity(images, prompts) / gloria.SCALE
        places = [_every_word(encoder, text) for text in texts]
        found = {
            "features": images["features"],
            "embedding": embedding,
            "words": torch.stack(places).transpose(1, 2),
            "sentences": torch.stack(places).mean(dim=1),
            "global": cosines(embedding, prompts["zero_shot"]),
        }
        if variant == "resnet50":
            assert regions is not None
            found["regions"] = regions.transpose(1, 2).reshape(2, 768, 19, 19)
            found["local"] = 2 * together - found["global"]
            # Faint embeddings do not saturate the softmax over words, to which the places behind them belong.
            faint = torch.cat([images["local"][:, :1], 0.05 * images["local"][:, 1:]], dim=1)
            words = {**prompts, "local": 0.05 * prompts["local"]}
            found["faint local"] = 2 * encoder.similarity({"local": faint}, words) / gloria.SCALE - found["global"]
            classes = {"a": [texts[0], texts[2]], "b": [texts[1]]}
            found["classes"] = ZeroShotClassifier(encoder, classes)(image) / gloria.SCALE
        else:
            torch.testing.assert_close(together, found["global"])
        outputs |= {f"{variant} {name}": value for name, value in found.items()}
    parity.compare(record, outputs, tolerance=1e-4)


def _every_word(encoder: GLoRIAEncoder, text: str) -> Tensor:
    """The 97 places of a prompt, also the first, which ``encode_text`` leaves out."""
    seen: list[Tensor] = []
    hook = encoder.text.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    encoder.encode_text([text])
    hook.remove()
    return seen[0][0]


class TestPrompts:
    """What the authors' ``process_text`` does to a prompt, and where we differ on purpose."""

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("Mild  atelectasis\nat the LEFT lung-base", "mild atelectasis at the left lung base"),
            ("1. Clear lungs. 2. Normal. Small effusion", "clear lungs small effusion"),
            ("naïve reader", "nave reader"),
            ("Pneumonia.", "pneumonia"),
            ("Edema. Fracture.", "edema fracture"),
        ],
    )
    def test_words(self, text: str, words: str) -> None:
        assert plain_words(text) == words

    def test_a_prompt_of_one_word_keeps_it(self) -> None:
        encoder = GLoRIAEncoder("resnet50", "tiny")
        with torch.no_grad():
            first, second = encoder.encode_text(["pneumonia", "edema"])["zero_shot"]
        assert (first - second).abs().max() > 1e-3

    @pytest.mark.parametrize("text", ["", " . ", "肺炎"])
    def test_a_prompt_without_words_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="a prompt must have a word of ASCII letters or digits, but got"):
            GLoRIAEncoder("resnet50", "tiny").encode_text(["lungs are clear", text])

    def test_places_are_counted_by_characters(self) -> None:
        assert [word_places(text) for text in ("a [lung]", "x" * 96, "x" * 200)] == [7, 96, 96]

    def test_pieces_of_a_word_are_summed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Against a sum by hand of BERT's layers: [CLS] pneu ##monia in ef ##fusion ##s [SEP]."""
        encoder = GLoRIAEncoder("resnet50", "tiny")
        checks.use_vocabulary(encoder, tmp_path, monkeypatch)
        with torch.no_grad():
            words = encoder.encode_text(["Pneumonia in effusions"])["local"][0]
            ids = torch.tensor([[2, 14, 15, 17, 11, 12, 13, 3]])
            hidden = encoder.text.model(ids, output_hidden_states=True).hidden_states
        total = (hidden[-1] + hidden[-2] + hidden[-3] + hidden[-4])[0]
        expected = [total[1] + total[2], total[3], total[4] + total[5] + total[6], total[7]]
        torch.testing.assert_close(words[:4], torch.stack(expected), atol=1e-5, rtol=1e-5)
        assert not words[4:].any()


CLASSES = {"no": ["lungs are clear", "no finding"], "yes": ["pleural effusion in left lung"]}


class TestLocalSimilarity:
    @pytest.fixture
    def image(self) -> Tensor:
        return parity.seeded_input((3, 3, 224, 224), 1, low=-1, high=1)

    @torch.no_grad()
    def test_a_class_takes_its_best_prompt(self, image: Tensor) -> None:
        encoder = GLoRIAEncoder("resnet50", "tiny")
        prompts = encoder.encode_text([prompt for group in CLASSES.values() for prompt in group])
        logits = encoder.similarity(encoder.encode_image(image), prompts)
        model = ZeroShotClassifier(encoder, CLASSES)
        assert encoder.text is None
        expected = torch.stack([logits[:, :2].amax(dim=1), logits[:, 2]], dim=1)
        torch.testing.assert_close(model(image), expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(torch.jit.script(model)(image), model(image))

    @torch.no_grad()
    def test_what_is_cached_gives_the_same(self, image: Tensor) -> None:
        """The cache keeps vectors; the encoder of the classifier makes one of all regions."""
        model = ZeroShotClassifier(GLoRIAEncoder("resnet50", "tiny"), CLASSES)
        encoded = model.encoder.encode_image(image)
        assert {name: value.ndim for name, value in encoded.items()} == {"features": 2, "zero_shot": 2}
        torch.testing.assert_close(model.head(encoded["zero_shot"]), model(image), atol=1e-6, rtol=1e-6)
        with pytest.raises(ValueError, match="must hold an image's and its regions' embeddings"):
            model.head(encoded["zero_shot"][:, :32])

    @torch.no_grad()
    def test_a_background_is_subtracted(self, image: Tensor) -> None:
        plain = ZeroShotClassifier(GLoRIAEncoder("resnet50", "tiny"), {**CLASSES, "other": ["a medical image"]})
        model = ZeroShotClassifier(GLoRIAEncoder("resnet50", "tiny"), CLASSES, background=["a medical image"])
        logits = plain(image)
        torch.testing.assert_close(model(image), logits[:, :2] - logits[:, 2:], atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_slices_of_volumes_are_pooled(self, image: Tensor) -> None:
        model = ZeroShotClassifier(GLoRIAEncoder("resnet50", "tiny"), CLASSES, pooling="max", negative=0)
        pictures = model(image)
        torch.testing.assert_close(
            model(image.permute(1, 2, 3, 0)[None]), pictures[pictures.diff(dim=1).argmax()][None]
        )

    @torch.no_grad()
    def test_the_state_is_whole(self, image: Tensor) -> None:
        model = ZeroShotClassifier(GLoRIAEncoder("resnet50", "tiny", seed=1), CLASSES)
        other = ZeroShotClassifier(GLoRIAEncoder("resnet50", "tiny", seed=2), CLASSES)
        assert not torch.equal(other(image), model(image))
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(image), model(image))


class TestNames:
    @pytest.mark.parametrize(("variant", "count", "dropped"), [("resnet50", 521, 1), ("resnet18", 323, 2)])
    def test_every_published_tensor_is_taken(self, variant: str, count: int, dropped: int) -> None:
        keys = read_keys(f"gloria_{variant}")
        assert len(keys) == count
        with torch.device("meta"):
            encoder = GLoRIAEncoder(variant, "random")
        load_checked(encoder, RENAME[variant](keys), origin="gloria")
        assert len(encoder.state_dict()) == count - dropped

    def test_a_local_projection_of_another_shape_is_not_dropped(self) -> None:
        keys = read_keys("gloria_resnet18")
        keys["gloria.img_encoder.local_embedder.weight"] = torch.empty(768, 256, 1, 1, device="meta")
        with torch.device("meta"):
            encoder = GLoRIAEncoder("resnet18", "random")
        with pytest.raises(WeightsError, match=r"0 missing, 1 unexpected.*visual.local_embedder.weight"):
            load_checked(encoder, RENAME["resnet18"](keys), origin="gloria")

    def test_the_other_variants_file_is_refused(self) -> None:
        with torch.device("meta"):
            encoder = GLoRIAEncoder("resnet50", "random")
        with pytest.raises(WeightsError, match=r"another model than GLoRIAEncoder: .* missing, .* of another shape"):
            load_checked(encoder, RENAME["resnet50"](read_keys("gloria_resnet18")), origin="gloria")


def plant(name: str, modules: pytest.MonkeyPatch) -> type:
    """A class of a package that is not installed, so that objects of it can be saved."""
    module, _, kind = name.rpartition(".")
    parents = module.split(".")
    for depth in range(1, len(parents) + 1):
        path = ".".join(parents[:depth])
        modules.setitem(sys.modules, path, sys.modules.get(path, types.ModuleType(path)))
    planted = type(kind, (), {"__module__": module})
    setattr(sys.modules[module], kind, planted)
    return planted


def save_as_lightning(state: dict[str, Tensor], path: Path) -> None:
    """A file as Lightning writes it, with classes of packages that who reads it does not have."""
    with pytest.MonkeyPatch.context() as modules:
        metadata = plant("omegaconf.base.ContainerMetadata", modules)()
        metadata.__dict__ |= {"object_type": dict, "flags": {}, "resolver_cache": collections.defaultdict(dict)}
        value = plant("omegaconf.nodes.AnyNode", modules)()
        value.__dict__ |= {"_val": "resnet_50", "_parent": None}
        config = plant("omegaconf.dictconfig.DictConfig", modules)()
        config.__dict__ |= {"_metadata": metadata, "_content": {"model_name": value}}
        callback = plant("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", modules)
        content = {
            "epoch": 3,
            "callbacks": {callback: {"best_model_score": torch.tensor(1.0)}},
            "hyper_parameters": config,
            "hparams_type": type(config),
            "state_dict": state,
        }
        torch.save(content, path)


class TestFiles:
    @pytest.fixture
    def encoder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GLoRIAEncoder:
        checks.shrink(monkeypatch, tmp_path, gloria, "GEOMETRIES", THIN)
        return GLoRIAEncoder("resnet50", "random", seed=3)

    def test_lightnings_file_is_found(self, encoder: GLoRIAEncoder, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"put chexpert_resnet50.ckpt into .*stanfordmedicine.box.com"):
            GLoRIAEncoder()
        path = tmp_path / "weights" / "chexpert_resnet50.ckpt"
        path.parent.mkdir()
        save_as_lightning(checks.published(encoder, PUBLISHED), path)
        assert "omegaconf" not in sys.modules
        checks.check_pretrained(GLoRIAEncoder, "resnet50", path, encoder.state_dict())

    def test_other_files_are_refused(self, encoder: GLoRIAEncoder, tmp_path: Path) -> None:
        state = checks.published(encoder, PUBLISHED)
        checks.check_refusal(GLoRIAEncoder, "resnet50", tmp_path / "a.ckpt", state, "gloria.img_encoder.model.bn1.bias")

    def test_other_objects_are_not_made(self, tmp_path: Path) -> None:
        path = tmp_path / "file.ckpt"
        torch.save({"state_dict": {"weight": torch.zeros(1)}, "hyper_parameters": nn.Linear(1, 1)}, path)
        with pytest.raises(WeightsError, match="A file that needs code to be run is refused"):
            read_gloria(path)


@torch.no_grad()
def test_images_are_enlarged_inside() -> None:
    """The trap: the network fits 224 pixels, too, and gives other features without a sign of it."""
    encoder = GLoRIAEncoder("resnet50", "tiny")
    image = parity.seeded_input((1, 3, 224, 224), 1, low=-1, high=1)
    features = encoder(image)
    assert encoder.encode_image(image)["local"].shape[1] == 1 + 19 * 19
    plain = encoder.visual.model(image)
    torch.testing.assert_close(
        encoder.visual.model(F.interpolate(image, (299, 299), mode="bilinear", align_corners=True)), features
    )
    assert (plain - features).abs().max() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_interface(variant: str) -> None:
    checks.check_interface(GLoRIAEncoder, "gloria", variant, entries=ENTRIES[variant])


def test_texts() -> None:
    checks.check_texts(GLoRIAEncoder, "resnet50")


def test_variants() -> None:
    encoder_checks.check_variants(GLoRIAEncoder, "gloria")


def test_zero_shot_of_the_global_branch() -> None:
    clip_checks.check_zero_shot(GLoRIAEncoder, "resnet18")


def test_zero_shot_of_both_branches() -> None:
    clip_checks.check_zero_shot(GLoRIAEncoder, "resnet50")


@pytest.mark.parametrize(("variant", "full"), [("resnet50", 16), ("resnet18", 8)])
def test_lora(variant: str, full: int) -> None:
    checks.check_lora(GLoRIAEncoder, variant, find_row("gloria").lora_targets, full=full)
