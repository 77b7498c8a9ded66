"""Make what both servers are tested with: two bundles that have a model.pt, radiographs, a CT volume with a click.

Also runs both bundles' own inference, so that the answers of the servers have something to be compared with.
Writes WORK/bundles, WORK/case.json and WORK/reference.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path
from typing import Any

import steps
from steps import CLASSIFIER, PROMPTED, read_json, run_bundle, say, write_json

REPOSITORY = Path(__file__).resolve().parents[2]
RADIOGRAPHS_PER_CLASS = 8


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--weights", default="pretrained", help="pretrained, random or tiny (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    for name in ("bundles", "reference", "label", "deploy"):  # what an earlier run left in a folder that was kept
        shutil.rmtree(work / name, ignore_errors=True)
    for name in (CLASSIFIER, PROMPTED):
        _copy_bundle(REPOSITORY / "bundles" / name, work / "bundles" / name, arguments.weights)
    case = {"radiographs": _radiographs(), "volume": _volume()}
    write_json(work / "case.json", case)
    _train(work, arguments.weights, arguments.epochs)
    _export(work, arguments.weights)
    _reference(work, case)


def _copy_bundle(source: Path, target: Path, weights: str) -> None:
    """Copy a bundle without what runs have left in it.

    A server builds ``network_def`` with the weights that the bundle's files name, then loads model.pt into it; other
    weights than the default are written into the copy, as the owner of a server would do it.
    """
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("models", "eval*", "*.db", "__pycache__"))
    if weights == "pretrained":
        return
    for name in ("inference.json", "train.json"):
        file = target / "configs" / name
        if file.exists():
            write_json(file, {**read_json(file), "weights": weights})


def _radiographs() -> list[dict[str, Any]]:
    """Some training radiographs of each class of the demo dataset, the classes in turn."""
    from fairmedfm_monai.data.dataset import load_dataset

    info = load_dataset("demo/xray")
    cases = info.cases("train")
    columns = [
        [case for case in cases if case["label"] == index][:RADIOGRAPHS_PER_CLASS] for index in range(len(info.classes))
    ]
    return [
        {"id": str(case["case_id"]), "path": case["image"], "class": info.classes[case["label"]]}
        for row in zip(*columns, strict=True)
        for case in row
    ]


def _volume() -> dict[str, Any]:
    """A test volume and a click at the middle of the largest cross-section of a structure in it.

    ``axis`` is the file's axis that runs from feet to head: the bundle goes slice by slice along it.
    """
    import nibabel
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    from fairmedfm_monai.data.dataset import load_dataset

    info = load_dataset("demo/ct3d")
    case = max(info.cases("test"), key=lambda one: _oddness(one["image"]))
    mask = np.asarray(nibabel.Nifti1Image.from_filename(case["label"]).dataobj)
    codes = nibabel.orientations.aff2axcodes(nibabel.Nifti1Image.from_filename(case["image"]).affine)
    axis = next(index for index, code in enumerate(codes) if code in "SI")
    best: tuple[float, str, list[int]] = (0.0, "", [])
    for name, value in info.labels.items():
        planes = np.moveaxis(mask == value, axis, 0)
        index = int(planes.reshape(len(planes), -1).sum(axis=1).argmax())
        depth = distance_transform_edt(np.pad(planes[index], 1))[1:-1, 1:-1]
        first, second = (int(number) for number in np.unravel_index(int(depth.argmax()), depth.shape))
        click = [first, second]
        click.insert(axis, index)
        best = max(best, (float(depth.max()), name, click))
    say(f"the volume is {case['case_id']} ({''.join(codes)}); the click {best[2]} is in the middle of {best[1]}")
    return {
        "id": str(case["case_id"]),
        "path": case["image"],
        "mask": case["label"],
        "mask_value": info.labels[best[1]],
        "structure": best[1],
        "axis": axis,
        "click": best[2],
    }


def _oddness(image: str) -> tuple[bool, str]:
    """Volumes that do not lie in RAS order first: a server that mixes up grids shows itself on them."""
    import nibabel

    codes = "".join(nibabel.orientations.aff2axcodes(nibabel.Nifti1Image.from_filename(image).affine))
    return codes != "RAS", image


def _train(work: Path, weights: str, epochs: int) -> None:
    bundle = work / "bundles" / CLASSIFIER
    seconds = run_bundle(
        bundle,
        *("--config_file", "configs/train.json", "--weights", weights, "--epochs", str(epochs)),
        *("--tracking_uri", "off"),
        log=work / "logs" / "prepare-train.log",
    )
    steps.check((bundle / "models" / "model.pt").is_file(), f"{CLASSIFIER}: {epochs} epochs wrote model.pt")
    say(f"({seconds:.0f} s)")


def _export(work: Path, weights: str) -> None:
    bundle = work / "bundles" / PROMPTED
    seconds = run_bundle(
        bundle,
        *("export", "--config_file", "configs/inference.json", "--weights", weights),
        log=work / "logs" / "prepare-export.log",
    )
    steps.check((bundle / "models" / "model.pt").is_file(), f"{PROMPTED}: run id `export` wrote model.pt")
    say(f"({seconds:.0f} s)")


def _reference(work: Path, case: dict[str, Any]) -> None:
    """The bundles' own answers: reference/probabilities.json and reference/mask.nii.gz."""
    reference = work / "reference"
    common = ("--config_file", "configs/inference.json", "--tracking_uri", "off")
    image = case["radiographs"][0]["path"]
    seconds = run_bundle(
        work / "bundles" / CLASSIFIER,
        *(*common, "--dataset_dir", image, "--output_dir", str(reference / "classes")),
        log=work / "logs" / "prepare-classes.log",
        env=steps.OFFLINE,
    )
    with (reference / "classes" / "predictions.csv").open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    prefix = "probability_"
    found = {name[len(prefix) :]: float(value) for name, value in row.items() if name.startswith(prefix)}
    write_json(reference / "probabilities.json", found)
    say(f"{CLASSIFIER} itself says {found} ({seconds:.0f} s)")

    volume = case["volume"]
    name = Path(volume["path"]).name
    write_json(reference / "clicks.json", [{"image": name, "label": "object", "points": [volume["click"]]}])
    seconds = run_bundle(
        work / "bundles" / PROMPTED,
        *(*common, "--dataset_dir", volume["path"], "--output_dir", str(reference / "masks")),
        *("--prompts_file", str(reference / "clicks.json")),
        log=work / "logs" / "prepare-mask.log",
        env=steps.OFFLINE,
    )
    written = sorted((reference / "masks").glob("*.nii.gz"))
    steps.check(len(written) == 1, f"{PROMPTED} itself wrote one mask", written)
    shutil.copy(written[0], reference / "mask.nii.gz")
    steps.check_mask(reference / "mask.nii.gz", volume, where="the bundle itself")
    dice = _dice(reference / "mask.nii.gz", volume)
    say(f"its Dice with {volume['structure']} in the clicked slice is {dice:.2f} ({seconds:.0f} s)")


def _dice(mask_file: Path, volume: dict[str, Any]) -> float:
    """Overlap with the structure that was clicked, in the clicked slice; for information, nothing is asked of it."""
    import nibabel
    import numpy as np

    files = (mask_file, volume["mask"])
    answer, truth = (np.asarray(nibabel.Nifti1Image.from_filename(file).dataobj) for file in files)
    index = volume["click"][volume["axis"]]
    found, wanted = (np.take(mask, index, axis=volume["axis"]) for mask in (answer > 0, truth == volume["mask_value"]))
    return float(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))


if __name__ == "__main__":
    steps.run_main(main)
