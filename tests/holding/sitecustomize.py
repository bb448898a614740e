"""Python runs this when it starts with this folder on PYTHONPATH; see ``killing.Hold``."""

import json
import os
import sys
import time


def hold(name, number, folder):
    """Have the first process that is about to open, or to put in place, a file for the n-th time wait there."""
    seen = 0

    def watch(event, arguments):
        nonlocal seen
        if event not in {"open", "os.rename"}:
            return
        if not str(arguments[event == "os.rename"]).endswith(name):
            return
        seen += 1
        if seen != number:
            return
        try:
            held = os.open(os.path.join(folder, "held"), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return
        os.write(held, str(os.getpid()).encode())
        os.close(held)
        while not os.path.exists(os.path.join(folder, "open")):
            time.sleep(0.01)

    sys.addaudithook(watch)


if "HOLD_AT" in os.environ:
    hold(**json.loads(os.environ["HOLD_AT"]))
