import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import light_tasks
import pytest

from dr.accel import launching
from dr.accel.launching import Place, RankPool, cores_of_rank, torchrun_place
from dr.signals import SAME_SIGNAL_S
from dr.training.interruption import Interrupted


@pytest.fixture
def pool() -> Iterator[RankPool]:
    pool = RankPool(light_tasks.Light, 2)
    yield pool
    pool.close()
    assert not multiprocessing.active_children()


def arrived(folder: Path, ranks: int = 2) -> list[int]:
    """The ranks' process numbers, once all are at work."""
    paths = [folder / f"{rank}.pid" for rank in range(ranks)]
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [int(path.read_text()) for path in paths]


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def survivors(processes: list[int], *, within_s: float = 30) -> list[int]:
    """Those of `processes` that are still alive after `within_s`; returns once none is."""
    deadline = time.monotonic() + within_s
    while alive := [process for process in processes if is_alive(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return alive


def signal_when_arrived(folder: Path, number: int) -> threading.Thread:
    def send() -> None:
        arrived(folder)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_ranks_are_processes_that_live_from_one_run_to_the_next(pool: RankPool) -> None:
    data = {"plain": b"x" * 10**6}
    process, found = pool.run(light_tasks.here, data)
    assert process != os.getpid()
    assert found == data
    assert pool.run(light_tasks.here, 1) == (process, 1)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_error_of_any_rank_is_raised_with_its_traceback(pool: RankPool, rank: int) -> None:
    with pytest.raises(ValueError) as caught:
        pool.run(light_tasks.fail_on, rank)
    assert str(caught.value) == f"batch_size: rank {rank} has had enough; set less"
    shown = "".join(traceback.format_exception(caught.value))
    assert "in fail_on" in shown
    assert not multiprocessing.active_children()
    assert pool.run(light_tasks.here, 2)[1] == 2


def test_an_error_that_cannot_be_pickled_keeps_its_text(pool: RankPool) -> None:
    with pytest.raises(RuntimeError, match=r"Unpicklable: this and that$"):
        pool.run(light_tasks.fail_unpicklably, None)


def test_a_task_that_cannot_be_pickled_is_an_error_of_the_caller(pool: RankPool) -> None:
    with pytest.raises(Exception, match="pickle"):
        pool.run(lambda light, data: None, None)


@pytest.mark.parametrize(
    ("task", "end"),
    [
        (light_tasks.die_on, "rank 1 of 2 was killed by SIGKILL, as the system does when memory"),
        (light_tasks.exit_on, "rank 1 of 2 ended with exit code 3 before its work was done"),
    ],
)
def test_a_rank_that_dies_is_named_whatever_the_others_say(
    pool: RankPool, task: object, end: str
) -> None:
    with pytest.raises(ChildProcessError, match=end):
        pool.run(task, 1)  # type: ignore[arg-type]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_ranks_which_leave_by_themselves(
    pool: RankPool, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    sender = signal_when_arrived(tmp_path, number)
    with pytest.raises(Interrupted) as caught:
        pool.run(light_tasks.train_until_told, str(tmp_path))
    sender.join()
    assert caught.value.exit_code == 128 + number
    assert (tmp_path / "saved").exists()
    assert signal.getsignal(number) is before
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
@pytest.mark.parametrize("task", [light_tasks.sleep_through, light_tasks.sleep])
def test_ranks_that_know_no_signal_end_as_a_process_would(
    pool: RankPool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: object,
    number: signal.Signals,
    end: type[BaseException],
) -> None:
    monkeypatch.setattr(launching, "LEAVE_S", 1.0)
    sender = signal_when_arrived(tmp_path, number)
    with pytest.raises(end) as caught:
        pool.run(task, str(tmp_path))  # type: ignore[arg-type]
    sender.join()
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 128 + number
    assert not survivors(arrived(tmp_path))


def started(task: str, folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, str(Path(light_tasks.__file__)), task, str(folder)],
        stderr=subprocess.DEVNULL,
    )


def test_ranks_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = started("sleep_through", tmp_path)
    ranks = arrived(tmp_path)
    assert all(is_alive(rank) for rank in ranks)
    parent.kill()
    parent.wait()
    assert not survivors(ranks)


def test_a_second_signal_ends_parent_and_ranks_at_once(tmp_path: Path) -> None:
    parent = started("sleep_through", tmp_path)
    ranks = arrived(tmp_path)
    parent.send_signal(signal.SIGTERM)
    time.sleep(SAME_SIGNAL_S + 0.2)
    assert parent.poll() is None
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(10) == -signal.SIGTERM
    assert not survivors(ranks)


def test_ranks_start_inside_a_worker_of_joblib(tmp_path: Path) -> None:
    from joblib import Parallel, delayed

    found = Parallel(n_jobs=2, backend="loky")(
        delayed(light_tasks.start_and_run)(number) for number in range(2)
    )
    assert [data for _, data in found] == [0, 1]


def test_a_pool_that_was_never_closed_does_not_keep_python_from_ending(tmp_path: Path) -> None:
    code = "import light_tasks as t; p = t.RankPool(t.Light, 2); print(p.run(t.here, 5)[1])"
    folder = Path(light_tasks.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, b"5"), done.stderr.decode()


def test_torchrun_tells_a_process_its_place() -> None:
    told = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "host",
    }
    assert torchrun_place(told) == Place(rank=5, world_size=8, local_rank=1, local_world_size=4)
    assert torchrun_place({}) is None
    assert torchrun_place({"WORLD_SIZE": "8"}) is None


def test_cores_are_divided_and_never_none() -> None:
    assert cores_of_rank(1) >= 1
    assert cores_of_rank(1) // 2 in (cores_of_rank(2), 0)
    assert cores_of_rank(10_000) == 1
