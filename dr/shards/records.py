"""One record: a `tf.train.Example` in a TFRecord frame, written and read back with its CRCs."""

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import crc32c
from google.protobuf.message import DecodeError

MAX_RECORD = 64 * 1024 * 1024
"""A record longer than this many bytes is refused before memory is set aside for it."""

FRAME_OVERHEAD = 16
"""Bytes of a frame around its record: the length, its CRC, the record's CRC."""

_MASK = 0xA282EAD8
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


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
    """Append one TFRecord frame: length, its CRC, the example, its CRC.

    Raises ValueError for an example over `MAX_RECORD`, which no reader would accept.
    """
    from tfrecord.writer import TFRecordWriter

    if len(example) > MAX_RECORD:
        raise ValueError(f"a record of {len(example)} bytes is over the limit of {MAX_RECORD}")
    length = struct.pack("<Q", len(example))
    file.write(length + TFRecordWriter.masked_crc(length))
    file.write(example + TFRecordWriter.masked_crc(example))


def masked_crc(data: bytes | memoryview) -> int:
    """TFRecord's masked CRC-32C of `data`, as an unsigned 32-bit number."""
    crc: int = crc32c.crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def frame_length(header: bytes | memoryview) -> int:
    """The length in bytes of the record in a frame, from the frame's first 12 bytes.

    Raises CorruptRecord where they are cut off, do not match their CRC, or exceed `MAX_RECORD`.
    """
    if len(header) < _HEADER.size:
        raise CorruptRecord(f"the frame is cut off after {len(header)} bytes")
    length, crc = _HEADER.unpack_from(header)
    if crc != masked_crc(header[:8]):
        raise CorruptRecord("the CRC of its length does not match")
    if length > MAX_RECORD:
        limit = f"over the limit of {MAX_RECORD >> 20} MiB a record"
        raise CorruptRecord(f"it says {length} bytes, {limit}")
    return int(length)


def open_frame(frame: bytes | memoryview) -> memoryview:
    """The example inside a frame, after both CRCs were checked.

    Raises CorruptRecord saying what does not fit.
    """
    view = memoryview(frame)
    length = frame_length(view[: _HEADER.size])
    example = view[_HEADER.size : _HEADER.size + length]
    end = view[_HEADER.size + length :]
    if len(end) == _FOOTER.size and _FOOTER.unpack(end)[0] == masked_crc(example):
        return example
    found = max(0, len(view) - FRAME_OVERHEAD)
    if found < length:
        raise CorruptRecord(f"the frame is cut off: {found} of {length} bytes are there")
    if found > length:
        raise CorruptRecord(f"it says {length} bytes, and {found} are there")
    raise CorruptRecord("the CRC of its data does not match")


def decode_example(example: bytes | memoryview) -> Record:
    """The record in a serialized `tf.train.Example`, of this project or of the seed.

    Raises CorruptRecord where it does not parse, holds no image, or a feature of another type
    than this project's.
    """
    from tfrecord.example_pb2 import Example

    try:
        features = Example.FromString(bytes(example)).features.feature
    except DecodeError as error:
        raise CorruptRecord(f"it does not parse as a tf.train.Example ({error})") from error
    image = _value(features, "image", "bytes_list")
    if image is None:
        raise CorruptRecord(f"it holds no image, only {sorted(features) or 'nothing'}")
    return Record(
        image=image,
        patient_id=_integer(features, "patient_id"),
        side=_integer(features, "side"),
        label=_integer(features, "label"),
        name=_text(features, "name"),
        patient=_text(features, "patient"),
    )


def _value(features: Any, key: str, kind: str) -> Any:
    """The one value of a feature, None where it is absent or empty."""
    if key not in features:
        return None
    found = features[key].WhichOneof("kind")
    if found is None:
        return None
    if found != kind:
        raise CorruptRecord(f"its {key} is given as {found}, where {kind} is expected")
    values = getattr(features[key], kind).value
    if len(values) > 1:
        raise CorruptRecord(f"its {key} holds {len(values)} values, where one is expected")
    return values[0] if values else None


def _integer(features: Any, key: str) -> int:
    value = _value(features, key, "int64_list")
    return -1 if value is None else int(value)


def _text(features: Any, key: str) -> str:
    value: bytes | None = _value(features, key, "bytes_list")
    return "" if value is None else value.decode(errors="replace")
