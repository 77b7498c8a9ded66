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
    from fairmedfm_monai.networks.encoders.clip import clip_input_spec, clip_variants
    from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP

    specs = {("clip", name): clip_input_spec(name) for name in clip_variants()}
    specs["demo_clip", "default"] = DemoCLIP(weights="tiny").input_spec
    for (fm, variant), spec in specs.items():
        found = input_spec(fm, variant)
        assert (spec.size, spec.channels) == (found["size"], found["channels"]), variant
        assert list(spec.mean) == pytest.approx(list(found["mean"])), variant
        assert list(spec.std) == pytest.approx(list(found["std"])), variant
    assert {name for fm, name in specs if fm == "clip"} == set(find_row("clip").variants)


def test_the_catalogs_files_are_those_the_networks_look_for() -> None:
    for row in rows().values():
        module, name = row.network.rsplit(".", 1)
        network = getattr(importlib.import_module(module), name)
        for variant, entry in row.weights["files"].items():
            if not row.weights["source"].startswith("in the package"):
                source = network.source(variant)
                assert source.names[0] == entry["file"]
                assert source.url == entry["url"]
                assert source.sha256.get(entry["file"]) == entry.get("sha256")


def test_parameter_counts_are_those_of_the_key_lists() -> None:
    import csv
    import math
    from pathlib import Path

    keys = Path(__file__).parents[1] / "keys"
    for fm, variant, file in (
        ("sam", "vit_b", "sam_vit_b"),
        ("sam", "vit_l", "sam_vit_l"),
        ("sam", "vit_h", "sam_vit_h"),
    ):
        with (keys / f"{file}.tsv").open(newline="") as lines:
            shapes = {name: shape for name, shape, _ in csv.reader(lines, delimiter="\t")}
        # The Gaussian matrix of the positional encoding is a buffer, not a parameter.
        counted = sum(
            math.prod(int(n) for n in shape.split("x"))
            for name, shape in shapes.items()
            if "gaussian_matrix" not in name and shape != "scalar"
        )
        assert counted == find_row(fm).parameters[variant]
