"""One thread per test process: tests run side by side, and results do not depend on the machine's cores."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
