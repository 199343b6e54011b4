"""An engine whose server is killed does not stay behind; no vLLM is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SERVER = """
import multiprocessing, time
from kblam.vllm.parent import end_with_parent

def engine(told):
    end_with_parent()
    {meets_its_signal}
    told.send(multiprocessing.current_process().pid)
    time.sleep(60)

if __name__ == "__main__":
    here, there = multiprocessing.Pipe()
    multiprocessing.get_context("fork").Process(target=engine, args=(there,)).start()
    print(here.recv(), flush=True)
    end_with_parent()  # of a main process: nothing
    time.sleep(60)
"""
DEAF = "import kblam.vllm.parent as p, signal; p._SECONDS = 0.2; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    told = Path(f"/proc/{process}/stat").read_text(encoding="ascii")  # nobody may have buried it
    return told.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("meets_its_signal", ["pass", DEAF], ids=["by its signal", "without"])
def test_an_engine_ends_when_its_server_is_killed(meets_its_signal: str) -> None:
    code = SERVER.format(meets_its_signal=meets_its_signal)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        engine = int(server.stdout.readline())
        assert is_alive(engine)
        server.send_signal(signal.SIGKILL)
        end = time.monotonic() + 20
        while is_alive(engine) and time.monotonic() < end:
            time.sleep(0.05)
        alive = is_alive(engine)
        if alive:
            os.kill(engine, signal.SIGKILL)
        assert not alive
