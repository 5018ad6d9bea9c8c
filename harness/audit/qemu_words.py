# SPDX-License-Identifier: Apache-2.0
"""What a QEMU's command line says about its VM, without I/O.

A command line tells how QEMU was started. What was changed since, only QMP tells.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from harness.units import GIB, KIB, MIB

Balloon = Literal["reporting", "silent", "none"]
"""A balloon that offers free page reporting, one that does not, or no balloon."""

# Ubuntu and Kata have builds like qemu-system-x86_64-spice; NixOS puts a dot before a wrapped one.
_QEMU_NAME = re.compile(r"\.?(?:qemu-system-[\w.-]+|qemu-kvm|kvm)(?: \(deleted\))?")
_LOADER_NAME = re.compile(r"ld-linux[\w.-]*|ld-\d[\w.-]*")
_SIZE = re.compile(r"(\d{1,18})([bkmgtBKMGT]?)")
_UNITS = {"b": 1, "k": KIB, "m": MIB, "g": GIB, "t": KIB * GIB}
_ON = ("on", "true", "yes", "y", True)


@dataclass(frozen=True)
class QemuWords:
    """A VM as its QEMU's command line describes it."""

    name: str
    """Empty if it has none."""
    memory: int | None
    """Bytes at its start; None if the command line does not say."""
    balloon: Balloon
    sockets: tuple[str, ...]
    """Paths of the QMP sockets on which it listens; relative ones lead from its directory."""
    agents: tuple[str, ...]
    """Paths of the sockets on which it listens for clients of the guest agent."""
    domain: str
    """Its name in libvirt, if libvirt started it; else empty."""


def is_qemu(program: str, words: Sequence[str]) -> bool:
    """Tell whether a process is a QEMU system emulator.

    `program`: path of its executable file; empty if it may not be read. `words`: its command line,
    which counts only then, and for a QEMU that a dynamic loader of its own runs.
    """
    name = PurePosixPath(program).name
    if _QEMU_NAME.fullmatch(name):
        return True
    if name and not _LOADER_NAME.fullmatch(name):
        return False
    return any(_QEMU_NAME.fullmatch(PurePosixPath(word).name) for word in words[: 8 if name else 1])


def read_words(words: Sequence[str]) -> QemuWords:
    """Read a QEMU's command line."""
    options = list(_options(words))
    name = _name(options)
    return QemuWords(
        name=name,
        memory=_memory(options),
        balloon=_balloon(options),
        sockets=tuple(dict.fromkeys(_sockets(options))),
        agents=tuple(_agents(options)),
        domain=name if _is_libvirt(options) else "",
    )


Option = tuple[str, str]


def _options(words: Sequence[str]) -> Iterator[Option]:
    """Pair each option, without its dashes, with the word after it."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("-") and len(word) > 1:
            yield word.lstrip("-"), following


def _properties(text: str, first: str) -> Mapping[str, object]:
    """Parse the value of an option, keyval or JSON; `first` names a first word without a key.

    A doubled comma stands for a comma (util/keyval.c).
    """
    if text.startswith("{"):
        try:
            read = json.loads(text)
        except ValueError:
            return {}
        return read if isinstance(read, dict) else {}
    found: dict[str, object] = {}
    for number, part in enumerate(text.replace(",,", "\0").split(",")):
        key, sign, value = part.replace("\0", ",").partition("=")
        if sign:
            found[key] = value
        elif number == 0:
            found[first] = key
        else:
            found[key] = "on"
    return found


def _name(options: Sequence[Option]) -> str:
    for option, value in options:
        if option == "name":
            return str(_properties(value, "guest").get("guest", ""))
    return ""


def _memory(options: Sequence[Option]) -> int | None:
    for option, value in options:
        if option == "m":
            match = _SIZE.fullmatch(str(_properties(value, "size").get("size", "")))
            # A bare number counts MiB (qemu-options.hx).
            return int(match[1]) * _UNITS[match[2].lower() or "m"] if match else None
    return None


def _balloon(options: Sequence[Option]) -> Balloon:
    found: Balloon = "none"
    for option, value in options:
        if option != "device":
            continue
        device = _properties(value, "driver")
        if str(device.get("driver", "")).startswith("virtio-balloon"):
            if device.get("free-page-reporting") in _ON:
                return "reporting"
            found = "silent"
    return found


def _listening(options: Sequence[Option]) -> dict[str, str]:
    """Find the paths of listening sockets by the id of their -chardev."""
    found: dict[str, str] = {}
    for option, value in options:
        if option == "chardev":
            device = _properties(value, "backend")
            backend = device.get("backend", device.get("type"))
            if backend == "socket" and _listens(device) and "path" in device:
                found[str(device.get("id", ""))] = str(device["path"])
    return found


def _agents(options: Sequence[Option]) -> Iterator[str]:
    """Yield the path of the socket behind the guest agent's port."""
    listening = _listening(options)
    for option, value in options:
        device = _properties(value, "driver") if option == "device" else {}
        chardev = str(device.get("chardev", ""))
        if device.get("name") == "org.qemu.guest_agent.0" and chardev in listening:
            yield listening[chardev]


def _sockets(options: Sequence[Option]) -> Iterator[str]:
    """Yield the paths of listening QMP sockets: -qmp, or a monitor on a -chardev."""
    listening = _listening(options)
    for option, value in options:
        if option in ("qmp", "qmp-pretty") and value.startswith("unix:"):
            socket = _properties(value.removeprefix("unix:"), "path")
            # With `fd`, the path is known to whoever made the socket.
            if _listens(socket) and "path" in socket:
                yield str(socket["path"])
        elif option in ("mon", "object"):
            monitor = _properties(value, "chardev" if option == "mon" else "qom-type")
            control = monitor.get("mode") == "control" or monitor.get("qom-type") == "monitor-qmp"
            if control and monitor.get("chardev") in listening:
                yield listening[str(monitor["chardev"])]


def _listens(socket: Mapping[str, object]) -> bool:
    return socket.get("server") in _ON


def _is_libvirt(options: Sequence[Option]) -> bool:
    """libvirt calls its monitor's chardev so (qemuBuildMonitorCommandLine(), qemu_command.c)."""
    return any(
        option == "chardev" and _properties(value, "backend").get("id") == "charmonitor"
        for option, value in options
    )
