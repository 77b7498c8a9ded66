"""demo_clip: the shipped file, its words, its interface, its training code and its measured results."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from fairmedfm_monai.networks.encoders.demo_clip import LORA_TARGETS, Block, DemoCLIP
from fairmedfm_monai.networks.encoders.demo_vocabulary import MAX_TOKENS, WORDS, WordTokenizer
from fairmedfm_monai.networks.pretrained import FOLDER, shipped
from fairmedfm_monai.networks.weights import WeightsError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model() -> DemoCLIP:
    return DemoCLIP()


@pytest.fixture
def _training_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.fixture
def results() -> dict:
    return json.loads((FOLDER / "demo_results.json").read_text(encoding="utf-8"))


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, 1, 128, 128), generator=torch.Generator().manual_seed(seed))


def test_shipped_file_is_small_half_precision_and_attributed() -> None:
    path = shipped("demo_clip")
    assert path.stat().st_size <= 5e6
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (not a dict)
    assert kinds == {torch.float16}
    for words in ("LIDC-IDRI-0001", "CC BY 3.0", "Armato"):
        assert words in about["attribution"]
    assert "not a medical model" in about["notice"]


def test_shipped_weights_are_float32_in_memory_and_finite(model: DemoCLIP) -> None:
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert not model.training


def test_encodings_have_documented_shapes_and_unit_length(model: DemoCLIP) -> None:
    encoded = model.encode_image(images(3))
    text = model.encode_text(["no nodule", "a small nodule in the left upper lung"])
    assert encoded["features"].shape == (3, model.feature_dim)
    assert encoded["zero_shot"].shape == (3, text["zero_shot"].shape[1])
    for part in (encoded["zero_shot"], text["zero_shot"]):
        torch.testing.assert_close(part.norm(dim=-1), torch.ones(len(part)))
    torch.testing.assert_close(model(images(3)), encoded["features"])


def test_similarity_is_the_scaled_cosine(model: DemoCLIP) -> None:
    encoded, text = model.encode_image(images(2)), model.encode_text(["a nodule", "normal", "no nodule"])
    cosine = F.cosine_similarity(encoded["zero_shot"][:, None], text["zero_shot"][None], dim=-1)
    torch.testing.assert_close(model.similarity(encoded, text), cosine * model.logit_terms()[0])


def test_same_answer_from_two_instances_and_in_any_batch(model: DemoCLIP) -> None:
    other, x = DemoCLIP(), images(4)
    assert torch.equal(model(x), other(x))
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]), rtol=1e-4, atol=1e-5)


def test_padding_does_not_change_a_text(model: DemoCLIP) -> None:
    alone = model.encode_text(["no nodule"])["zero_shot"]
    beside = model.encode_text(["no nodule", "a chest x-ray of a patient with a large nodule in the left lung"])
    torch.testing.assert_close(alone[0], beside["zero_shot"][0], rtol=1e-4, atol=1e-5)


def test_block_equals_torch_transformer_layer() -> None:
    torch.manual_seed(0)
    ours = Block(32, 4).eval()
    theirs = torch.nn.TransformerEncoderLayer(
        32, 4, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    pairs = (
        (theirs.self_attn.in_proj_weight, ours.qkv.weight),
        (theirs.self_attn.in_proj_bias, ours.qkv.bias),
        (theirs.self_attn.out_proj.weight, ours.proj.weight),
        (theirs.self_attn.out_proj.bias, ours.proj.bias),
    )
    with torch.no_grad():
        for target, source in pairs:
            target.copy_(source)
    for target, source in ((theirs.linear1, ours.fc1), (theirs.linear2, ours.fc2), (theirs.norm2, ours.norm2)):
        target.load_state_dict(source.state_dict())
    x = torch.randn(2, 7, 32)
    hidden = torch.zeros(2, 7, dtype=torch.bool)
    hidden[0, 5:] = True
    expected = theirs(x, src_key_padding_mask=hidden)
    got = ours(x, ~hidden[:, None, None, :])
    torch.testing.assert_close(got[~hidden], expected[~hidden], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 128, 128), (1, 1, 64, 64), (128, 128)])
def test_wrong_image_shape_is_named(model: DemoCLIP, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, 1, 128, 128\).*resize"):
        model.encode_image(torch.zeros(shape))


def test_vocabulary_is_small_and_without_doubles() -> None:
    assert len(WORDS) == len(set(WORDS)) <= 1000


def test_unknown_words_are_reported_once() -> None:
    tokenizer = WordTokenizer()
    with pytest.warns(UserWarning, match="cardiomegaly, pneumothorax"):
        numbers = tokenizer(["a pneumothorax", "no cardiomegaly"])
    assert numbers.tolist()[0][1] == numbers.tolist()[1][1] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer(["a pneumothorax"])
    assert tokenizer.unknown_words("No pneumothorax, no effusion") == ["pneumothorax", "effusion"]


def test_text_without_a_known_word_is_refused(model: DemoCLIP) -> None:
    with pytest.raises(ValueError, match="knows no word of the prompt 'zebra'"):
        model.encode_text(["no nodule", "zebra"])
    with pytest.raises(ValueError, match="`texts` is empty"):
        model.encode_text([])


def test_spelling_variants_are_one_word() -> None:
    tokenizer = WordTokenizer()
    first, *others = tokenizer(["Chest X-Ray.", "chest xray", "CHEST x ray"]).tolist()
    assert all(first == other for other in others)


def test_long_text_is_cut_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=f"reads the first {MAX_TOKENS}"):
        numbers = WordTokenizer()(["nodule " * 50])
    assert numbers.shape == (1, MAX_TOKENS)


def test_random_and_tiny_are_seeded_and_differ_from_the_shipped_model(model: DemoCLIP) -> None:
    x = images(1)
    for kind in ("random", "tiny"):
        assert torch.equal(DemoCLIP(kind, seed=3)(x), DemoCLIP(kind, seed=3)(x))
        assert not torch.equal(DemoCLIP(kind, seed=3)(x), DemoCLIP(kind, seed=4)(x))
    assert not torch.equal(DemoCLIP("random")(x), model(x))
    tiny = DemoCLIP("tiny")
    assert sum(p.numel() for p in tiny.parameters()) < sum(p.numel() for p in model.parameters()) / 5
    assert tiny.input_spec == model.input_spec
    assert tiny(x).shape == (1, tiny.feature_dim)


def test_building_leaves_the_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    DemoCLIP("tiny", seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_keys_are_strict(model: DemoCLIP) -> None:
    state = model.state_dict()
    state.pop("log_scale")
    with pytest.raises(WeightsError, match="log_scale"):
        DemoCLIP("random").load_state_dict(state, strict=False)


def test_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(WeightsError, match="checkpoint of another model than DemoCLIP"):
        DemoCLIP(shipped("demo_sam"))


def test_released_text_tower(model: DemoCLIP) -> None:
    other = DemoCLIP()
    other.release_text()
    assert not any(name.startswith("text") for name in other.state_dict())
    assert torch.equal(other(images(1)), model(images(1)))
    with pytest.raises(RuntimeError, match="text tower was released"):
        other.encode_text(["no nodule"])


def test_lora_adapts_every_block_of_the_image_tower() -> None:
    peft = pytest.importorskip("peft")
    encoder = DemoCLIP()
    encoder.release_text()
    adapted = peft.get_peft_model(encoder, peft.LoraConfig(r=2, target_modules=list(LORA_TARGETS)))
    adapted.base_model.model(images(2)).square().sum().backward()
    trained = {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(LORA_TARGETS) * 2  # A and B of four layers in two blocks
    assert all(gradient is not None for gradient in trained.values())


@pytest.mark.usefixtures("_training_code")
class TestTraining:
    def test_every_caption_is_in_the_vocabulary_and_every_word_in_a_caption(self) -> None:
        from demo_training.captions import Facts, draw_caption

        from fairmedfm_monai.networks.encoders.demo_vocabulary import split_words

        rng = np.random.default_rng(0)
        used: set[str] = set()
        for size in ("small", "medium", "large"):
            for side in ("left", "right"):
                for zone in ("upper", "middle", "lower"):
                    fact = Facts(nodule=True, size=size, side=side, zone=zone)
                    for _ in range(800):
                        used.update(split_words(draw_caption(fact, rng)[0]))
        for _ in range(8000):
            used.update(split_words(draw_caption(Facts(nodule=False), rng)[0]))
        assert used == set(WORDS) - {"see"}
        assert split_words("we see a nodule") == ["we", "seen", "a", "nodule"]

    def test_demo_prompts_are_in_the_vocabulary(self) -> None:
        from fairmedfm_monai.data.demo.xray import PROMPTS

        tokenizer = WordTokenizer()
        assert {word for texts in PROMPTS.values() for text in texts for word in tokenizer.unknown_words(text)} == set()

    def test_captions_agree_with_their_own_image_and_contradict_the_other_class(self) -> None:
        from demo_training.captions import Facts, agreement, draw_caption

        rng = np.random.default_rng(1)
        facts = [Facts(nodule=True, size="small", side="left", zone="upper"), Facts(nodule=False)] * 20
        claims = [draw_caption(fact, rng)[1] for fact in facts]
        table = agreement(facts, claims)
        assert table.diagonal().all()
        assert not table[0::2, 1::2].any()
        assert not table[1::2, 0::2].any()
        other = agreement([Facts(nodule=True, size="small", side="right", zone="upper")], claims[::2])[0]
        assert list(other) == [claim.side == "" for claim in claims[::2]]

    def test_loss_is_clip_loss_where_each_image_has_one_caption(self) -> None:
        from demo_training.clip_train import contrastive_loss

        logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
        target = torch.arange(6)
        expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        torch.testing.assert_close(contrastive_loss(logits, torch.eye(6, dtype=torch.bool)), expected)

    def test_auc_agrees_with_scikit_learn(self) -> None:
        from demo_training.common import auc

        rng = np.random.default_rng(0)
        positive, score = rng.random(300) < 0.4, rng.integers(0, 12, 300) / 10
        assert auc(positive, score) == pytest.approx(roc_auc_score(positive, score), abs=1e-12)

    def test_augmentation_moves_nodule_and_map_together_and_keeps_sides(self) -> None:
        from demo_training.clip_data import augment

        image = torch.zeros((40, 128, 128), dtype=torch.uint8)
        image[:, 56:72, 24:40] = 200
        cells = torch.zeros((40, 16, 16))
        cells[:, 7:9, 3:5] = 1
        picture, covered = augment(image, cells, torch.Generator().manual_seed(0))
        assert picture.min() >= 0
        assert picture.max() <= 1
        body = picture[:, :, 32:]  # below the corner markers
        where = (body * (body > 0.4) * torch.arange(128.0)).sum((1, 2, 3)) / (body * (body > 0.4)).sum((1, 2, 3))
        cell = (covered * torch.arange(16.0)).sum((1, 2, 3)) / covered.sum((1, 2, 3))
        torch.testing.assert_close(cell * 8 + 3.5, where, atol=1.0, rtol=0)
        assert where.max() < 48


def test_results_meet_the_targets_and_belong_to_the_shipped_file(results: dict) -> None:
    found = results["demo_clip"]
    assert found["sha256"] == hashlib.sha256(shipped("demo_clip").read_bytes()).hexdigest()
    assert found["zero_shot"]["auc"] >= 0.80
    assert found["linear_probe"]["auc"] >= 0.85
    assert results["missed_targets"] == []


def test_default_bias_is_the_calibrated_one(results: dict) -> None:
    from fairmedfm_monai.data.demo.bias import DEFAULT_STRENGTH

    assert results["bias_calibration"]["strength"] == pytest.approx(DEFAULT_STRENGTH, abs=0.005)
    assert 0.12 <= results["bias_calibration"]["gap_on_other_seed"] <= 0.18


@pytest.mark.network
@pytest.mark.usefixtures("_training_code")
def test_zero_shot_on_a_fresh_sample(model: DemoCLIP) -> None:
    from demo_training.clip_data import make_films
    from demo_training.clip_measure import encode, zero_shot_score

    from fairmedfm_monai.data.demo.fetch import ScanUnavailableError
    from fairmedfm_monai.data.demo.scan import load_scan

    try:
        scan = load_scan(allow_phantom=False)
    except ScanUnavailableError as error:
        pytest.skip(f"the scan cannot be fetched: {error}")
    films = make_films(scan, seed=15_100, count=240, processes=1)
    score = zero_shot_score(model, encode(model, films.image))
    assert roc_auc_score(films.positive, score) >= 0.80
