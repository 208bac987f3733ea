"""A contact sheet: small pictures of some records with what is known of each, as one PNG."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from dr.files import write_whole
from dr.fundus.decode import UnreadablePhotograph, decode_photograph, read_header
from dr.shards.records import CorruptRecord, decode_example, open_frame
from dr.shards.verification import FoundRecord

TILE = 160
"""Side of a small picture in pixels."""

_MARGIN = 8
_LINE = 15
_LINES = 3
_BACKGROUND = "white"
_MISSING = "#bbbbbb"


def choose_records(count: int, *, wanted: int, seed: int) -> NDArray[np.int64]:
    """Up to `wanted` of the numbers 0 to `count - 1`, drawn without repetition, in order."""
    drawn = np.random.default_rng(seed).permutation(count)[:wanted]
    return np.sort(drawn).astype(np.int64)


def draw_contact_sheet(records: Sequence[FoundRecord], path: Path) -> None:
    """Write a PNG of `records`, with name, grade and flags under each, whole or not at all.

    A record whose picture cannot be decoded is a gray square.
    """
    columns = max(1, min(len(records), round(np.sqrt(len(records) * 1.6))))
    rows = -(-len(records) // columns)
    width, height = TILE + _MARGIN, TILE + _LINES * _LINE + _MARGIN
    sheet = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for number, record in enumerate(records):
        row, column = divmod(number, columns)
        left, top = _MARGIN + column * width, _MARGIN + row * height
        sheet.paste(_tile(record), (left, top))
        for line, text in enumerate(_caption(record)):
            place = (left, top + TILE + line * _LINE)
            pen.text(place, _shortened(text, font), fill="black", font=font)
    write_whole(path, _png(sheet))


def _caption(record: FoundRecord) -> tuple[str, str, str]:
    grade = f"grade {record.label}" if record.label >= 0 else "no grade"
    return record.name, grade, record.flags


def _shortened(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    if font.getlength(text) <= TILE:
        return text
    while text and font.getlength(text + "...") > TILE:
        text = text[:-1]
    return text + "..."


def _tile(record: FoundRecord) -> Image.Image:
    try:
        picture = Image.fromarray(_pixels(record))
    except (CorruptRecord, UnreadablePhotograph, OSError):
        return Image.new("RGB", (TILE, TILE), _MISSING)
    picture.thumbnail((TILE, TILE))
    scale = TILE / max(picture.size)
    if scale > 1:
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.NEAREST)
    tile = Image.new("RGB", (TILE, TILE), _BACKGROUND)
    tile.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    return tile


def _pixels(record: FoundRecord) -> NDArray[np.uint8]:
    with record.path.open("rb") as file:
        file.seek(record.offset)
        image = decode_example(open_frame(file.read(record.length))).image
    return decode_photograph(image, read_header(image))


def _png(sheet: Image.Image) -> bytes:
    file = io.BytesIO()
    made = PngImagePlugin.PngInfo()
    made.add_text("Software", "dr.inspect")
    sheet.save(file, "PNG", pnginfo=made)
    return file.getvalue()
