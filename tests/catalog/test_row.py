from __future__ import annotations

import importlib

import pytest

from fairmedfm_monai.catalog import Row, find_row, input_spec, rows


def test_every_row_names_a_network_that_exists() -> None:
    for row in rows().values():
        module, name = row.network.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), name), row.network


def test_an_unknown_fm_gets_the_nearest_names() -> None:
    with pytest.raises(ValueError, match="Did you mean demo_clip"):
        find_row("demo_clp")


def test_an_unknown_variant_gets_the_nearest_names() -> None:
    with pytest.raises(ValueError, match="ViT-B-32"):
        input_spec("clip", "VitB-32")


def test_a_variant_overrides_only_what_differs() -> None:
    base, large = input_spec("clip", "ViT-L-14-quickgelu"), input_spec("clip", "ViT-L-14-336-quickgelu")
    assert (base["size"], large["size"]) == (224, 336)
    assert base["mean"] == large["mean"]


def test_a_row_that_contradicts_itself_is_refused() -> None:
    values = vars(find_row("demo_clip"))
    with pytest.raises(ValueError, match="`lora_targets` must name modules"):
        Row(**{**values, "lora_targets": ()})
    with pytest.raises(ValueError, match="`task` must be one of"):
        Row(**{**values, "task": "detection"})


def test_the_catalogs_input_is_the_networks_own() -> None:
    from fairmedfm_monai.networks.encoders.clip import CLIPEncoder
    from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP

    for fm, network in (("clip", CLIPEncoder(weights="tiny")), ("demo_clip", DemoCLIP(weights="tiny"))):
        spec, found = network.input_spec, input_spec(fm)
        assert (spec.size, spec.channels) == (found["size"], found["channels"])
        assert list(spec.mean) == pytest.approx(list(found["mean"]))
        assert list(spec.std) == pytest.approx(list(found["std"]))
