# SPDX-License-Identifier: Apache-2.0
"""Find a QEMU and probe it, in a process without a guest, before it runs one.

A probe takes about 0.1 s; for a binary, the result is cached until the file changes.
"""

import contextlib
import dataclasses
import hashlib
import os
import shutil
import threading
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.errors import LaunchError
from harness.file_kind import why_not
from harness.image.cache import another_users, cache_directory
from harness.machine import qemu_ask
from harness.machine.qemu import DISCARD_EVENTS, Qemu, lacking
from harness.machine.qemu_ask import HINT, Answers, check_elf, is_elf
from harness.machine.qemu_user import wanted_user
from harness.machine.user_trial import trouble_as

_probing = threading.Lock()


def find_qemu(given: Path | None) -> Qemu:
    """Find and probe the QEMU to use; None stands for the installed one.

    Raises `LaunchError` that lists everything it lacks to run the harness's guests, or says why
    it cannot run as the user that `FPR_QEMU_USER` names; `UsageError` if there is no such user.
    """
    qemu = probe(_program(given))
    if lacks := lacking(qemu):
        raise LaunchError(
            f"QEMU {qemu.version} ({qemu.path}) cannot be used: {'; '.join(lacks)}", hint=HINT
        )
    return _with_user(qemu)


def _with_user(qemu: Qemu) -> Qemu:
    """Choose whom it runs as; not kept in the cache, since it depends on this process's rights."""
    user = wanted_user()
    if isinstance(user, str):
        return dataclasses.replace(qemu, as_root=user)
    trouble = trouble_as(user, qemu.path)
    return (
        dataclasses.replace(qemu, as_root=user.refused(trouble))
        if trouble
        else dataclasses.replace(qemu, user=user)
    )


def _program(given: Path | None) -> Path:
    name = str(given) if given is not None else "qemu-system-x86_64"
    path = shutil.which(name)
    if path is not None and Path(path).is_file():
        return Path(path)
    raise LaunchError(
        _why_not(Path(path or name)),
        hint=HINT if given is not None else "run `make setup`, or choose a QEMU with --qemu",
    )


def _why_not(path: Path) -> str:
    """Say why a path is not a program that can be run."""
    if os.path.isfile(path):  # noqa: PTH113 - Path.is_file() raises where nothing can be seen
        return f"{path} is not executable by you (chmod +x)"
    return f"{path}: {why_not(path, 'a program', 'no such file')}"


def probe(path: Path) -> Qemu:
    """Ask a program about itself. Raises `LaunchError` if it is not QEMU."""
    check_elf(path)
    # A script is not cached, since the QEMU that it starts may change.
    kept = _shelf(path) if is_elf(path) or _is_ours(path) else None
    with _probing:
        if kept is not None and (known := _read(kept, path)) is not None:
            return known
        found = _understood(path, qemu_ask.ask(path))
        if kept is not None:
            _keep(kept, found)
        return found


# --- interpreting the answers -------------------------------------------------------------------


def _understood(path: Path, answers: Answers) -> Qemu:
    found = answers.by_name
    try:
        number = found["version"]["qemu"]
        machines = [word for m in found["machines"] for word in (m["name"], m.get("alias")) if word]
        event, why = _discard_event(found, answers.traced)
        return Qemu(
            path=path,
            version=".".join(str(int(number[part])) for part in ("major", "minor", "micro")),
            package=str(found["version"].get("package", "")),
            architecture=str(found["target"]["arch"]),
            machines=frozenset(map(str, machines)),
            balloon=frozenset(str(p["name"]) for p in found.get("balloon", ())),
            user_network="user-network" in found,
            sandbox=_sandbox(found.get("sandbox")),
            kvm=bool(found.get("kvm", {}).get("present")),
            discard_event=event,
            untraced=why,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LaunchError(
            f"{path} speaks QMP, but does not answer as QEMU does: {error!r}", hint=HINT
        ) from error


def _sandbox(option: Any) -> frozenset[str]:
    """The settings of `-sandbox`, beside the one that turns it on."""
    parameters = {str(p["name"]) for o in option or () for p in o["parameters"]}
    return frozenset(parameters - {"enable"})


def _discard_event(found: dict[str, Any], traced: bool) -> tuple[str | None, str]:
    """Return the trace event of discards and "", or None and why there is none."""
    if "trace" not in found or not traced:
        return None, "it was built without the trace backend `log`"
    there = {e["name"] for e in found.get("events", ()) if e.get("state") != "unavailable"}
    for name in DISCARD_EVENTS:
        if name in there:
            return name, ""
    return None, f"it has no trace event {' or '.join(DISCARD_EVENTS)}"


# --- the cache ----------------------------------------------------------------------------------

_FACTS = TypeAdapter(Qemu)


def _is_ours(path: Path) -> bool:
    """Whether it is a build in the cache, whose script does not change without its QEMU."""
    return path.resolve().is_relative_to(cache_directory().resolve())


def _shelf(path: Path) -> Path | None:
    """Return the cache file for this program, named by its path, size, inode and times."""
    try:
        state = path.stat()
    except OSError:
        return None
    words = (path.resolve(), state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)
    hashed = hashlib.sha256(repr(words).encode())
    for module in (__file__, qemu_ask.__file__):
        hashed.update(Path(module).read_bytes())
    shelf = cache_directory() / "probes"
    if another_users(shelf):
        return None
    return shelf / f"{hashed.hexdigest()[:24]}.json"


def _read(kept: Path, path: Path) -> Qemu | None:
    try:
        return dataclasses.replace(_FACTS.validate_json(kept.read_bytes()), path=path)
    except (OSError, ValidationError):
        return None


def _keep(kept: Path, found: Qemu) -> None:
    """Store the result; a cache that cannot be written only costs time later."""
    temporary = kept.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_FACTS.dump_json(found))
        temporary.replace(kept)
