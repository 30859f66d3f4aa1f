"""Files: the bytes of a data file, gzipped or not, of which no more is read than asked.

A gzipped file of 3 MB may hold 6 GB. Nothing here allocates what a file only promises.
"""

import zlib
from pathlib import Path

# More than any file of MNIST's relatives and of CIFAR holds, and little enough to be
# converted to float32 beside its copy.
MAX_BYTES = 200_000_000
_GZIP = b"\x1f\x8b"
# zlib's sign for a gzip header.
_GZIP_WINDOW = 31


def read(path: Path, size: int = MAX_BYTES) -> bytes:
    """Returns the first bytes of a file, decompressed if it is gzipped.

    Args:
      path: of the file, gzipped or not whatever its name says.
      size: how many bytes at most.

    Raises:
      ValueError: if the file is too large, or is broken as a gzip file.
      OSError: if it cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path} must be a file, got something else.")
    length = path.stat().st_size
    if length > MAX_BYTES:
        raise ValueError(
            f"{path} must have at most {MAX_BYTES:,} bytes, got {length:,}."
        )
    with path.open("rb") as file:
        if file.read(2) != _GZIP:
            file.seek(0)
            return file.read(size)
        file.seek(0)
        return _decompressed(path, file.read(), size)


def _decompressed(path: Path, raw: bytes, size: int) -> bytes:
    """At most `size` bytes out of a gzip file."""
    member = zlib.decompressobj(_GZIP_WINDOW)
    try:
        content = member.decompress(raw, size)
    except zlib.error as error:
        raise ValueError(
            f"{path} must be a whole gzip file, got a broken one ({error}): copy it "
            "again."
        ) from error
    if len(content) < size and not member.eof:
        raise ValueError(
            f"{path} must be a whole gzip file, got one that ends early, after "
            f"{len(content):,} bytes of its content: copy it again."
        )
    if member.unused_data.strip(b"\0"):
        raise ValueError(
            f"{path} must be one gzip file, got {len(member.unused_data):,} bytes "
            "after its end: copy it again."
        )
    return content
