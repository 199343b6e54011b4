"""Several requests to one endpoint at a time: threads that share its pauses, and stop together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from kblam.data.endpoint import ChatClient, Endpoint, Pause, RequestFailedError, StoppedError

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

# Refused requests in a row: the server takes none of this kind.
MOST_REFUSED = 5


@contextmanager
def answers(
    asked: Sequence[Asked],
    ask: Callable[[ChatClient, Asked], Answered],
    endpoint: Endpoint,
    concurrency: int,
) -> Iterator[Iterator[tuple[int, Answered | RequestFailedError]]]:
    """(place, answer) of each thing that is asked, in whatever order; the end of the block stops what is under way.

    In the place of an answer stands the error of a request that fails while others are answered. Where nothing is
    answered between two that fail, or between `MOST_REFUSED` that are refused, or at all, the error is raised.

    Args:
        asked: what `ask` is called with, one by one.
        ask: asks for it, in one of the threads.
        endpoint: where.
        concurrency: requests at a time.

    Raises:
        EncoderError, DataError: the endpoint cannot be used; and whatever `ask` raises, where the answers are read.
    """
    pause, left, lock = Pause(), iter(enumerate(asked)), threading.Lock()
    results: queue.SimpleQueue[tuple[int, Answered | RequestFailedError] | BaseException] = queue.SimpleQueue()
    clients = [ChatClient(endpoint, pause) for _ in range(min(max(1, concurrency), len(asked)))]

    def work(client: ChatClient) -> None:
        try:
            while True:
                with lock:
                    item = next(left, None)
                if item is None:
                    return
                results.put((item[0], _answer(ask, client, item[1])))
        except StoppedError:
            return
        except BaseException as error:  # raised where the answers are read
            results.put(error)

    threads = [threading.Thread(target=work, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()

    def answered() -> Iterator[tuple[int, Answered | RequestFailedError]]:
        # The first may fail by itself, as any other.
        refused, is_fine, is_any = 0, True, False
        for further in range(len(asked) - 1, -1, -1):
            found = results.get()
            if isinstance(found, BaseException):
                raise found
            error = found[1]
            if not isinstance(error, RequestFailedError):
                refused, is_fine, is_any = 0, True, True
            elif error.is_refused:
                refused += 1
                if refused == MOST_REFUSED or not (further or is_any):
                    raise error
            elif is_fine and (further or is_any):
                is_fine = False
            else:
                raise error
            yield found

    try:
        yield answered()
    finally:
        pause.is_stopped.set()
        for client in clients:
            client.close()
        for thread in threads:
            thread.join(timeout=1)


def _answer(
    ask: Callable[[ChatClient, Asked], Answered], client: ChatClient, asked: Asked
) -> Answered | RequestFailedError:
    try:
        return ask(client, asked)
    except RequestFailedError as error:
        return error
