"""What holds for all tests."""

import os

# Before torch is imported, here and in every process that a test starts: one thread is faster for
# small molecules, and sums are then the same every time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
