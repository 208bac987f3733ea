"""`python -m dr.prepare`: photographs and labels into TFRecord shards."""

from dr.checks import check_prepare
from dr.compose import run_door
from dr.config import PrepareConfig


def main(config: PrepareConfig) -> None:
    """Prepare and pack; print what the shards hold to stdout."""
    from dr.shards.prepare import prepare

    manifest = prepare(config)
    counts = ", ".join(f"grade {grade}: {n}" for grade, n in enumerate(manifest.label_counts))
    print(
        f"{config.shards}: {manifest.records} records of {manifest.image_size} px in "
        f"{len(manifest.shards)} shards ({counts})"
    )
    for flag, count in manifest.flagged.items():
        print(f"{flag}: {count} kept, see the column flags in {config.shards}/records.csv")
    if manifest.rejected:
        print(f"{manifest.rejected} photographs were left out: see {config.shards}/rejected.csv")


if __name__ == "__main__":
    run_door("prepare", schema=PrepareConfig, check=check_prepare, main=main)
