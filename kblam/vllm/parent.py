"""An engine's process ends with the process that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

# For the engine to end its workers and itself.
_SECONDS = 10.0


def end_with_parent() -> None:
    """Ends this process when the one that started it has gone, however it went. Of a main process nothing happens.

    vLLM leaves that to its front end. One that was killed cannot do it: the engine would keep its memory, of a card
    too, and nobody could reach it any more.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, name="kblam parent", daemon=True).start()
