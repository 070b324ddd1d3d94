"""What a file is that should hold weights and does not, told by its first bytes; nothing of it is run."""

from __future__ import annotations

import contextlib
import io
import pickletools
import zipfile
from pathlib import Path

from fercore.errors import UserInputError
from fercore.files import no_file, open_regular

MOST_PICKLE = 1 << 23
"""Bytes of a pickle that are looked through for names; what names classes stands in the first few."""
MAKES_ROOM = b"bytearray"
"""What a pickle that `weights_only` reads may call with any number."""
KEEP_WEIGHTS = (
    "where you trust it: open it in Python with weights_only=False, torch.save(loaded{part}, OUT), and give OUT"
)
AGAIN = "download or copy it again, whole"
ONNX = "is an ONNX model", "take the PyTorch or safetensors version of these weights"
BROKEN = "is no whole safetensors file: damaged or cut short", AGAIN
DAMAGED = "is no whole torch file: damaged or cut short", AGAIN
BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch it with: git lfs pull"),
    (b"\x89HDF", "an HDF5 file, as Keras writes", "convert it to a PyTorch state dict"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x93NUMPY", "a NumPy array", "save a PyTorch state dict"),
    (b"GGUF", "a GGUF model", "take the PyTorch or safetensors version of these weights"),
    (b"%PDF", "a PDF document", AGAIN),
    (b"\x89PNG", "an image", "give the weights"),
    (b"\xff\xd8\xff", "an image", "give the weights"),
)


def weights_file(path: Path, *, fix: str) -> Path:
    """Return the path if it is a regular file, or a link to one.

    Args:
        path: what the user gave.
        fix: what to do where nothing is there.

    Raises:
        UserInputError: if nothing is there, or a folder, a pipe or a device.
    """
    try:
        if path.is_file():
            return path
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise UserInputError(f"cannot look at weights file: {error.strerror}", where=str(path), fix=fix) from None
    except ValueError:
        raise UserInputError("no name of a weights file", where=repr(str(path)), fix=fix) from None
    if is_folder:
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".pth", ".pt", ".bin"))
        fix = f"give the file in it, e.g. {path / inside[0]}" if inside else "give the weights file itself"
        raise UserInputError("weights file is a folder", where=str(path), fix=fix)
    raise no_file(path, "weights file", fix=fix)


def is_safetensors(path: Path) -> bool:
    """Say whether a file begins as safetensors does: the length of a JSON header that fits into it, and its brace."""
    with open_regular(path) as file:
        head = file.read(9)
    # Eight bytes of length, then a JSON header of that length.
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def members(path: Path) -> dict[str, int]:
    """Return name -> bytes, unpacked, of what a zip archive holds beside code; {} for a damaged one and other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename: info.file_size for info in archive.infolist() if "/code/" not in info.filename}
    except Exception:  # zipfile fails in many ways on a damaged archive
        return {}


def is_swollen(path: Path) -> bool:
    """Say whether a file would take far more memory than it is long.

    That are packed archives, which torch does not write, and pickles that call for empty memory of any size. Of an
    archive that cannot be listed nobody knows.
    """
    with open_regular(path) as file:
        head = file.read(MOST_PICKLE)
    # torch's older format is a bare pickle, the newer one a zip archive.
    if not head.startswith(b"PK"):
        return MAKES_ROOM in head
    inside = members(path)
    if not inside or sum(inside.values()) > path.stat().st_size:
        return True
    with zipfile.ZipFile(path) as archive:
        pickled = [name for name in inside if name.endswith(".pkl")]
        return any(MAKES_ROOM in archive.read(name) for name in pickled)


def not_weights(path: Path) -> UserInputError:
    """Return the error for a file that could not be read: what it is, and what to do."""
    what, fix = _describe(path)
    return UserInputError(f"cannot read weights: the file {what}", where=str(path), fix=fix)


def _describe(path: Path) -> tuple[str, str]:
    with open_regular(path) as file:
        head = file.read(512)
    known = _by_beginning(head)
    if known:
        return known
    if head.startswith(b"PK"):
        return _describe_zip(path)
    if head[:1] == b"\x80":
        with open_regular(path) as file:
            return _describe_pickle(file.read(MOST_PICKLE))
    if is_safetensors(path) or path.suffix.lower() == ".safetensors":
        return BROKEN
    if path.suffix.lower() == ".onnx":
        return ONNX
    return "holds neither safetensors nor what torch.save writes", "give a .safetensors file or a saved state dict"


def _by_beginning(head: bytes) -> tuple[str, str] | None:
    for beginning, what, fix in BEGINNINGS:
        if head.startswith(beginning):
            return f"is {what}", fix
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is an HTML page, as failed downloads leave", "download the weights again; the page may ask to sign in"
    # The magic of tar stands inside its first block.
    if head[257:262] == b"ustar":
        return "is a tar archive", "unpack it first"
    if _begins_as_onnx(head):
        return ONNX
    return None if head else ("is empty", AGAIN)


def _begins_as_onnx(head: bytes) -> bool:
    """Say whether bytes begin as a protobuf ModelProto: a small ir_version, then a text or the graph."""
    return len(head) > 2 and head[0] == 0x08 and head[1] < 32 and head[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


def _describe_zip(path: Path) -> tuple[str, str]:
    inside = members(path)
    if not inside:
        return DAMAGED
    if any(name.endswith("/constants.pkl") for name in inside):
        fix = "where it can be run: torch.save(torch.jit.load(FILE).state_dict(), OUT), and give OUT"
        return "is a TorchScript program, not weights alone", fix
    pickled = [name for name in inside if name.rpartition("/")[2] == "data.pkl"]
    if not pickled:
        return "is a zip archive without weights that torch.save wrote", "unpack it, and give the file in it"
    if sum(inside.values()) > path.stat().st_size:
        return "is a packed zip archive, which torch does not write", "unpack it, and save the weights in it again"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(pickled[0]) as file:
            return _describe_pickle(file.read(MOST_PICKLE))
    except Exception:
        return DAMAGED


def _describe_pickle(data: bytes) -> tuple[str, str]:
    names = [name for name in pickled_names(data) if not _is_torch_data(name)]
    if not names:
        return DAMAGED
    shown = ", ".join(name[:80] for name in names[:3]) + (", ..." if len(names) > 3 else "")
    if any(name.startswith("torch.nn.modules.") for name in names):
        return f"is a whole pickled network ({shown}), not weights alone", KEEP_WEIGHTS.format(part=".state_dict()")
    kind = "NumPy values" if all(name.startswith("numpy") for name in names) else "Python objects"
    fix = KEEP_WEIGHTS.format(part="['state_dict']")
    return f"holds {kind} beside weights ({shown}), which are not loaded from strangers", fix


def pickled_names(data: bytes) -> list[str]:
    """Return the classes and functions that pickles, one behind the other, name, in order, without loading any."""
    names: dict[str, None] = {}
    texts: list[str] = []
    stream = io.BytesIO(data)
    with contextlib.suppress(Exception):  # it has no error of its own, and raw numbers may follow the last pickle
        # torch's older format has several pickles, one after the other.
        while stream.tell() < len(data):
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    names[str(argument).replace(" ", ".")] = None
                # Protocol 4 takes module and name from the stack: the last two texts before it.
                elif opcode.name == "STACK_GLOBAL":
                    names[".".join(texts[-2:])] = None
                elif isinstance(argument, str):
                    texts.append(argument)
    return list(names)


def _is_torch_data(name: str) -> bool:
    plain = ("torch._utils.", "torch._tensor.", "torch.storage.", "torch.serialization.", "collections.", "_codecs.")
    return name.startswith(plain) or (name.startswith("torch.") and name.count(".") == 1)
