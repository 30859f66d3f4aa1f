"""Benchmarks of optax_lena: tasks, methods, one training loop, costs and pages."""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130
# Below a progress bar, which hides the cursor.
_BELOW_BAR = b"\x1b[?25h\n"


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    message = b"error: interrupted; what was recorded is kept.\n"
    os.write(2, (_BELOW_BAR if os.isatty(2) else b"") + message)
    os._exit(INTERRUPTED)


# `python -m benchmarks.demo` imports this package first, under this name. An exception
# would end in a traceback where modules are being imported, and be swallowed where JAX
# calls back; records are whole at any moment, so that a program may just end.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, _leave)
