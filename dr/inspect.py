"""`python -m dr.inspect`: verify a folder of shards, and show what it holds."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from dr.checks import check_inspect
from dr.compose import run_door
from dr.config import GRADES, InspectConfig
from dr.shards.naming import source_names
from dr.urls import is_url, masked

if TYPE_CHECKING:
    from dr.shards.verification import Verification

SHOWN = 50
"""Problems listed; the rest is counted."""

_BAR = 40


def main(config: InspectConfig) -> None:
    """Verify, print counts and problems to stdout, and draw the contact sheet.

    Raises ValueError, with how many, where anything is wrong.
    """
    from dr.progress import JobProgress
    from dr.shards.verification import count_records, verify_shards

    sheet = _sheet(config)
    folder = _local_folder(config)
    with JobProgress(count_records(folder), description="verifying") as progress:
        found = verify_shards(folder, threads=config.workers, progress=progress.advance)
    print("\n".join(_summary(found, place=str(config.shards))))
    for problem in found.problems[:SHOWN]:
        print(f"wrong: {problem}")
    if found.wrong > SHOWN:
        print(f"wrong: {found.wrong - SHOWN} more")
    if config.sheet_records and found.records:
        _draw(found, config, sheet)
        print(f"contact sheet: {sheet}")
    if found.wrong:
        many = "1 problem" if found.wrong == 1 else f"{found.wrong} problems"
        raise ValueError(f"shards={config.shards}: {many}; prepare or copy the shards anew")


def _local_folder(config: InspectConfig) -> Path:
    shards = str(config.shards)
    if not is_url(shards):
        return Path(shards)
    from dr.shards.remote import fetch_all
    from dr.shards.remote_cache import RemoteCache

    return fetch_all(shards, RemoteCache.within(config.cache, config.remote_cache_gb))


def _sheet(config: InspectConfig) -> Path:
    if config.sheet is None:
        return Path(f"inspect-{source_names([str(config.shards)])[0]}.png")
    path = Path(config.sheet)
    if path.exists() and not config.overwrite:
        raise ValueError(f"sheet={path}: is there already; choose another, or add overwrite=true")
    if not path.parent.is_dir():
        raise ValueError(f"sheet={path}: there is no folder {path.parent}; make it first")
    return path


def _draw(found: "Verification", config: InspectConfig, sheet: Path) -> None:
    from dr.shards.contact_sheet import choose_records, draw_contact_sheet

    chosen = choose_records(len(found.records), wanted=config.sheet_records, seed=config.seed)
    draw_contact_sheet([found.records[number] for number in chosen], sheet)


def _summary(found: "Verification", *, place: str) -> list[str]:
    patients = len({record.patient for record in found.records})
    lines = [
        f"{masked(place)}: {len(found.records):,} records of {patients:,} patients in "
        f"{found.shards} shard{'s' * (found.shards != 1)}, {found.bytes / 1e6:,.1f} MB, "
        f"{_sizes(found)}"
    ]
    lines += _histogram(Counter(record.label for record in found.records))
    flags = Counter(flag for record in found.records for flag in record.flags.split())
    lines += [f"{flag}: {count:,}" for flag, count in sorted(flags.items())]
    return lines + _copies(found) + _origin(found) + [f"note: {note}" for note in found.notes]


def _sizes(found: "Verification") -> str:
    sizes = Counter(record.size for record in found.records if record.size is not None)
    shown = [f"{width} x {height}" for (height, width), _ in sizes.most_common(3)]
    return (", ".join(shown) or "no") + (" and other" if len(sizes) > 3 else "") + " pixels"


def _histogram(counts: "Counter[int]") -> list[str]:
    total, most = max(1, counts.total()), max(counts.values(), default=1)
    labels = sorted({*range(GRADES), *counts})
    return [
        f"grade {label}: {counts[label]:>9,} {counts[label] / total:>6.1%}  "
        f"{'#' * round(_BAR * counts[label] / most)}".rstrip()
        for label in labels
    ]


def _copies(found: "Verification") -> list[str]:
    counts = {} if found.manifest is None else found.manifest.duplicates
    if not counts:
        return []
    pairs = counts["bytes"] + counts["picture"]
    return [f"copies among different patients: {pairs:,}, see duplicates.csv"]


def _origin(found: "Verification") -> list[str]:
    if found.manifest is None:
        return ["no manifest.json: digests, sizes and table are not compared"]
    settings = dataclasses.asdict(found.manifest.preparation)
    spelled = " ".join(f"{key}={value}" for key, value in settings.items())
    left_out = f"{found.manifest.rejected:,} photographs left out when it was prepared"
    return [f"source: {found.manifest.kind}, {left_out}", f"preparation: {spelled}"]


if __name__ == "__main__":
    run_door("inspect", schema=InspectConfig, check=check_inspect, main=main)
