"""Lives of workers, ended by SIGKILL: a process that has imported everything forks them, so that a life costs no start.

    python tests/kill_harness.py STORE

Reads a line "SECONDS" for each life; answers "killed" when the worker was killed at that age, or "ended CODE" when it
had ended by itself before. Nothing of torch has been used when it forks, as a new process would find it.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from encore_core.runs import worker


def life(store: str, seconds: float) -> str:
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(worker.main(["--store", store, "--device", "cpu", "--idle-seconds", "0", "--save-seconds", "0"]))
        finally:
            os._exit(99)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return f"ended {os.waitstatus_to_exitcode(status)}"
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "killed" if status == -signal.SIGKILL else f"ended {status}"


if __name__ == "__main__":
    for line in sys.stdin:
        print(life(sys.argv[1], float(line)), flush=True)
