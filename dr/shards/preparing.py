"""Photographs of a label source, prepared in threads a few ahead of their use."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from dr.config import PreparationConfig
from dr.fundus.decode import UnreadablePhotograph
from dr.fundus.preparation import PreparedPhotograph, prepare_photograph
from dr.shards.labels import LabelSource


def prepared_photographs(
    source: LabelSource,
    rows: Iterable[int],
    *,
    settings: PreparationConfig,
    image_size: int,
    threads: int,
) -> Iterator[tuple[int, PreparedPhotograph | Exception]]:
    """Each of `rows` with its prepared photograph, or with why it cannot be read, in order."""
    missing = set(source.missing)

    def prepare(row: int) -> PreparedPhotograph | Exception:
        if row in missing:
            return UnreadablePhotograph("there is no such photograph")
        try:
            return prepare_photograph(source.read(row), settings=settings, image_size=image_size)
        except (UnreadablePhotograph, OSError) as error:
            return error

    waiting: deque[tuple[int, Future[PreparedPhotograph | Exception]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for row in rows:
            waiting.append((row, pool.submit(prepare, row)))
            if len(waiting) >= 4 * threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
