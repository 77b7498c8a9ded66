"""Dataset folders from users' own data: a table with pictures, a folder of DICOM files, a BIDS folder."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Columns": ".columns",
        "OwnRows": ".rows",
        "Wishes": ".wishes",
        "prepare_rows": ".folder",
        "read_bids": ".bids",
        "read_dicom": ".dicom",
        "read_own_table": ".table",
    },
)
