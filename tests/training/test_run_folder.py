import json
import subprocess
import sys
from pathlib import Path

import pytest

from dr.training.run_folder import claim_run_folder, locked


def test_the_same_run_finds_its_folder_and_never_takes_the_next(tmp_path: Path) -> None:
    first = claim_run_folder(tmp_path, "run", "a" * 64, resume="auto")
    (first.path / "result.json").write_text(json.dumps({"identity": "a" * 64}))
    assert claim_run_folder(tmp_path, "run", "a" * 64, resume="auto") == first
    names = [
        claim_run_folder(tmp_path, "run", "a" * 64, resume="never").path.name for _ in range(2)
    ]
    assert names == ["run-2", "run-3"]


@pytest.mark.parametrize("text", ['{"identity": "b"}', "{", "[]"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    run = claim_run_folder(tmp_path, "run", "a", resume="auto")
    (run.path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"run: is the folder of another config.*resume=never"):
        claim_run_folder(tmp_path, "run", "a", resume="auto")


def test_outputs_below_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"outputs=.*cannot be written"):
        claim_run_folder(tmp_path / "file" / "x", "run", "a", resume="auto")


HOLD = """
import sys
from pathlib import Path
from dr.training.run_folder import locked
with locked(Path(sys.argv[1]), what="fold 0"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_living_process_holds_its_lock_and_a_dead_one_does_not(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "fold-0")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=f"fold 0 is being trained by process {holder.pid} on "),
            locked(tmp_path / "fold-0", what="fold 0", wait_s=0.1),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with locked(tmp_path / "fold-0", what="fold 0"):
        assert holder.returncode != 0


def test_what_a_killed_process_left_half_written_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / ".history.csv.123.tmp").write_text("half")
    (tmp_path / "history.csv").write_text("whole")
    with locked(tmp_path, what="fold 0"):
        names = {path.name for path in tmp_path.iterdir()}
    assert names == {".holder", ".lock", "history.csv"}
