"""Prompts that users write into files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from fairmedfm_monai.transforms.load_prompts import LoadPromptsd
from fairmedfm_monai.transforms.prompt_masks import decode_mask, encode_mask
from fairmedfm_monai.transforms.simulate_prompts import SimulatePromptsd

AFFINE = np.array([[-0.8, 0.05, 0, 90], [0.05, 0.8, 0.1, -70], [0, -0.1, 2.5, 33], [0, 0, 0, 1]])
LABELS = ["kidney", "tumour"]


def case(case_id: str | None = "case-1", shape: tuple[int, ...] = (40, 36, 6)) -> dict[str, Any]:
    affine = torch.as_tensor(AFFINE if len(shape) == 3 else np.eye(4))
    meta = {"filename_or_obj": "/data/scan_7.nii.gz", "original_affine": affine}
    image = MetaTensor(torch.zeros(1, *shape), affine=affine, meta=meta)
    return {"image": image} | ({} if case_id is None else {"case_id": case_id})


def load(path: Path, content: Any, **settings: Any) -> LoadPromptsd:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return LoadPromptsd(path=path, **{"labels": LABELS, **settings})


def world(*points: list[float]) -> list[list[float]]:
    return [(AFFINE @ [*point, 1])[:3].tolist() for point in points]


def test_world_and_voxel_coordinates_agree(tmp_path: Path) -> None:
    points = [[10.0, 12.0, 3.0], [20.0, 5.0, 3.0]]
    entry = {"case_id": "case-1", "label": "tumour", "points": points, "point_labels": [1, 0]}
    by_voxel = load(tmp_path / "v.json", [entry])(case())["prompts"]
    by_world = load(tmp_path / "w.json", [{**entry, "points": world(*points), "space": "world"}])(case())["prompts"]
    assert by_world == by_voxel
    assert by_voxel == [{"kind": "user", "label": "tumour", "coords": points, "point_labels": [1, 0]}]


def test_world_box_becomes_the_box_around_its_corners(tmp_path: Path) -> None:
    """The image is oblique to the world, so all eight corners count."""
    lower, upper = world([8, 9, 1], [20, 25, 4])
    entry = {"case_id": "case-1", "label": "kidney", "space": "world", "box": [lower, upper]}
    coords = np.array(load(tmp_path / "w.json", [entry])(case())["prompts"][0]["coords"])
    corners = np.array(np.meshgrid(*zip(lower, upper, strict=True))).reshape(3, -1).T
    voxels = (np.c_[corners, np.ones(8)] @ np.linalg.inv(AFFINE).T)[:, :3]
    np.testing.assert_allclose(coords, [voxels.min(axis=0), voxels.max(axis=0)], atol=1e-4)


def test_box_with_points_and_swapped_corners(tmp_path: Path) -> None:
    entry = {"image": "scan_7.nii.gz", "label": "kidney", "box": [[20, 9, 4], [8, 25, 1]], "points": [[10, 10, 2]]}
    (prompt,) = load(tmp_path / "p.json", [entry])(case(None))["prompts"]
    assert prompt["coords"] == [[10, 10, 2], [8, 9, 1], [20, 25, 4]]
    assert prompt["point_labels"] == [1, 2, 3]


def test_entries_find_their_case(tmp_path: Path) -> None:
    entries = [{"case_id": name, "points": [[k, 1, 1]]} for k, name in enumerate(("case-1", "scan_7", "scan_7.nii.gz"))]
    content = {"label": "kidney", "prompts": [*entries, {"case_id": "other", "points": [[9, 1, 1]]}]}
    transform = load(tmp_path / "p.json", content)
    assert [prompt["coords"][0][0] for prompt in transform(case())["prompts"]] == [0, 1, 2]
    assert "prompts" not in transform({**case(), "image": MetaTensor(torch.zeros(1, 4, 4, 4)), "case_id": "nobody"})


def test_csv(tmp_path: Path) -> None:
    rows = [
        "case_id,label,type,x,y,z,x2,y2,z2,object",
        "case-1,kidney,positive,1,2,3,,,,",
        "case-1,kidney,negative,4,5,3,,,,",
        "case-1,kidney,box,1,2,0,8,9,5,",
        "case-1,kidney,box,11,12,0,18,19,5,",
        "case-1,tumour,box,1,2,0,8,9,5,left",
        "case-1,tumour,positive,3,3,3,,,,left",
        "case-2,tumour,positive,3,3,3,,,,",
    ]
    prompts = load(tmp_path / "p.csv", "\n".join(rows))(case())["prompts"]
    assert [(prompt["label"], prompt["coords"], prompt["point_labels"]) for prompt in prompts] == [
        ("kidney", [[1, 2, 3], [4, 5, 3]], [1, 0]),
        ("kidney", [[1, 2, 0], [8, 9, 5]], [2, 3]),
        ("kidney", [[11, 12, 0], [18, 19, 5]], [2, 3]),
        ("tumour", [[3, 3, 3], [1, 2, 0], [8, 9, 5]], [1, 2, 3]),
    ]


def test_csv_and_json_agree_on_a_picture(tmp_path: Path) -> None:
    from_csv = load(tmp_path / "p.csv", "case_id,label,type,x,y\ncase-1,kidney,positive,7,3")
    from_json = load(tmp_path / "p.json", [{"case_id": "case-1", "label": "kidney", "points": [[7, 3]]}])
    picture = case(shape=(20, 10))
    assert from_csv(picture)["prompts"] == from_json(picture)["prompts"]
    flat = [{"case_id": "case-1", "label": "kidney", "points": [[7, 3]], "space": "world"}]
    assert load(tmp_path / "w.json", flat)(picture)["prompts"] == from_json(picture)["prompts"]


def test_text_with_and_without_points(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [
        {"case_id": "case-1", "label": "kidney", "text": "left kidney", "space": "world"},
        {
            "case_id": "case-1",
            "label": "kidney",
            "text": "cyst",
            "points": [[1, 2, 3], [4, 5, 3]],
            "point_labels": [1, 0],
        },
    ]
    bare, both = load(tmp_path / "p.json", entries)(case())["prompts"]
    assert bare == {"kind": "user", "label": "kidney", "coords": [], "point_labels": [], "text": "left kidney"}
    assert (both["text"], both["coords"], both["point_labels"]) == ("cyst", [[1, 2, 3], [4, 5, 3]], [1, 0])
    rows = ["case_id,label,type,x,y,z,text,object", "case-1,kidney,text,,,,left kidney,"]
    rows += ["case-1,kidney,text,,,,cyst,c", "case-1,kidney,positive,1,2,3,,c", "case-1,kidney,negative,4,5,3,,c"]
    assert load(tmp_path / "p.csv", "\n".join(rows))(case())["prompts"] == [bare, both]


def write_mask(path: Path, mask: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    if path.suffix == ".png":
        Image.fromarray(mask.T).save(path)  # rows first
    else:
        nib.save(nib.Nifti1Image(mask, affine), path)


def values(shape: tuple[int, ...] = (40, 36, 6)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[3:9, 4:11], mask[20:25, 30:34] = 2, 5
    return mask


@pytest.mark.parametrize(("name", "shape"), [("m.nii.gz", (40, 36, 6)), ("m.png", (40, 36))])
def test_mask_files(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    mask = values(shape)
    (tmp_path / "masks").mkdir()
    write_mask(tmp_path / "masks" / name, mask)
    entry = {"case_id": "case-1", "label": "kidney", "mask": f"masks/{name}", "mask_value": 2}
    (prompt,) = load(tmp_path / "p.json", [entry])(case(shape=shape))["prompts"]
    np.testing.assert_array_equal(decode_mask(prompt["mask"]), mask == 2)
    assert (prompt["kind"], prompt["coords"], prompt["point_labels"]) == ("user", [], [])
    rows = f"case_id,label,type,x,y,mask,mask_value\ncase-1,kidney,mask,,,masks/{name},2"
    assert load(tmp_path / "p.csv", rows)(case(shape=shape))["prompts"] == [prompt]
    write_mask(tmp_path / "masks" / name, np.where(mask > 0, 255, 0).astype(np.uint8))
    del entry["mask_value"]
    (prompt,) = load(tmp_path / "p.json", [entry])(case(shape=shape))["prompts"]
    np.testing.assert_array_equal(decode_mask(prompt["mask"]), mask > 0)


def test_mask_files_that_cannot_be_used(tmp_path: Path) -> None:
    entry = {"case_id": "case-1", "label": "kidney", "mask": "m.nii"}
    with pytest.raises(FileNotFoundError, match=r"entry 1: mask .*m\.nii does not exist; its path is relative"):
        load(tmp_path / "p.json", [entry])
    path = tmp_path / "m.nii"
    wrong = [
        (values(), AFFINE, {}, r"entry 1, mask m\.nii: several values \(2, 5\); say which in 'mask_value'"),
        (values(), AFFINE, {"mask_value": 7}, "holds no object of value 7"),
        (values() * 0, AFFINE, {}, "holds no object"),
        (values((40, 36, 5)), AFFINE, {"mask_value": 2}, r"mask and image must share one grid; mask \(40, 36, 5\)"),
        (values(), AFFINE + 0.1, {"mask_value": 2}, "must share one grid"),
        (values()[..., None, None].repeat(3, -1), AFFINE, {}, "expected one channel"),
    ]
    for mask, affine, more, message in wrong:
        write_mask(path, mask, affine)
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "p.json", [{**entry, **more}])(case())
    with pytest.raises(ValueError, match="'mask_value' must be a whole number"):
        load(tmp_path / "p.json", [{**entry, "mask_value": "two"}])


def test_what_a_run_wrote_can_be_read_again(tmp_path: Path) -> None:
    """The raw form holds all kinds of simulated prompts."""
    mask = MetaTensor(torch.as_tensor(values())[None], affine=torch.as_tensor(AFFINE))
    kinds = ["box-j10-k2", "points-n3-neg2", "mask-j20", "text", "center-cc"]
    simulate = SimulatePromptsd(labels={"kidney": 2, "tumour": 5}, kinds=kinds, axis="vote", per="key_slice")
    prompts = simulate({"label": mask, "case_id": "case-1"})["prompts"]
    saved = [{"case_id": "case-1", **prompt} for prompt in prompts]
    assert load(tmp_path / "p.json", saved)(case())["prompts"] == prompts
    other = {**saved[0], "target": encode_mask(np.ones((4, 4, 4)))}
    with pytest.raises(ValueError, match=r"mask \(4, 4, 4\) and image \(40, 36, 6\) must share one grid"):
        load(tmp_path / "p.json", [other])(case())


def test_no_path_does_nothing() -> None:
    data = case()
    for path in (None, ""):
        assert LoadPromptsd(path=path)(data) == data


def test_prompts_of_earlier_writers_stay(tmp_path: Path) -> None:
    earlier = [{"kind": "user", "label": "kidney", "coords": [[1, 1, 1]], "point_labels": [1]}]
    transform = load(tmp_path / "p.json", [{"case_id": "case-1", "label": "tumour", "points": [[2, 2, 2]]}])
    assert [prompt["label"] for prompt in transform({**case(), "prompts": earlier})["prompts"]] == ["kidney", "tumour"]
    assert len(earlier) == 1


GOOD = {"case_id": "case-1", "label": "kidney", "points": [[1, 1, 1]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"p\.json: not valid JSON"),
        ("3", "expected a list of entries"),
        ([GOOD, 5], "entry 2: expected an object"),
        ([{**GOOD, "points_labels": [1]}], "entry 1: unknown field 'points_labels', expected some of case_id"),
        ([{**GOOD, "case_id": None}], "entry 1: 'case_id'.* got None"),
        ([{**GOOD, "label": "liver"}], "entry 1: 'label' must be one of kidney, tumour, got 'liver'"),
        ([{"case_id": "a", "points": [[1, 1, 1]]}], "'label' must be one of kidney, tumour, got None"),
        ([{**GOOD, "space": "mm"}], "'space' must be 'voxel'.* got 'mm'"),
        ([{"case_id": "a", "label": "kidney"}], "expected 'points' and/or 'box'"),
        ([{**GOOD, "points": [1, 1, 1]}], r"expected a list of points .* got \[1, 1, 1\]"),
        ([{**GOOD, "points": [[1, "a", 1]]}], "expected a list of points"),
        ([{**GOOD, "point_labels": [1, 0]}], r"'point_labels' must hold one of \[0, 1\] for each of 1 points"),
        ([{**GOOD, "point_labels": [2]}], "'point_labels' must hold one of"),
        ([{**GOOD, "box": [[1, 1, 1]]}], "'box' must be two corners"),
        ([{**GOOD, "box": [[1, 1, 1], [1, 1, 5]]}], "entry 1: the box .* has no size; give two opposite corners"),
        ([{**GOOD, "coords": [[1, 1, 1]]}], "or else 'coords' with 'point_labels'"),
        ([{"case_id": "a", "label": "kidney", "coords": [[1, 1, 1]]}], "'point_labels' must hold one of"),
        ([{**GOOD, "text": " "}], "'text' must be words"),
        ([{**GOOD, "kind": "boxes"}], "entry 1: prompt kind 'boxes': unknown base"),
        ([{**GOOD, "axis": 3}], "'axis' must be 0, 1 or 2"),
        ([{**GOOD, "mask": 3}], "'mask' must be the path of a mask"),
        ([{**GOOD, "mask": {"shape": [2, 2], "counts": [3]}}], "'mask' must be run lengths .*add up"),
        ([{**GOOD, "target": "x"}], "'target' must be run lengths"),
    ],
)
def test_bad_json(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "p.json", content)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("case_id,label,x,y\n", "columns type are missing, got case_id, label, x, y"),
        (
            "case_id,label,type,x,y\na,kidney,circle,1,1",
            r"line 2: type must be positive, negative, box, text or mask, got 'circle'",
        ),
        ("case_id,label,type,x,y\na,kidney,positive,1,b", "line 2: coordinates must be numbers"),
        ("case_id,label,type,x,y\n,kidney,positive,1,1", "line 2: 'case_id'"),
        ("case_id,label,type,x,y,text\na,kidney,text,,,", "line 2: a row of type text needs a value in column 'text'"),
        ("case_id,label,type,x,y\na,kidney,mask,,", "line 2: a row of type mask needs a value in column 'mask'"),
        ("case_id,label,type,x,y,x2,y2,object\na,kidney,box,1,1,2,2,1\na,kidney,box,1,1,2,2,1", "line 3: a second box"),
    ],
)
def test_bad_csv(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "p.csv", rows)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"points": [[100, 1, 1]]}, r"entry 1: point \[100.0, 1.0, 1.0\].*outside the image of shape \(40, 36, 6\)"),
        ({"points": [[1, 1]]}, "points of 3 coordinates each"),
        ({"points": [[10, 12, 3]], "space": "world"}, "entry 1: point .* outside the image"),
    ],
)
def test_entry_that_does_not_fit_its_image(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    transform = load(tmp_path / "p.json", [{"case_id": "case-1", "label": "kidney", **entry}])
    with pytest.raises(ValueError, match=message):
        transform(case())


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist; give a \.json or \.csv"):
        LoadPromptsd(path=tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"expected a \.json or \.csv file"):
        load(tmp_path / "p.txt", "")


def test_only_the_entries_of_a_kind_are_taken(tmp_path: Path) -> None:
    entries = [{**GOOD, "kind": kind} for kind in ("box-j10", "user", "box-j10")]
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(entries))
    assert len(LoadPromptsd(path=path, kind="box-j10").entries) == 2
    assert len(LoadPromptsd(path=path).entries) == 3
    with pytest.raises(ValueError, match="no prompt of kind 'point', only of box-j10, user"):
        LoadPromptsd(path=path, kind="point")
