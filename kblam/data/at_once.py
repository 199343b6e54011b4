"""Several requests to one endpoint at a time: threads that share its pauses, and stop together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from kblam.data.endpoint import ChatClient, Endpoint, Pause, StoppedError

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


@contextmanager
def answers(
    asked: Sequence[Asked],
    ask: Callable[[ChatClient, Asked], Answered],
    endpoint: Endpoint,
    concurrency: int,
) -> Iterator[Iterator[tuple[int, Answered]]]:
    """(place, answer) of each thing that is asked, in whatever order; the end of the block stops what is under way.

    Args:
        asked: what `ask` is called with, one by one.
        ask: asks for it, in one of the threads.
        endpoint: where.
        concurrency: requests at a time.

    Raises:
        EncoderError, DataError: the endpoint cannot be used; and whatever `ask` raises, where the answers are read.
    """
    pause, left, lock = Pause(), iter(enumerate(asked)), threading.Lock()
    results: queue.SimpleQueue[tuple[int, Answered] | BaseException] = queue.SimpleQueue()
    clients = [ChatClient(endpoint, pause) for _ in range(min(max(1, concurrency), len(asked)))]

    def work(client: ChatClient) -> None:
        try:
            while True:
                with lock:
                    item = next(left, None)
                if item is None:
                    return
                results.put((item[0], ask(client, item[1])))
        except StoppedError:
            return
        except BaseException as error:  # raised where the answers are read
            results.put(error)

    threads = [threading.Thread(target=work, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()

    def answered() -> Iterator[tuple[int, Answered]]:
        for _ in asked:
            found = results.get()
            if isinstance(found, BaseException):
                raise found
            yield found

    try:
        yield answered()
    finally:
        pause.is_stopped.set()
        for client in clients:
            client.close()
        for thread in threads:
            thread.join(timeout=1)
