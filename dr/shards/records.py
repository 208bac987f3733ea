"""One record: a `tf.train.Example` in a TFRecord frame, written and read back with its CRCs."""

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

_MASK = 0xA282EAD8
_HEADER = 12
_FOOTER = 4


@dataclass(frozen=True)
class Record:
    """What a shard holds of one photograph.

    `image`: JPEG bytes; `patient_id`: a number for the patient; `side`: 0 left, 1 right, -1
    unknown; `label`: 0 to 4, -1 where there is none; `name` and `patient` are text, empty in
    shards of the seed's own schema.
    """

    image: bytes
    patient_id: int
    side: int
    label: int
    name: str = ""
    patient: str = ""


class CorruptRecord(ValueError):
    """Bytes that are not the record that was written."""


def encode_example(record: Record) -> bytes:
    """The record as a serialized `tf.train.Example`: the same bytes with any protobuf version."""
    from tfrecord.example_pb2 import BytesList

    entries = {
        "image": _bytes_feature(record.image),
        "name": _bytes_feature(record.name.encode()),
        "patient": _bytes_feature(record.patient.encode()),
        "patient_id": _integer_feature(record.patient_id),
        "side": _integer_feature(record.side),
    }
    if record.label >= 0:
        entries["label"] = _integer_feature(record.label)
    features = b"".join(_serialized(key, entries[key]) for key in sorted(entries))
    # An Example holds its features as a BytesList holds a value: a length and bytes in field 1.
    return bytes(BytesList(value=[features]).SerializeToString())


def _bytes_feature(value: bytes) -> Any:
    from tfrecord.example_pb2 import BytesList, Feature

    return Feature(bytes_list=BytesList(value=[value]))


def _integer_feature(value: int) -> Any:
    from tfrecord.example_pb2 import Feature, Int64List

    return Feature(int64_list=Int64List(value=[value]))


def _serialized(key: str, feature: Any) -> bytes:
    """One entry of a feature map; protobuf leaves the order of several to each implementation."""
    from tfrecord.example_pb2 import Features

    return bytes(Features(feature={key: feature}).SerializeToString())


def write_frame(file: BinaryIO, example: bytes) -> None:
    """Append one TFRecord frame: length, its CRC, the example, its CRC."""
    from tfrecord.writer import TFRecordWriter

    length = struct.pack("<Q", len(example))
    file.write(length + TFRecordWriter.masked_crc(length))
    file.write(example + TFRecordWriter.masked_crc(example))


def masked_crc(data: bytes | memoryview) -> int:
    """TFRecord's masked CRC-32C of `data`, as an unsigned 32-bit number."""
    import crc32c

    crc: int = crc32c.crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def open_frame(frame: bytes) -> memoryview:
    """The example inside a frame, after both CRCs were checked.

    Raises CorruptRecord saying what does not fit.
    """
    if len(frame) < _HEADER + _FOOTER:
        raise CorruptRecord(f"the frame is cut off after {len(frame)} bytes")
    view = memoryview(frame)
    (length,) = struct.unpack_from("<Q", frame)
    if struct.unpack_from("<I", frame, 8)[0] != masked_crc(view[:8]):
        raise CorruptRecord("the CRC of its length does not match")
    if length != len(frame) - _HEADER - _FOOTER:
        found = len(frame) - _HEADER - _FOOTER
        raise CorruptRecord(f"it says {length} bytes, and {found} are there")
    example = view[_HEADER : _HEADER + length]
    if struct.unpack_from("<I", frame, _HEADER + length)[0] != masked_crc(example):
        raise CorruptRecord("the CRC of its data does not match")
    return example


def decode_example(example: bytes | memoryview) -> Record:
    """The record in a serialized `tf.train.Example`, of this project or of the seed.

    Raises CorruptRecord where it does not parse or holds no image.
    """
    from google.protobuf.message import DecodeError
    from tfrecord.example_pb2 import Example

    try:
        features = Example.FromString(bytes(example)).features.feature
    except DecodeError as error:
        raise CorruptRecord(f"it does not parse as a tf.train.Example ({error})") from error
    if "image" not in features or not features["image"].bytes_list.value:
        raise CorruptRecord(f"it holds no image, only {sorted(features) or 'nothing'}")
    return Record(
        image=features["image"].bytes_list.value[0],
        patient_id=_integer(features, "patient_id"),
        side=_integer(features, "side"),
        label=_integer(features, "label"),
        name=_text(features, "name"),
        patient=_text(features, "patient"),
    )


def _integer(features: Any, key: str) -> int:
    values = features[key].int64_list.value if key in features else ()
    return int(values[0]) if values else -1


def _text(features: Any, key: str) -> str:
    values = features[key].bytes_list.value if key in features else ()
    return values[0].decode(errors="replace") if values else ""
