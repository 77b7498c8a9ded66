"""What the bundle standard asks for: properties, metadata, network input and output, several processes, exports."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import torch

from fairmedfm_monai.bundle.configs.classification_parts import TEXTUAL
from fairmedfm_monai.bundle.render import bundle_names
from fairmedfm_monai.catalog import rows
from tests.bundle.runs import copy_bundle, run
from tests.processes import torchrun

BUNDLES = Path(__file__).parents[2] / "bundles"
UNTRAINED = ("_zero_shot", "_segmentation_prompted")
WORKFLOWS = {"train": "train", "evaluate": "eval", "inference": "infer"}
CONFIGS = [
    (name, config)
    for name in bundle_names()
    for config in WORKFLOWS
    if (BUNDLES / name / "configs" / f"{config}.json").exists()
]


@pytest.mark.parametrize("name", bundle_names())
def test_metadata_fits_the_schema_and_names_its_version(name: str) -> None:
    schema = json.loads((Path(__file__).parent / "metadata_schema.json").read_text(encoding="utf-8"))
    metadata = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text(encoding="utf-8"))
    jsonschema.validate(metadata, schema)
    assert metadata["version"] in metadata["changelog"]
    del metadata["network_data_format"]["inputs"]["image"]["dtype"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(metadata, schema)


@pytest.mark.parametrize(("name", "config"), CONFIGS)
def test_every_required_property_is_there(
    name: str, config: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from monai.bundle import ConfigWorkflow

    folder = BUNDLES / name / "configs"
    workflow = ConfigWorkflow(
        config_file=str(folder / f"{config}.json"),
        meta_file=str(folder / "metadata.json"),
        logging_file=False,
        workflow_type=WORKFLOWS[config],
        bundle_root=str(tmp_path),
        dataset_dir=str(request.getfixturevalue(_data_of(name))),
        weights="tiny",
        tracking_uri="off",
        # What `initialize` does besides (seeding, loading a checkpoint that is not there) is no part of this.
        initialize=[],
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def _data_of(name: str) -> str:
    """Name of the fixture with data for a bundle."""
    row = next(row for row in rows().values() if name in row.bundles)
    if row.task == "classification":
        return "ct_nodules_dir" if row.is_volumetric else "xray_dir"
    return "ct3d_dir" if row.is_volumetric else "ct2d_dir"


@pytest.mark.parametrize("name", bundle_names())
def test_the_network_takes_and_gives_what_the_metadata_says(name: str, tmp_path: Path) -> None:
    from monai.bundle import verify_net_in_out

    configs = BUNDLES / name / "configs"
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        bundle_root=str(tmp_path),
        weights="tiny",
    )


@pytest.mark.parametrize("name", bundle_names())
def test_the_published_geometry_is_built_on_the_meta_device(name: str, tmp_path: Path) -> None:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(BUNDLES / name / "configs" / "inference.json"))
    parser["bundle_root"], parser["weights"] = str(tmp_path), "random"
    # Usages that read prompts embed them when they are made, which takes numbers: there the encoder stands alone.
    part = "network_def#encoder" if name.endswith(TEXTUAL) else "network_def"
    with torch.device("meta"):
        network = parser.get_parsed_content(part)
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


@pytest.mark.parametrize("name", [name for name in bundle_names() if name.endswith(UNTRAINED)])
def test_untrained_usages_export_what_servers_load(name: str, tmp_path: Path) -> None:
    from monai.bundle import ConfigParser, run

    config = str(BUNDLES / name / "configs" / "inference.json")
    run(run_id="export", config_file=config, bundle_root=str(tmp_path), weights="tiny", tracking_uri="off")
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    parser = ConfigParser()
    parser.read_config(config)
    parser["bundle_root"], parser["weights"] = str(tmp_path), "tiny"
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(state, strict=False)
    with pytest.raises(RuntimeError, match="stranger"):
        network.load_state_dict({**state, "stranger": torch.zeros(1)}, strict=False)
    assert json.loads((tmp_path / "models" / "model.json").read_text(encoding="utf-8"))["weights"] == "tiny"


def test_what_servers_build_needs_no_dataset(tmp_path: Path) -> None:
    from monai.bundle import ConfigParser

    for name in bundle_names():
        parser = ConfigParser()
        parser.read_config(str(BUNDLES / name / "configs" / "inference.json"))
        parser["bundle_root"], parser["weights"] = str(tmp_path), "tiny"
        parser["dataset_dir"] = str(tmp_path / "nothing-is-here")
        for section in ("network_def", "preprocessing", "inferer", "postprocessing"):
            assert parser.get_parsed_content(section) is not None


def test_two_processes_train_and_evaluate_as_one(xray_dir: Path, tmp_path: Path) -> None:
    from fairmedfm_monai.fairness import read_table

    bundle, whole = (copy_bundle("demo_clip_classification_linear_probe", tmp_path / name) for name in ("two", "one"))
    data = ("--dataset_dir", str(xray_dir))
    fitted = ("--weights", "tiny", "--epochs", "2", "--mitigation", "group_dro")
    torchrun(bundle, *data, *fitted, "--batch_size", "5")
    few = ("--n_bootstrap", "0", "--batch_size", "5")
    torchrun(bundle, *data, *few, configs=("evaluate", "multi_gpu_evaluate"))

    options = {"dataset_dir": str(xray_dir), "tracking_uri": "off"}
    run(whole, "train", weights="tiny", epochs=2, mitigation="group_dro", batch_size=10, **options)
    states = [torch.load(folder / "models" / "progress.pt", weights_only=True) for folder in (bundle, whole)]
    for part in (lambda state: dict(state["model"]), lambda state: dict(state["method"]["loss"])):
        torch.testing.assert_close(*map(part, states), rtol=0, atol=1e-5)
    run(bundle, "evaluate", n_bootstrap=0, output_dir=str(bundle / "one"), **options)
    two, one = (read_table(bundle / folder / "subgroups.csv") for folder in ("eval", "one"))
    assert (two["n_cases"] == one["n_cases"]).all()
    torch.testing.assert_close(two["value"].to_numpy(), one["value"].to_numpy(), rtol=0, atol=1e-6, equal_nan=True)
