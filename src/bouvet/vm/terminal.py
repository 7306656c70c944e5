"""The machine's serial console on the user's terminal."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import threading
import tty
from collections.abc import Iterator

from bouvet.vm.machine import Machine

LEAVE_KEY = b"\x1d"
"""Control-], which telnet and `virsh console` use as well."""

_CHUNK = 1024


def attach_terminal(machine: Machine, keyboard: int, screen: int) -> None:
    """Connect a machine's console with a terminal until the machine ends, or the user types Control-].

    Args:
        machine: A machine that has been started.
        keyboard: A descriptor to read keys from; a terminal is raw meanwhile, so that Control-C and the
            like go to the guest. At its end the console is only shown.
        screen: A descriptor to write to.
    """
    ended, living = os.pipe()

    def watch() -> None:
        machine.wait()
        os.close(living)

    threading.Thread(target=watch, name="terminal", daemon=True).start()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, ended)
        stack.enter_context(raw_terminal(keyboard))
        stack.callback(machine.mirror_console, None)
        machine.mirror_console(lambda piece: _write(screen, piece))
        _pass_keys(machine, keyboard, ended)


def _pass_keys(machine: Machine, keyboard: int, ended: int) -> None:
    poll = select.poll()
    poll.register(keyboard, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if ended in ready:
            return
        keys = os.read(keyboard, _CHUNK)
        before, leave, _ = keys.partition(LEAVE_KEY)
        machine.type_on_console(before)
        if leave:
            return
        if not keys:
            poll.unregister(keyboard)


@contextlib.contextmanager
def raw_terminal(keyboard: int) -> Iterator[None]:
    """Make a terminal raw for a block, and then as it was; leave other files alone."""
    if not os.isatty(keyboard):
        yield
        return
    before = termios.tcgetattr(keyboard)
    try:
        # Keys that were typed already are kept.
        tty.setraw(keyboard, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _write(descriptor: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]
