"""Ranks: processes that work on one training together, started here or by torchrun."""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, NoReturn, Self

from dr.signals import FirstSignal

LEAVE_S = 30.0
"""How long ranks have to leave by themselves once they were asked to."""
ERROR_S = 1.0
"""How long the other ranks have to report what they know, once one has failed."""

_POLL_S = 0.5
_NOTHING = b""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rank stands: `rank` of `world_size`, `local_rank` of those on this machine.

    The ranks meet at `port` of this machine; None stands for where torchrun says.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    port: int | None = None


def torchrun_place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """This process's place among those that torchrun started; None where it started none."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= environment.keys():
        return None
    rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    return Place(
        rank=rank,
        world_size=world_size,
        local_rank=int(environment.get("LOCAL_RANK", rank)),
        local_world_size=int(environment.get("LOCAL_WORLD_SIZE", world_size)),
    )


def cores_of_rank(local_ranks: int) -> int:
    """The cores that each of `local_ranks` processes on this machine may use, at least 1."""
    from joblib import cpu_count

    return max(1, int(cpu_count()) // local_ranks)


class RankPool:
    """`count` ranks in processes of their own, which live until `close` or until one fails.

    They start with the first `run`. `make`, picklable, is called with each rank's place and
    returns its accelerator. However this process ends, the ranks end with it.
    """

    def __init__(self, make: Callable[[Place], Any], count: int) -> None:
        self.count = count
        self._make = make
        self._ranks: list[_Rank] = []
        self._store: Any = None
        self._at_exit: Finalize | None = None

    def run(self, function: Callable[[Any, Any], Any], data: Any) -> Any:
        """Call `function` with the accelerator of each rank and `data`; the first rank's result.

        `function` is a module's own, `data` plain. While the ranks work, SIGTERM and SIGINT are
        passed on to them (where this is the main thread). A rank's exception is raised here, with
        the rank's traceback as its cause, and ends the others; so does ChildProcessError where a
        rank dies without one. An exception with an `exit_code` says that a rank left as it was
        asked to: the others get `LEAVE_S` seconds to do so as well.
        """
        self._start()
        task = pickle.dumps((function, data))
        try:
            with FirstSignal(self._send) as asked:
                for rank in self._ranks:
                    rank.give(task)
                replies = _gather(self._ranks, asked)
            return _first_value(self._ranks, replies, asked)
        except BaseException:
            self._kill()
            raise

    def close(self) -> None:
        """End the ranks; they may finish nothing."""
        for rank in self._ranks:
            rank.dismiss()
        deadline = time.monotonic() + LEAVE_S
        for rank in self._ranks:
            rank.process.join(max(0.0, deadline - time.monotonic()))
        self._kill()

    def _start(self) -> None:
        if self._ranks:
            return
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        places = [
            Place(
                rank=number,
                world_size=self.count,
                local_rank=number,
                local_world_size=self.count,
                port=self._store.port,
            )
            for number in range(self.count)
        ]
        self._at_exit = Finalize(None, self._kill, exitpriority=100)
        packed = pickle.dumps(self._make)
        for place in places:
            self._ranks.append(_Rank.start(place, packed))

    def _send(self, number: int) -> None:
        for rank in self._ranks:
            if rank.process.exitcode is None and rank.process.pid is not None:
                os.kill(rank.process.pid, number)

    def _kill(self) -> None:
        for rank in self._ranks:
            rank.process.kill()
        for rank in self._ranks:
            rank.process.join()
            rank.connection.close()
        if self._at_exit is not None:
            self._at_exit.cancel()
        self._ranks, self._store, self._at_exit = [], None, None


@dataclass(frozen=True)
class _Reply:
    """What became of a rank's work: its value, or its failure."""

    value: Any = None
    failure: "_Failure | None" = None


@dataclass(frozen=True)
class _Failure:
    """An exception that crosses processes; `error` is None where it cannot be pickled."""

    error: bytes | None
    text: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> Self:
        text = "".join(traceback.format_exception_only(error)).strip()
        return cls(_packed(error), text, "".join(traceback.format_exception(error)))

    def exception(self) -> BaseException:
        """The exception again, the rank's traceback being its cause."""
        known = None if self.error is None else pickle.loads(self.error)
        error = known if isinstance(known, BaseException) else RuntimeError(self.text)
        error.__cause__ = RankTraceback(self.trace)
        return error

    @property
    def is_orderly(self) -> bool:
        """Whether the rank left because it was asked to."""
        error = self.exception()
        return hasattr(error, "exit_code") or isinstance(error, KeyboardInterrupt | SystemExit)


def _packed(error: BaseException) -> bytes | None:
    """`error`, if it comes back from pickling as it was."""
    try:
        packed = pickle.dumps(error)
        again = pickle.loads(packed)
    except Exception:
        return None
    return packed if type(again) is type(error) and str(again) == str(error) else None


class RankTraceback(Exception):
    """Where in a rank an exception came from."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class _Rank:
    """The parent's side of a rank's process."""

    place: Place
    process: BaseProcess
    connection: "Connection[Any, Any]"

    @classmethod
    def start(cls, place: Place, make: bytes) -> Self:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(
            target=_rank_main, args=(there, place, make), name=f"rank {place.rank}"
        )
        with _usual_start_method():
            process.start()
        there.close()
        return cls(place, process, here)

    def give(self, task: bytes) -> None:
        with suppress(OSError):  # of one that died: its end is seen where its reply is awaited
            self.connection.send_bytes(task)

    def dismiss(self) -> None:
        self.give(_NOTHING)

    def reply(self) -> _Reply | None:
        """What the rank sent; None where it ended without a word."""
        try:
            reply: _Reply = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return None
        return reply

    def describe_end(self) -> str:
        who, code = f"rank {self.place.rank} of {self.place.world_size}", self.process.exitcode
        if code is None or code >= 0:
            return f"{who} ended with exit code {code} before its work was done"
        name = signal.Signals(-code).name
        memory = ", as the system does when memory is short" if name == "SIGKILL" else ""
        return f"{who} was killed by {name}{memory}"


@contextmanager
def _usual_start_method() -> Iterator[None]:
    """Hide a start method that a new process would not know, as that of joblib's workers."""
    before = multiprocessing.get_start_method(allow_none=True)
    if before is None or before in multiprocessing.get_all_start_methods():
        yield
        return
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


def _gather(ranks: list[_Rank], asked: FirstSignal) -> dict[int, _Reply | None]:
    """Each rank's reply, in the order they came, None of one that died.

    Ends early, without those of ranks that neither answer nor die, some time after a rank failed
    or a signal came.
    """
    replies: dict[int, _Reply | None] = {}
    deadline: float | None = None
    while len(replies) < len(ranks):
        waiting = {rank.connection: rank for rank in ranks if rank.place.rank not in replies}
        for connection in wait(list(waiting), timeout=_POLL_S):
            rank = waiting[connection]  # type: ignore[index]
            replies[rank.place.rank] = reply = rank.reply()
            if deadline is None and (reply is None or reply.failure is not None):
                orderly = asked.number or (reply and reply.failure and reply.failure.is_orderly)
                deadline = time.monotonic() + (LEAVE_S if orderly else ERROR_S)
        if deadline is None and asked.number:
            deadline = asked.since + LEAVE_S
        if deadline is not None and time.monotonic() > deadline:
            break
    return replies


def _first_value(ranks: list[_Rank], replies: dict[int, _Reply | None], asked: FirstSignal) -> Any:
    """The first rank's value, where every rank has done its work; else raises what ended it.

    A rank's death comes before the others' exceptions, which it may have caused, and an error
    before an orderly leave.
    """
    dead = [rank for rank in ranks if replies.get(rank.place.rank, _Reply()) is None]
    if dead and not asked.number:
        raise ChildProcessError(dead[0].describe_end())
    failures = [reply.failure for reply in replies.values() if reply and reply.failure]
    failures.sort(key=lambda failure: failure.is_orderly)
    if failures:
        raise failures[0].exception()
    if asked.number:
        _end_by_signal(asked, left=len(replies) == len(ranks))
    first = replies[0]
    assert first is not None
    return first.value


def _end_by_signal(asked: FirstSignal, *, left: bool) -> NoReturn:
    if not left:
        name = signal.Signals(asked.number).name
        _log.error("the ranks did not leave within %.0f s of %s and are killed", LEAVE_S, name)
    if asked.number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + asked.number)


def _rank_main(connection: "Connection[Any, Any]", place: Place, make: bytes) -> None:
    """A rank's whole life: work as it comes, until it fails or is dismissed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    _die_with(lambda: bool(wait([parent.sentinel])))
    _settle(place)
    try:
        accelerator = pickle.loads(make)(place)
        for function, data in _tasks(connection):
            value = function(accelerator, data)
            connection.send(_Reply(value if place.rank == 0 else None))
        accelerator.close()
        sys.stdout.flush()
        os._exit(0)  # taking torch apart piece by piece would take seconds
    except BaseException as error:
        sys.stdout.flush()
        connection.send(_Reply(failure=_Failure.of(error)))
        # Sockets stay open until the parent ends this process: other ranks would fail by them.
        for _ in _tasks(connection):
            pass
        os._exit(1)


def _tasks(connection: "Connection[Any, Any]") -> Iterator[tuple[Callable[..., Any], Any]]:
    with suppress(EOFError):
        while (task := connection.recv_bytes()) != _NOTHING:
            yield pickle.loads(task)


def _settle(place: Place) -> None:
    """Set up a process that nobody has: its share of the machine, its logging."""
    os.environ["LOCAL_WORLD_SIZE"] = str(place.local_world_size)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    level = logging.INFO if place.rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)


def die_with_torchrun() -> None:
    """End this process when the torchrun that started it is gone, however that ended."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    parent = os.getppid()

    def is_gone() -> bool:
        time.sleep(_POLL_S)
        return os.getppid() != parent

    _die_with(is_gone)


def _die_with(is_gone: Callable[[], bool]) -> None:
    """End this process at once when `is_gone`, asked again and again, says so."""

    def watch() -> None:
        while not is_gone():
            pass
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
