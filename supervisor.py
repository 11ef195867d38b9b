"""Supervision of one child process: it is restarted when it dies, and stopped with its parent."""

import logging
import subprocess
import threading
import time
from collections.abc import Sequence

STOP_LIMIT_S = 20.0
FIRST_RESTART_DELAY_S = 1.0
MAX_RESTART_DELAY_S = 60.0
POLL_S = 0.2

logger = logging.getLogger("metscope.supervisor")


class Supervisor:
    """A thread that keeps ``program`` running, which must end when its standard input is closed."""

    def __init__(self, program: Sequence[str]) -> None:
        self._program = program
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the child; return when it has ended, by itself or killed after STOP_LIMIT_S."""
        self._stopping.set()
        self._thread.join()

    def _keep(self) -> None:
        delay_s = FIRST_RESTART_DELAY_S
        while not self._stopping.is_set():
            started = time.monotonic()
            status = self._run()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > MAX_RESTART_DELAY_S:
                delay_s = FIRST_RESTART_DELAY_S
            logger.error("the child process ended with status %d; restart in %.0f s", status, delay_s)
            self._stopping.wait(delay_s)
            delay_s = min(2.0 * delay_s, MAX_RESTART_DELAY_S)

    def _run(self) -> int:
        # A session of its own, so that Ctrl-C reaches only the parent. The pipe closes even if the parent
        # is killed, and then the child ends too.
        with subprocess.Popen(self._program, stdin=subprocess.PIPE, start_new_session=True) as process:
            while process.poll() is None and not self._stopping.wait(POLL_S):
                pass
            if process.stdin is not None:
                process.stdin.close()
            try:
                return process.wait(timeout=STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()
