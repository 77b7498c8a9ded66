"""Cases for inference: a split of a dataset folder, or simply every image below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff")


def inference_cases(dataset_dir: str | Path, *, split: str | list[str] | None = "test") -> list[dict[str, Any]]:
    """List the cases to infer.

    Args:
        dataset_dir: a dataset folder (``dataset.json`` inside) or a built-in name such as ``demo/xray``; or one image,
            or a folder of images, which needs neither manifest nor labels.
        split: split or splits of a dataset folder, None for all; ignored for plain images.

    Returns:
        Case dictionaries; of plain images with ``image``, ``case_id`` (path below the folder) and ``failed``.

    Raises:
        FileNotFoundError: when there is no such folder, or no image in it.
    """
    folder = Path(dataset_dir)
    if not folder.exists() or (folder / "dataset.json").exists():
        from fairmedfm_monai.data.dataset import load_dataset

        info = load_dataset(dataset_dir)
        splits = [split] if isinstance(split, str) else split
        return info.cases(*(splits or ()))
    files = [folder] if folder.is_file() else sorted(file for file in folder.rglob("*") if _is_image(file))
    if not files:
        kinds = ", ".join(IMAGE_SUFFIXES)
        msg = f"`dataset_dir` must be a dataset folder or hold images ({kinds}), but {folder} has none"
        raise FileNotFoundError(msg)
    return [{"image": str(file), "case_id": _case_id(file, folder), "failed": ""} for file in files]


def _is_image(file: Path) -> bool:
    return file.is_file() and file.name.lower().endswith(IMAGE_SUFFIXES)


def _case_id(file: Path, folder: Path) -> str:
    relative = file.relative_to(folder) if file != folder else Path(file.name)
    for suffix in IMAGE_SUFFIXES:
        if relative.name.lower().endswith(suffix):
            return (relative.parent / relative.name[: -len(suffix)]).as_posix()
    return relative.as_posix()
