# SPDX-License-Identifier: Apache-2.0
"""Write a bundle: the same results and kernels always make the same bytes."""

import gzip
import hashlib
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import yaml

from harness import __version__
from harness.errors import RecordError, UsageError
from harness.record.bundle_manifest import (
    KERNELS,
    MANIFEST,
    RESULTS,
    SCENARIOS,
    BundledFile,
    BundledKernel,
    BundledRun,
    BundleManifest,
    is_member_name,
)
from harness.record.events import Broke, GuestReady
from harness.record.recorded_run import RecordedRun, read_runs
from harness.regular_file import open_regular

_COMPRESSION = 6


def check_target(path: Path) -> None:
    """Raise `UsageError` if no bundle can be made there."""
    if os.path.lexists(path):  # a dangling link, too
        raise UsageError(f"--bundle {path}: it is there already", hint="name a new file")
    if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(
            f"--bundle {path}: no file can be made in that directory",
            hint="name a file in a directory that is there and writable",
        )


def write_bundle(
    target: Path,
    results: Path,
    kernels: Mapping[str, BundledKernel],
    included: Sequence[Path] = (),
    packages: Mapping[str, str] | None = None,
) -> None:
    """Bundle a results directory.

    `kernels` has what each image booted, by its name; `included` are kernels and initramfs to add;
    `packages` the build of each QEMU, by its name. Raises `RecordError`.
    """
    try:
        members, manifest = _collect(results, kernels, included, packages or {})
        _write(target, members, manifest)
    except OSError as error:
        raise RecordError(
            f"cannot write the bundle {target}: {error.strerror} ({error.filename or target})",
            hint=f"free space there, or name another file; the results are whole in {results}",
        ) from error


def _collect(
    results: Path,
    kernels: Mapping[str, BundledKernel],
    included: Sequence[Path],
    packages: Mapping[str, str],
) -> tuple[dict[str, Path | bytes], BundleManifest]:
    """Gather the members by name, and their manifest."""
    members: dict[str, Path | bytes] = {}
    for path in sorted(results.rglob("*")):
        name = f"{RESULTS}/{path.relative_to(results)}"
        # Nothing that is no file of its own: no link leads out of a bundle.
        if stat.S_ISREG(path.lstat().st_mode) and is_member_name(name):
            members[name] = path
    recorded = read_runs(results)
    runs = [_run(each, kernels, packages, members) for each in recorded]
    facts = {path: _facts(path) for path in included}
    members |= {f"{KERNELS}/{each.sha256}": path for path, each in facts.items()}
    files = {name: _facts(source) for name, source in sorted(members.items())}
    manifest = BundleManifest(
        harness=__version__,
        host=recorded[0].started.host if recorded else {},
        kernels=dict(sorted(kernels.items())),
        runs=tuple(runs),
        files=files,
    )
    return members, manifest


def _run(
    each: RecordedRun,
    kernels: Mapping[str, BundledKernel],
    packages: Mapping[str, str],
    members: dict[str, Path | bytes],
) -> BundledRun:
    """Describe a run; adds its scenario to the members."""
    started, judged = each.started, each.judged
    ready = next((event for event in each.events if isinstance(event, GuestReady)), None)
    broke = next((event for event in each.events if isinstance(event, Broke)), None)
    plan = started.plan
    text = yaml.safe_dump(plan.scenario if plan else {}, sort_keys=False, allow_unicode=True)
    content = text.encode()
    member = f"{SCENARIOS}/{started.scenario}.yaml"
    if members.setdefault(member, content) != content:
        member = f"{SCENARIOS}/{each.run_id}/{started.scenario}.yaml"
        members[member] = content
    return BundledRun(
        run=each.run_id,
        scenario=member,
        image=started.image,
        kernel=started.image if started.image in kernels else None,
        qemu=started.qemu,
        qemu_version=started.qemu_version,
        qemu_package=packages.get(started.qemu, ""),
        accel=ready.accel if ready else (plan.accel if plan else "auto"),
        clock=ready.clock if ready else (plan.clock if plan else "real"),
        verdict=judged.verdict if judged else "MISS",
        cause=judged.cause if judged else None,
        reason=judged.reason if judged else (broke.message if broke else ""),
    )


def _facts(source: Path | bytes) -> BundledFile:
    if isinstance(source, bytes):
        return BundledFile(bytes=len(source), sha256=hashlib.sha256(source).hexdigest())
    with open_regular(source) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return BundledFile(bytes=file.tell(), sha256=digest)


def _write(target: Path, members: Mapping[str, Path | bytes], manifest: BundleManifest) -> None:
    """Write the file under another name, and rename it when it is whole."""
    document = manifest.model_dump_json(indent=1, by_alias=True).encode() + b"\n"
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=target.absolute().parent, prefix=f".{target.name}-", delete=False
        ) as file:
            temporary = Path(file.name)
            # Neither a name nor a time in the header of gzip(1).
            with (
                gzip.GzipFile("", "wb", _COMPRESSION, file, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
            ):
                _add(tar, MANIFEST, io.BytesIO(document), len(document))
                for name, facts in manifest.files.items():
                    source = members[name]
                    with (
                        io.BytesIO(source)
                        if isinstance(source, bytes)
                        else open_regular(source) as content
                    ):
                        _add(tar, name, content, facts.bytes)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    """Add a member that tells nothing of its owner, its time or its permissions."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    tar.addfile(member, content)
