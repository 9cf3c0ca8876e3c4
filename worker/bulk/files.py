"""Files that are whole or not there: written under another name, synced, renamed, and the folder synced."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that after a kill, or a loss of power, it is there whole or as it was before.

    Args:
        path: The file; what is not whole yet lies beside it, under its name with `.unfinished` behind.
        write: Writes its content.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        write(file)
    sync(unfinished)
    unfinished.replace(path)
    sync(path.parent)


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write a file of lines, as `write_whole` does."""
    write_whole(path, lambda file: file.writelines(line + b"\n" for line in lines))


def sync(path: Path) -> None:
    """Have a file or folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
