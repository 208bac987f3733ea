"""TFRecord files with an index beside each, as several loaders read them."""

from pathlib import Path

from benchmarks.peers.pictures import Pictures


def write_records(pictures: Pictures, folder: Path, *, files: int) -> None:
    """Spread the pictures over `files` files of `tf.train.Example` with `image` and `label`."""
    from tfrecord import TFRecordWriter
    from tfrecord.tools.tfrecord2idx import create_index

    paths = [folder / f"{number:02d}.tfrec" for number in range(files)]
    writers = [TFRecordWriter(str(path)) for path in paths]
    for number, jpeg, label in pictures:
        writers[number % files].write({"image": (jpeg, "byte"), "label": (label, "int")})
    for writer in writers:
        writer.close()
    for path in paths:
        create_index(str(path), str(path.with_suffix(".tfindex")))
