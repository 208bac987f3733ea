import math

import pytest

from dr.reporting.html.tables import NOTHING, Score, interval, number, score, seconds, table, text


def test_a_number_that_is_none_is_shown_as_nothing_and_sorted_as_none() -> None:
    for value in (None, math.nan, math.inf):
        cell = number(value)
        assert cell.text == NOTHING
        assert cell.order is not None and math.isnan(cell.order)


def test_a_score_carries_its_interval() -> None:
    cell = score(Score(0.81234, 0.78, 0.84), mark="*")
    assert (cell.text, cell.order, cell.note) == ("0.8123*", 0.81234, "0.7800 to 0.8400")
    assert score(Score(0.8)).note == ""
    assert score(None).text == NOTHING
    assert interval(Score(0.5, 0.4, None)) == ""


def test_a_column_is_numeric_where_all_its_cells_are() -> None:
    rows = [[text("a"), number(1.0), number(None)], [text("b"), text("-"), number(2.0)]]
    assert table("t", ["name", "mixed", "numbers"], rows).numeric == (False, False, True)
    assert table("t", ["name"], []).numeric == (False,)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0123, "0.012 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (41.4, "41 s"),
        (190.0, "3.2 min"),
        (5400, "1.5 h"),
    ],
)
def test_durations_are_said_as_people_do(value: float, said: str) -> None:
    assert seconds(value) == said
