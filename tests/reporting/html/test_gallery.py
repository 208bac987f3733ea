import base64
import io

import numpy as np
from PIL import Image

from dr.reporting.html.gallery import SIDE, Mistake, Pictures, data_uri, shown, worst_mistakes
from dr.reporting.html.run_files import Predictions


def predictions(labels: list[int], scores: list[float]) -> Predictions:
    grades = np.clip(np.round(scores), 0, 4).astype(int)
    return Predictions(
        names=[f"{place}_left" for place in range(len(labels))],
        folds=np.arange(len(labels)) % 3,
        labels=np.array(labels),
        scores=np.array(scores),
        probabilities=np.eye(5)[grades],
    )


def test_the_furthest_comes_first_and_what_is_right_is_left_out() -> None:
    found = worst_mistakes(predictions([4, 0, 2, 1, 3], [0.2, 0.4, 0.1, 3.4, 1.2]), 10)
    assert [one.name for one in found] == ["0_left", "3_left", "2_left", "4_left"]
    assert found[0] == Mistake(name="0_left", fold=0, label=4, score=0.2, grade=0)
    assert found[0].distance == 3.8


def test_no_more_are_taken_than_asked_for_and_equals_go_by_name() -> None:
    given = predictions([4, 4, 4], [1.0, 1.0, 1.0])
    assert [one.name for one in worst_mistakes(given, 2)] == ["0_left", "1_left"]
    assert worst_mistakes(given, 0) == []


def decoded(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_picture_is_a_small_jpeg_that_looks_the_same() -> None:
    row = np.linspace(0, 255, 600).astype(np.uint8)
    picture = np.stack([np.tile(row, (600, 1))] * 3, axis=2)
    image = decoded(data_uri(picture))
    assert image.format == "JPEG" and image.size == (SIDE, SIDE)
    expected = Image.fromarray(picture).resize((SIDE, SIDE))
    assert np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean() < 2


def test_a_small_picture_is_not_enlarged() -> None:
    assert decoded(data_uri(np.zeros((32, 32, 3), np.uint8))).size == (32, 32)


def test_a_mistake_without_pictures_is_shown_without() -> None:
    mistake = Mistake(name="a", fold=1, label=4, score=0.123, grade=0)
    bare = shown(mistake, {})
    assert (bare.picture, bare.heat_map, bare.score_text) == ("", "", "0.12")
    black = np.zeros((8, 8, 3), np.uint8)
    assert shown(mistake, {"a": Pictures(black)}).heat_map == ""
    assert shown(mistake, {"a": Pictures(black, black)}).heat_map.startswith("data:")
