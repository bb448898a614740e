"""What holds for all tests."""

import os
import signal

# Before torch is imported, here and in every process that a test starts: one thread is faster for
# small molecules, and sums are then the same every time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell without job control ignores the interrupt in what it starts in the background, and children
# inherit that: the tests that press Ctrl-C would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
