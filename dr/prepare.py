"""`python -m dr.prepare`: photographs and labels into TFRecord shards."""

from dr.checks import check_prepare
from dr.compose import run_door
from dr.config import PrepareConfig


def main(config: PrepareConfig) -> None:
    """Prepare and pack; print what the shards hold to stdout."""
    from dr.shards.prepare import PartDone, prepare

    made = prepare(config)
    if isinstance(made, PartDone):
        print(f"{config.shards}: part {config.part} is done; shards left to others: {made.left}")
        return
    counts = ", ".join(f"grade {grade}: {n}" for grade, n in enumerate(made.label_counts))
    print(
        f"{config.shards}: {made.records} records of {made.image_size} px in "
        f"{len(made.shards)} shard{'s' * (len(made.shards) != 1)} ({counts})"
    )
    for flag, count in made.flagged.items():
        print(f"{flag}: {count} kept, see the column flags in {config.shards}/records.csv")
    if made.rejected:
        print(f"{made.rejected} photographs were left out: see {config.shards}/rejected.csv")
    if made.duplicates:
        print(_describe(made.duplicates, f"{config.shards}/duplicates.csv"))


def _describe(duplicates: dict[str, int], file: str) -> str:
    pairs = duplicates["bytes"] + duplicates["picture"]
    return (
        f"copies among different patients: {pairs} ({duplicates['bytes']} byte for byte, "
        f"{duplicates['picture']} by their look, {duplicates['patients']} patients), see {file}; "
        "dr.train group_duplicates=true keeps them in one fold"
    )


if __name__ == "__main__":
    run_door("prepare", schema=PrepareConfig, check=check_prepare, main=main)
