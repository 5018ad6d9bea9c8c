# SPDX-License-Identifier: Apache-2.0
"""The builds of a kernel that an archive holds, and which of them is asked for.

Debian names a build's package after its ABI: `linux-image-6.1.0-50-cloud-amd64` is 6.1.176-1,
`linux-image-7.1.7+deb13-cloud-amd64` is 7.1.7-1~bpo13+1. `linux-image-cloud-amd64` depends on the
newest build of a suite.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from debian.debian_support import Version

_META = re.compile(r"linux-image-(?P<flavour>[a-z][a-z0-9-]*)")
_ABI = r"\d[^-]*(?:-(?:\d|rc)[^-]*)?"

_ROLLING = ("sid", "unstable", "experimental", "rc-buggy")
"""Suites that get their fixes directly."""

_FOLLOWED = ("", "-updates", "-security")
"""The suites from which a released Debian takes its newest kernel."""

_HELD = (*_FOLLOWED, "-backports", "-proposed-updates")

MOST_TOLD = 12
"""How many builds a message lists."""


@dataclass(frozen=True)
class KernelBuild:
    """One build of a kernel, in one suite."""

    package: str
    version: str
    """Debian's: `6.1.176-1`."""
    suite: str
    missing: tuple[str, ...] = ()
    """Packages that it needs and the suite no longer has, such as its modules."""

    @property
    def upstream(self) -> str:
        """The kernel's own version: `6.1.176`, `7.3~rc7`."""
        return self.version.rpartition("-")[0] or self.version

    def is_called(self, wanted: str) -> bool:
        """Whether `wanted` means this build: a kernel's version, a package's, or `uname -r`."""
        return wanted in (self.upstream, self.version, self.package.removeprefix("linux-image-"))


def flavour(package: str) -> str | None:
    """Return the flavour whose newest build a package stands for (`cloud-amd64`); else None."""
    match = _META.fullmatch(package)
    return match["flavour"] if match else None


def is_build(package: str, wanted: str) -> bool:
    """Whether a package is one build of the flavour `wanted`."""
    return re.fullmatch(rf"linux-image-{_ABI}-{re.escape(wanted)}", package) is not None


def followed_suites(suite: str) -> list[str]:
    """List the suites whose newest kernel an image of `suite` boots, `suite` first."""
    return [f"{suite}{side}" for side in (_FOLLOWED if _is_release(suite) else ("",))]


def searched_suites(suite: str) -> list[str]:
    """List the suites that may hold a build which somebody names, `suite` first."""
    return [f"{suite}{side}" for side in (_HELD if _is_release(suite) else ("",))]


def _is_release(suite: str) -> bool:
    return suite not in _ROLLING and not suite.endswith(_HELD[1:])


def parse_madison(text: str, suite: str) -> list[KernelBuild]:
    """Parse what `apt-cache madison` prints in the package root of one suite.

    Its lines are `PACKAGE | VERSION | URI SUITE/COMPONENT ARCHITECTURE Packages`; those of source
    packages end with `Sources`.
    """
    rows = ([field.strip() for field in line.split("|")] for line in text.splitlines())
    return [
        KernelBuild(row[0], row[1], suite)
        for row in rows
        if len(row) == 3 and row[2].endswith(" Packages")
    ]


def missing_parts(text: str) -> dict[str, tuple[str, ...]]:
    """Parse what `apt-cache depends` prints: the packages of the same build that are not there.

    It names those in angle brackets. Of 7.1.7 Debian's index still has `linux-image` and
    `linux-binary`, which are signed, but `linux-modules` only of the newest builds.
    """
    missing: dict[str, tuple[str, ...]] = {}
    package = ""
    for line in text.splitlines():
        if not line.startswith((" ", "|")):
            package = line.strip()
        elif (match := re.fullmatch(r"\s+(?:Pre)?Depends: <(\S+)>", line)) and match[1].endswith(
            package.removeprefix("linux-image")
        ):
            missing[package] = (*missing.get(package, ()), match[1])
    return missing


def newest(builds: Sequence[KernelBuild]) -> KernelBuild | None:
    """Return the build of the highest version, the first of equals; None if there is none."""
    return max(builds, key=lambda build: Version(build.version), default=None)


def newest_called(builds: Iterable[KernelBuild], wanted: str) -> KernelBuild | None:
    """Return the newest of the builds that `wanted` means; None if there is none."""
    return newest([build for build in builds if build.is_called(wanted)])


def oldest_first(builds: Iterable[KernelBuild]) -> list[KernelBuild]:
    """Order builds by version, each version once.

    Of packages of one version, it takes the one that names it: the other stands for the newest
    build of a series (`linux-image-6.12-cloud-amd64`).
    """
    longest = sorted(builds, key=lambda build: len(build.package))
    once = {build.version: build for build in longest}
    return sorted(once.values(), key=lambda build: Version(build.version))


def series_of(suite: str, builds: Sequence[KernelBuild]) -> str:
    """Return the series of the newest kernel of a suite itself, without its backports: `6.12`.

    Of `builds` in other suites alone, that of the newest.
    """
    own = [build for build in builds if build.suite in followed_suites(suite)]
    last = newest(own or builds)
    return _series(last.upstream) if last is not None else ""


def in_series(builds: Iterable[KernelBuild], series: str) -> list[KernelBuild]:
    """List the builds of one series (`6.12`), in their order."""
    return [build for build in builds if _series(build.upstream) == series]


def shortest_name(build: KernelBuild, builds: Iterable[KernelBuild]) -> str:
    """Return the shortest word that means this build and no other version of `builds`."""
    same = {other.version for other in builds if other.is_called(build.upstream)}
    return build.upstream if same == {build.version} else build.version


def nearest_builds(builds: Sequence[KernelBuild], wanted: str) -> list[str]:
    """List the versions to choose from where nothing is called `wanted`, oldest first.

    At most `MOST_TOLD`: those of the same series (6.12 of 6.12.102) if there are any, else the
    newest of each series.
    """
    versions = list(dict.fromkeys(build.upstream for build in oldest_first(builds)))
    series = [version for version in versions if _series(version) == _series(wanted)]
    if not series:
        series = list({_series(version): version for version in versions}.values())
    if len(series) <= MOST_TOLD:
        return series
    after = next((n for n, each in enumerate(series) if _above(each, wanted)), len(series))
    first = min(max(0, after - MOST_TOLD // 2), len(series) - MOST_TOLD)
    return series[first : first + MOST_TOLD]


def _series(version: str) -> str:
    return ".".join(re.findall(r"\d+", version)[:2])


def _above(version: str, wanted: str) -> bool:
    return bool(Version(version) > Version(wanted))
