"""What holds for every test, whoever starts them."""

from __future__ import annotations

import signal

# A shell that starts a command in the background has it ignore SIGINT, and so would every program that a test starts
# and then interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
