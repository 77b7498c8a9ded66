"""Why an image file cannot be read, in words: libraries often say only that they do not know it."""

from __future__ import annotations

from pathlib import Path

from fairmedfm_monai.data.headers import FORMATS

_LENGTH = 160  # of a library's own reason
_HEADS = {
    b"version https://git-lfs": "it is a Git LFS pointer, not the file: fetch it with `git lfs pull`",
    b"\x1f\x8b": "it is a gzip archive",
    b"PK\x03\x04": "it is a ZIP archive",
    b"%PDF": "it is a PDF",
}
_NO_IDEA = (  # SimpleITK, Pillow, nibabel
    "Unable to determine ImageIO reader",
    "cannot identify image file",
    "Cannot work out file type",
)
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_HEAD_SIZE = 132  # a DICOM file has its mark after 128 bytes
_LARGE = 1 << 16  # bytes from which on a DICOM element is not kept in memory


def why_unreadable(path: Path, error: Exception) -> str:
    """One line: what the file is instead of an image, or else the last line of what the library said."""
    said = str(error).strip().splitlines() or [type(error).__name__]
    reason = said[-1].replace(f"{path.parent}/", "")[-_LENGTH:]
    try:
        if not path.is_file():
            return reason
        with path.open("rb") as file:
            head = file.read(_HEAD_SIZE)
    except OSError as failure:
        return f"{failure.strerror or failure}"
    return _what_it_is(path, head) or _in_words(reason)


def _what_it_is(path: Path, head: bytes) -> str:
    if not head:
        return "the file is empty"
    if not head.strip(b"\0"):
        return "the file begins with zeros: it is damaged, or was not written to the end"
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page, such as the login page of a download that was refused"
    if head[128:] == b"DICM":
        return _dicom_fault(path)
    packed = path.name.lower().endswith(".gz")
    return next((words for mark, words in _HEADS.items() if head.startswith(mark) and not packed), "")


def _dicom_fault(path: Path) -> str:
    """What a DICOM file lacks; empty where nothing is found."""
    import pydicom
    from pydicom.pixels.utils import get_expected_length

    try:
        header = pydicom.dcmread(path, defer_size=_LARGE)
        if not any(name in header for name in _PIXELS):
            kind = header.get("SOPClassUID", pydicom.uid.UID("")).name or "SOP class unknown"
            return f"a DICOM file without pixels, or cut off before them ({kind})"
        if "PixelData" not in header or header.file_meta.TransferSyntaxUID.is_compressed:
            return ""
        expected, found = get_expected_length(header), len(header.PixelData)
    except Exception as error:  # pydicom raises many kinds on damaged files
        return f"a DICOM file that is cut off or damaged ({type(error).__name__}: {str(error)[:_LENGTH]})"
    short = f"a DICOM file that is cut off: its header announces {expected} bytes of pixels, it holds {found}"
    return short if found < expected else ""


def _in_words(reason: str) -> str:
    if any(words in reason for words in _NO_IDEA):
        return f"it is no image of a known kind, or damaged from the start; readable are {FORMATS}"
    return reason
