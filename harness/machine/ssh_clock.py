# SPDX-License-Identifier: Apache-2.0
"""paramiko's waits by the monotonic clock.

It measures them by `time.time()` (channel.py, buffered_pipe.py, transport.py, auth_handler.py and
packet.py of 3.4 to 4.0), and for nothing else. On a host whose clock is set back by an hour during
a run, a wait of 0.25 s then lasts an hour; set forward, a log-in that goes well is given up.
"""

import time
import types

from paramiko import auth_handler, buffered_pipe, channel, packet, transport

_STEADY = types.SimpleNamespace(time=time.monotonic, sleep=time.sleep)


def use_steady_clock() -> None:
    """Give those modules a `time` that no step of the host's clock changes."""
    for module in (auth_handler, buffered_pipe, channel, packet, transport):
        setattr(module, "time", _STEADY)  # noqa: B010 - not in their type stubs
