"""Writing files so that a reader never meets half of one."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def write_whole(path: Path, content: bytes | str) -> None:
    """Write `content` beside `path`, flush it to the disk, and rename it into place."""
    data = content.encode() if isinstance(content, str) else content
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk, where the file system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN is refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, text + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `rows` under `header` as CSV with line feeds as line ends, whole or not at all."""
    import csv

    lines: list[str] = []
    # The csv module quotes a carriage return in a value only where its own lines end in one.
    end: Any = SimpleNamespace(write=lambda line: lines.append(line.removesuffix("\r\n") + "\n"))
    writer = csv.DictWriter(end, header, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, "".join(lines))


def make_writable_folder(folder: Path, *, key: str) -> None:
    """Make `folder` and see that files can be written to it.

    Raises ValueError naming `key` and the folder where that fails.
    """
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"{key}={folder}: cannot be written ({reason}); choose another folder"
        ) from error
