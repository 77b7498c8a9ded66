"""A minimal MONAI Deploy application around one bundle: source, bundle, sink.

``FAIRMEDFM_BUNDLE=FOLDER python deploy_app.py -i INPUT -o OUTPUT``. INPUT holds request.json: ``image`` (a file) and
``clicks`` (voxel indices, may be empty). OUTPUT gets mask.nii.gz or probabilities.json.

Start it in a folder that has no ``models`` in it: Deploy would take that for its own and look for the bundle there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Image, IOType, Operator
from monai.deploy.operators.monai_bundle_inference_operator import (
    BundleConfigNames,
    IOMapping,
    MonaiBundleInferenceOperator,
)

BUNDLE = Path(os.environ["FAIRMEDFM_BUNDLE"]).absolute()


class Source(Operator):
    """Read one image and its clicks."""

    def __init__(self, fragment: Any, *args: Any, folder: Path, **kwargs: Any) -> None:
        self.folder = folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: Any) -> None:
        """One output."""
        spec.output("image")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Emit an Image; further entries of its metadata reach the bundle as ``image.meta``."""
        request = json.loads((self.folder / "request.json").read_text(encoding="utf-8"))
        volume = request["image"].endswith((".nii", ".nii.gz"))
        array, metadata = _volume(request["image"]) if volume else _picture(request["image"])
        if request["clicks"]:
            metadata["foreground"] = request["clicks"]
        op_output.emit(Image(array, metadata=metadata), "image")


def _volume(path: str) -> tuple[np.ndarray, dict[str, Any]]:
    """As Deploy's own DICOM operator gives a series: axes depth, height, width, spacing and affine in the metadata."""
    nifti = nibabel.Nifti1Image.from_filename(path)
    row, column, depth = nifti.header.get_zooms()[:3]
    spacing = {"row_pixel_spacing": row, "col_pixel_spacing": column, "depth_pixel_spacing": depth}
    array = np.swapaxes(np.asarray(nifti.dataobj, dtype=np.float32), 0, 2)
    return array, {**spacing, "nifti_affine_transform": nifti.affine}


def _picture(path: str) -> tuple[np.ndarray, dict[str, Any]]:
    """As the bundle's own reader gives it."""
    from fairmedfm_monai.transforms.load import CaseReader

    reader = CaseReader()
    array, metadata = reader.get_data(reader.read(path))
    return array.astype(np.float32), metadata


class Sink(Operator):
    """Write what the bundle gave."""

    def __init__(self, fragment: Any, *args: Any, source: Path, folder: Path, **kwargs: Any) -> None:
        self.source, self.folder = source, folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: Any) -> None:
        """One input."""
        spec.input("pred")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write mask.nii.gz (on the grid of the input) or probabilities.json."""
        result = op_input.receive("pred")
        if isinstance(result, dict):
            scores = [float(score) for score in np.ravel(result["probabilities"])]
            (self.folder / "probabilities.json").write_text(json.dumps(scores), encoding="utf-8")
            return
        request = json.loads((self.source / "request.json").read_text(encoding="utf-8"))
        mask = np.swapaxes(result.asnumpy(), 0, 2).astype(np.uint8)
        affine = nibabel.Nifti1Image.from_filename(request["image"]).affine
        nibabel.save(nibabel.Nifti1Image(mask, affine), self.folder / "mask.nii.gz")


class App(Application):
    """Source, bundle, sink."""

    def compose(self) -> None:
        """Build the graph; the kind of output comes from the bundle's metadata.json."""
        context = Application.init_app_context(self.argv)
        metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
        kind = metadata["network_data_format"]["outputs"]["pred"]["type"]
        source, target = Path(context.input_path).absolute(), Path(context.output_path).absolute()
        # Deploy does not tell a bundle where it lies; with this the bundle's own `bundle_root`, ".", is true.
        os.chdir(BUNDLE)
        reader = Source(self, CountCondition(self, 1), folder=source, name="source")
        bundle = MonaiBundleInferenceOperator(
            self,
            app_context=context,
            bundle_path=BUNDLE,
            bundle_config_names=BundleConfigNames(config_names=["inference"]),
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image if kind == "image" else dict[str, Any], IOType.IN_MEMORY)],
            name="bundle",
        )
        writer = Sink(self, source=source, folder=target, name="sink")
        self.add_flow(reader, bundle, {("image", "image")})
        self.add_flow(bundle, writer, {("pred", "pred")})


if __name__ == "__main__":
    App().run()
