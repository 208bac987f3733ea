"""Damaged folders by the thousand: ValueError and nothing else, in bounded memory."""

import json
import random
import re
import shutil
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dr.digests import digest_of_file
from dr.shards.manifest import MANIFEST, RECORDS
from dr.shards.opening import open_shards
from dr.shards.records import masked_crc
from dr.shards.verification import verify_shards

SECONDS = 60
BYTES = 96 * 2**20
STRANGE: tuple[Any, ...] = (None, True, -1, 0, 2**31, 2**63, 2**70, 1e308, "", "x", "../x", [], {})
NUMBERS = (b"0", b"-1", b"15", b"16", b"9223372036854775807", b"99999999999999999999", b"1e9", b"")


def flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if changed:
            changed[chance.randrange(len(changed))] ^= chance.randrange(1, 256)
    return bytes(changed)


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def remove(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    return content[:start] + content[start + chance.choice((1, 7, 64, 999)) :]


def insert(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    filling = chance.choice((b"\0" * 50, b"\n", b",", b'"', b"\xff\xfe", content[:200]))
    return content[:place] + filling + content[place:]


def renumber(content: bytes, chance: random.Random) -> bytes:
    found = list(re.finditer(rb"\d+", content))
    if not found:
        return content
    chosen = chance.choice(found)
    return content[: chosen.start()] + chance.choice(NUMBERS) + content[chosen.end() :]


def lengthen(content: bytes, chance: random.Random) -> bytes:
    """The first frame's length changed to one that is far too large, its CRC right."""
    length = chance.choice((2**20, 2**26, 2**27, 2**31, 2**40, 2**62, 2**64 - 1)).to_bytes(
        8, "little"
    )
    return length + masked_crc(length).to_bytes(4, "little") + content[12:]


def reframe(content: bytes, chance: random.Random) -> bytes:
    """The first frame's example damaged, its CRC right."""
    length = int.from_bytes(content[:8], "little")
    example = flip(content[12 : 12 + min(length, 300)], chance) + content[312 : 12 + length]
    crc = masked_crc(example).to_bytes(4, "little")
    return content[:12] + example[:length] + crc + content[16 + length :]


def restructure(content: bytes, chance: random.Random) -> bytes:
    """Somewhere in a JSON, another value."""
    values = json.loads(content)
    inner = chance.choice([values, values, values["preparation"], chance.choice(values["shards"])])
    key = chance.choice(list(inner))
    if chance.random() < 0.2:
        del inner[key]
    else:
        inner[key] = chance.choice(STRANGE)
    return json.dumps(values).encode()


MUTATIONS: dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    "train00-25.tfrec": (flip, cut, remove, insert, lengthen, reframe),
    "train02-10.tfrec": (flip, cut, remove, insert, lengthen, reframe),
    "train00-25.tfindex": (flip, cut, remove, insert, renumber),
    MANIFEST: (flip, cut, remove, insert, renumber, restructure),
    RECORDS: (flip, cut, remove, insert, renumber),
}


def mutate(folder: Path, chance: random.Random) -> None:
    for name in chance.sample(sorted(MUTATIONS), chance.choice((1, 1, 2))):
        path = folder / name
        path.write_bytes(chance.choice(MUTATIONS[name])(path.read_bytes(), chance))
    if chance.random() < 0.2:
        (folder / MANIFEST).unlink()
    elif chance.random() < 0.7:
        let_the_manifest_know(folder)


def let_the_manifest_know(folder: Path) -> None:
    """Take over the table's digest, so that what is wrong with it has to be found by reading."""
    try:
        values = json.loads((folder / MANIFEST).read_text())
        values["records_sha256"] = digest_of_file(folder / RECORDS)
        (folder / MANIFEST).write_text(json.dumps(values))
    except (ValueError, TypeError):
        return


def exercise(folder: Path) -> Counter[str]:
    """Open, read every record both ways and verify; how often which of it was refused."""
    refused: Counter[str] = Counter()
    try:
        shards = open_shards(folder)
    except ValueError as error:
        assert str(error), "an error says something"
        refused["opening"] += 1
    else:
        for number in range(len(shards)):
            for read in (shards.read, shards.read_image):
                try:
                    read(number)
                except ValueError:
                    refused["reading"] += 1
        shards.close()
    try:
        refused["verified"] += verify_shards(folder, threads=1).wrong
    except ValueError:
        refused["verifying"] += 1
    return refused


@pytest.mark.slow
def test_damaged_folders_are_refused_and_nothing_worse(packed: Path, tmp_path: Path) -> None:
    chance, refused, rounds = random.Random(0), Counter[str](), 0
    ends = time.monotonic() + SECONDS
    tracemalloc.start()
    try:
        while time.monotonic() < ends:
            folder = tmp_path / "damaged"
            shutil.copytree(packed, folder)
            mutate(folder, chance)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                refused += exercise(folder)
            except Exception as error:
                raise AssertionError(f"round {rounds}: {error!r}") from error
            assert tracemalloc.get_traced_memory()[1] - before < BYTES, f"round {rounds}"
            shutil.rmtree(folder)
            rounds += 1
    finally:
        tracemalloc.stop()
    assert rounds > 100
    assert min(refused[kind] for kind in ("opening", "reading", "verified", "verifying")) > 10
