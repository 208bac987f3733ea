"""Records: the bytes of one, and every way in which they can be damaged."""

import io
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr.shards.index import write_index
from dr.shards.records import (
    MAX_RECORD,
    CorruptRecord,
    Record,
    decode_example,
    encode_example,
    masked_crc,
    open_frame,
    write_frame,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
RECORDS = st.builds(
    Record,
    image=st.binary(max_size=300),
    patient_id=INT64,
    side=st.integers(-1, 1),
    label=st.integers(-1, 4),
    name=st.text(max_size=20),
    patient=st.text(max_size=20),
)
EYE = Record(b"\xff\xd8 not a picture \xff\xd9", 10, 0, 2, "10_left", "10")


def frame_of(record: Record) -> bytes:
    file = io.BytesIO()
    write_frame(file, encode_example(record))
    return file.getvalue()


@given(RECORDS)
def test_what_is_written_is_read_back(record: Record) -> None:
    assert decode_example(open_frame(frame_of(record))) == record


@given(RECORDS)
def test_equal_records_have_equal_bytes_with_the_features_in_order(record: Record) -> None:
    example = encode_example(record)
    assert example == encode_example(decode_example(example))
    keys = ["image", "name", "patient", "patient_id", "side"]
    if record.label >= 0:
        keys.insert(1, "label")
    assert keys_in_order(example) == [key.encode() for key in keys]


def keys_in_order(example: bytes) -> list[bytes]:
    """The feature names as they lie in the bytes, by the protobuf wire format."""
    body = fields(example)[0]
    return [fields(entry)[0] for entry in fields(body)]


def fields(message: bytes) -> list[bytes]:
    """The length-delimited fields of a message, in order."""
    found, at = [], 0
    while at < len(message):
        length, shift, at = 0, 0, at + 1
        while True:
            length |= (message[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if message[at - 1] < 0x80:
                break
        found.append(message[at : at + length])
        at += length
    return found


def test_the_tfrecord_package_reads_equal_fields_through_the_index(tmp_path: Path) -> None:
    from tfrecord.reader import tfrecord_loader

    records = [Record(bytes([n]) * (n + 1), n, n % 2, n % 5, f"{n}_é", f"p{n}") for n in range(7)]
    shard = tmp_path / "train00-7.tfrec"
    shard.write_bytes(b"".join(map(frame_of, records)))
    kinds = dict(image="byte", name="byte", patient="byte", patient_id="int", side="int")
    found = tfrecord_loader(
        str(shard), str(write_index(shard)), {**kinds, "label": "int"}, shard=(0, 1)
    )
    read = [
        Record(
            bytes(entry["image"]),
            int(entry["patient_id"][0]),
            int(entry["side"][0]),
            int(entry["label"][0]),
            bytes(entry["name"]).decode(),
            bytes(entry["patient"]).decode(),
        )
        for entry in found
    ]
    assert read == records


@given(RECORDS)
def test_the_example_is_one_that_protobuf_writes_but_for_the_order(record: Record) -> None:
    from tfrecord.example_pb2 import Example
    from tfrecord.writer import TFRecordWriter

    values = {key: (value, "int") for key, value in vars(record).items() if isinstance(value, int)}
    texts = {
        "image": record.image,
        "name": record.name.encode(),
        "patient": record.patient.encode(),
    }
    if record.label < 0:
        del values["label"]
    theirs = TFRecordWriter.serialize_tf_example(
        {**values, **{key: (value, "byte") for key, value in texts.items()}}
    )
    assert Example.FromString(encode_example(record)) == Example.FromString(theirs)
    assert len(encode_example(record)) == len(theirs)


def test_a_record_without_label_lacks_the_feature() -> None:
    unlabelled = Record(b"x", 1, 1, -1)
    assert b"label" not in encode_example(unlabelled)
    assert decode_example(encode_example(unlabelled)).label == -1


@given(st.binary(max_size=200))
def test_the_crc_is_another_implementations(data: bytes) -> None:
    crc = google_crc32c.value(data)
    expected = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
    assert masked_crc(data) == expected


def test_crc_32c_of_the_standards_check_value() -> None:
    crc = 0xE3069283
    assert masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


@given(place=st.integers(0, len(frame_of(EYE)) - 1), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(place: int, bit: int) -> None:
    frame = bytearray(frame_of(EYE))
    frame[place] ^= 1 << bit
    part = "length" if place < 12 else "data"
    with pytest.raises(CorruptRecord, match=f"CRC of its {part} does not match"):
        open_frame(bytes(frame))


@given(st.integers(0, len(frame_of(EYE)) - 1))
def test_every_cut_is_found(length: int) -> None:
    with pytest.raises(CorruptRecord, match=r"cut off|are there"):
        open_frame(frame_of(EYE)[:length])


def test_bytes_behind_the_frame_are_found() -> None:
    size = len(encode_example(EYE))
    with pytest.raises(CorruptRecord, match=f"says {size} bytes, and {size + 1} are there"):
        open_frame(frame_of(EYE) + b"\0")


def test_a_length_that_matches_its_crc_but_not_the_frame_is_found() -> None:
    length = struct.pack("<Q", 2**63)
    header = length + struct.pack("<I", masked_crc(length))
    with pytest.raises(CorruptRecord, match=r"says 9223372036854775808 bytes, over the limit"):
        open_frame(header + frame_of(EYE)[12:])


def test_a_record_over_the_limit_is_not_written() -> None:
    file = io.BytesIO()
    with pytest.raises(ValueError, match="of 67108865 bytes is over the limit of 67108864"):
        write_frame(file, bytes(MAX_RECORD + 1))
    assert file.getvalue() == b""


@pytest.mark.parametrize(
    ("example", "reason"), [(b"\xff\xff\xff", "does not parse"), (b"", "no image, only nothing")]
)
def test_other_bytes_are_no_record(example: bytes, reason: str) -> None:
    with pytest.raises(CorruptRecord, match=reason):
        decode_example(example)


def test_an_example_without_image_names_what_it_holds() -> None:
    from tfrecord.writer import TFRecordWriter

    example = TFRecordWriter.serialize_tf_example({"label": (1, "int"), "side": (0, "int")})
    with pytest.raises(CorruptRecord, match=r"no image, only \['label', 'side'\]"):
        decode_example(example)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": (5, "int")}, "its image is given as int64_list, where bytes_list is expected"),
        ({"image": (0.5, "float")}, "its image is given as float_list, where"),
        ({"label": (b"3", "byte")}, "its label is given as bytes_list, where"),
        ({"label": (3.0, "float")}, "its label is given as float_list"),
        ({"label": ([3, 4], "int")}, "its label holds 2 values, where one is expected"),
        ({"name": (7, "int")}, "its name is given as int64_list, where bytes_list is expected"),
    ],
)
def test_features_of_another_schema_are_named(changes: dict[str, Any], reason: str) -> None:
    from tfrecord.writer import TFRecordWriter

    features = {"image": (b"x", "byte"), "label": (1, "int"), **changes}
    with pytest.raises(CorruptRecord, match=reason):
        decode_example(TFRecordWriter.serialize_tf_example(features))


@pytest.mark.parametrize("value", [[], None])
def test_an_empty_label_is_none(value: list[int] | None) -> None:
    from tfrecord.example_pb2 import Example, Feature, Features, Int64List

    image = Feature(bytes_list={"value": [b"x"]})
    label = Feature() if value is None else Feature(int64_list=Int64List(value=value))
    example = Example(features=Features(feature={"image": image, "label": label}))
    assert decode_example(example.SerializeToString()) == Record(b"x", -1, -1, -1)
