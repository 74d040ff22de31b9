"""The end of a server: with an open page, without a traceback, leaving no files and having sent nothing elsewhere."""

import contextlib
import os
import signal
import threading
import time


def test_interrupt(served):
    opened = threading.Event()

    def listen() -> None:
        with served.client() as client, client.stream("GET", "/page/gradio_api/heartbeat/abc") as answer:
            opened.set()
            with contextlib.suppress(Exception):  # the server goes
                answer.read()

    threading.Thread(target=listen, daemon=True).start()
    assert opened.wait(60)
    assert len(list(served.folder.iterdir())) == 1  # what is uploaded
    os.kill(served.process.pid, signal.SIGINT)
    assert served.process.wait(60) == 130
    time.sleep(0.2)  # until its last lines are read
    assert served.lines[-1] == "interrupted"
    assert not [line for line in served.lines if "Traceback" in line or "ERROR" in line or "leaves" in line]
    assert list(served.folder.iterdir()) == []
