import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from dr.reporting.curves import _draw, draw_curves, read_histories, read_history
from dr.reporting.runs import read_run


def lines_by_panel(run):
    """The figure's panels: title -> list of (style, colour, x, y) of its lines."""
    figure = _draw(read_run(run), read_histories(run))
    return {
        ax.get_title(loc="left"): [
            (line.get_linestyle(), line.get_color(), line.get_xdata(), line.get_ydata())
            for line in ax.lines
        ]
        for ax in figure.axes
    }, figure


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_picture_is_a_readable_png_and_nothing_else_is_left(make_run):
    run = make_run("run")
    before = {path.name for path in run.iterdir()}
    assert draw_curves(run) == run / "curves.png"
    assert {path.name for path in run.iterdir()} == before | {"curves.png"}
    pixels = matplotlib.image.imread(run / "curves.png")
    assert pixels.shape[:2] == (880, 1210)
    assert pixels[..., :3].std() > 0.05


def test_every_fold_is_drawn_with_the_values_of_its_history(make_run):
    run = make_run("run", done=3)
    panels, figure = lines_by_panel(run)
    assert list(panels) == ["Loss", "QWK", "Accuracy", "Learning rate"]
    histories = read_histories(run)
    solid = [line for line in panels["QWK"] if line[0] == "-"]
    for fold, history in histories.items():
        np.testing.assert_array_equal(solid[fold][3], history["qwk"])
        np.testing.assert_array_equal(solid[fold][2], np.arange(1, 7))
    mean = np.mean([history["qwk"] for history in histories.values()], axis=0)
    np.testing.assert_allclose(solid[3][3], mean)
    dashed = [line for line in panels["Loss"] if line[0] == "--"]
    assert len(dashed) == 3
    assert [line[1] for line in dashed] == [line[1] for line in solid[:3]]
    np.testing.assert_array_equal(dashed[1][3], histories[1]["train_loss"])
    assert "mean of folds" in legend_texts(figure)


def test_the_epoch_kept_is_ringed(make_run):
    run = make_run("run", done=2)
    text = (run / "result.json").read_text().replace('"epoch": 6', '"epoch": 4', 1)
    (run / "result.json").write_text(text)
    panels, _ = lines_by_panel(run)
    rings = [line for line in panels["Accuracy"] if line[0] == "None"]
    assert [line[2].tolist() for line in rings] == [[4], [6]]
    assert rings[0][3] == read_histories(run)[0]["accuracy"][3]


def test_one_line_stands_for_learning_rates_that_all_folds_share(make_run):
    run = make_run("run", done=2)
    assert len(lines_by_panel(run)[0]["Learning rate"]) == 1
    history = run / "fold-1" / "history.csv"
    history.write_text(history.read_text().replace("\n1,0.0005,", "\n1,0.0009,"))
    assert len(lines_by_panel(run)[0]["Learning rate"]) == 2


def test_a_model_on_everything_has_no_validation_curves(make_run):
    run = make_run("all", done=1, changes={"folds": 1})
    panels, figure = lines_by_panel(run)
    assert [line[0] for line in panels["Loss"]] == ["--"]
    assert panels["QWK"] == panels["Accuracy"] == []
    assert len(panels["Learning rate"]) == 1
    notes = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert notes == ["no validation fold"] * 2
    assert legend_texts(figure) == ["training loss"]


def test_folds_still_training_are_drawn_as_far_as_they_are(make_run):
    run = make_run("half", done=2)
    (run / "result.json").unlink()
    history = run / "fold-1" / "history.csv"
    history.write_text("\n".join(history.read_text().splitlines()[:4]) + "\n")
    empty = run / "fold-2"
    empty.mkdir()
    (empty / "history.csv").write_text(history.read_text().splitlines()[0] + "\n")
    panels, figure = lines_by_panel(run)
    assert [len(line[2]) for line in panels["QWK"] if line[0] == "-"] == [6, 3, 3]
    assert "unfinished" in figure.get_suptitle()
    assert legend_texts(figure)[:2] == ["fold 0", "fold 1"]


@pytest.mark.filterwarnings("error")
def test_one_epoch_many_folds_and_odd_names_are_drawn_without_warnings(make_run):
    changes = {"folds": 12, "epochs": 1, "select": "best"}
    run = make_run("$a_b$眼", done=12, changes=changes)
    panels, figure = lines_by_panel(run)
    colours = [line[1] for line in panels["Loss"] if line[0] == "--"]
    assert len({tuple(colour) for colour in colours}) == 12
    assert "$a_b$" in figure.get_suptitle()
    assert "optimistic" in figure.get_suptitle()
    assert "mean of folds" not in legend_texts(figure)
    assert draw_curves(run).stat().st_size > 10_000


def test_texts_do_not_overlap(make_run):
    run = make_run("a_run_of_some_name", changes={"epochs": 25})
    _, figure = lines_by_panel(run)
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    boxes += [figure.legends[0].get_window_extent(), figure._suptitle.get_window_extent()]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert figure.bbox.contains(*box.min)
        assert figure.bbox.contains(*box.max)


def test_a_run_without_history_is_refused(make_run):
    run = make_run("bare", done=0)
    with pytest.raises(ValueError, match=r"bare: no fold-.*csv holds an epoch"):
        draw_curves(run)
    assert not list(run.glob("*.png"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch,loss\n1,2\n", "lacks the columns learning_rate, train_loss, qwk, accuracy"),
        ("epoch,learning_rate,train_loss,loss,qwk,accuracy\n1,2,3,4,5,x\n", "line 2: could not"),
        ("epoch,learning_rate,train_loss,loss,qwk,accuracy\n1,2,3\n", "line 2: has too few"),
    ],
)
def test_a_broken_history_is_named(tmp_path, text, message):
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_history(path)
    assert str(path) in str(caught.value)


def test_drawing_keeps_no_global_state_and_imports_no_pyplot(make_run):
    run = make_run("run", done=2)
    code = (
        "import sys; from pathlib import Path; import dr.reporting.curves as c;"
        "assert 'matplotlib' not in sys.modules; c.draw_curves(Path(sys.argv[1]));"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(run)], check=True)
    assert (run / "curves.png").is_file()
