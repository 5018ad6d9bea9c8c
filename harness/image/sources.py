# SPDX-License-Identifier: Apache-2.0
"""Gets an image's kernel, modules and userland, from packages or from paths given by the user."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from harness.errors import ImageError, PreconditionError
from harness.image.archive import AptRoot, Package, run_tool
from harness.image.build_tree import read_config, tree_of
from harness.image.cache import cache_directory, check_own, exclusive
from harness.image.definition import ImageDefinition
from harness.image.kernel import find_kernel, kernel_release
from harness.image.kernel_builds import (
    KernelBuild,
    flavour,
    followed_suites,
    nearest_builds,
    newest,
    newest_called,
    searched_suites,
)
from harness.image.kernel_options import wrong
from harness.image.modules import ModuleTree, find_module_tree, tree_beside

T = TypeVar("T")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Kernel:
    """A bzImage and what is known about its modules."""

    path: Path
    release: str
    """`uname -r`."""
    modules: ModuleTree | None
    """None if nothing is known; then what the guest needs must be built in."""
    packages: tuple[Package, ...] = ()
    build: KernelBuild | None = None
    """The build that it is, if it comes from the archive."""


def given_kernel(kernel: Path, modules: Path | None) -> Kernel:
    """Find the kernel of `--kernel`, with the modules of `--modules` or those found next to it.

    Raises `ImageError` for anything but a complete bzImage with its own modules, and for a tree
    whose configuration lacks an option that every guest needs.
    """
    path = find_kernel(kernel)
    release = kernel_release(path)
    if (built_in := tree_of(path)) is not None:
        _check_options(built_in)
    if modules is not None:
        tree: ModuleTree | None = ModuleTree.read(find_module_tree(modules, release))
    else:
        tree = tree_beside(path, release)
    return Kernel(path, release, tree)


def _check_options(tree: Path) -> None:
    config = read_config(tree)
    missing = [option for option in wrong(config) if option.rank == "needed"] if config else []
    if missing:
        raise ImageError(
            f"the kernel of {tree} was configured without "
            + "; without ".join(f"{option.name} ({option.costs})" for option in missing),
            hint=f"`fpr-harness kernel check {tree}` has all that it lacks, and how to change it",
        )


class Suites:
    """Packages of Debian's suites, each through a private apt root in the cache."""

    def __init__(self, refresh: bool, progress: Progress) -> None:
        """`refresh`: look for newer packages; otherwise use the cached lists while they work."""
        self._refresh = refresh
        self._progress = progress
        self._updated: set[str] = set()
        self._absent: dict[str, PreconditionError] = {}

    def renew(self) -> bool:
        """Look for newer packages from here on; False if that was done for all suites so far."""
        renewed, self._refresh = self._refresh, True
        return not renewed

    def served(self, suites: Sequence[str]) -> list[str]:
        """Leave out the suites that the archive was found not to serve."""
        return [suite for suite in suites if suite not in self._absent]

    def unpack(
        self, suite: str, choose: Callable[[AptRoot], Sequence[str]], unpacked: Path
    ) -> tuple[Package, ...]:
        """Unpack packages into a new directory. Raises `ImageError`, `PreconditionError`."""
        found = self.with_root(suite, lambda root: root.download(choose(root)))
        unpacked.mkdir(parents=True)
        for _package, path in found:
            try:
                run_tool(["dpkg-deb", "-x", str(path), str(unpacked)])
            except ImageError as error:
                raise ImageError(
                    f"cannot unpack the package {path}: {error.message}", hint=error.hint
                ) from error
        return tuple(package for package, _path in found)

    def with_root(self, suite: str, use: Callable[[AptRoot], list[T]]) -> list[T]:
        """Call `use` with the cached lists; if they are missing or it fails, with new ones."""
        directory = cache_directory() / "apt" / suite
        check_own(directory)
        with exclusive(directory / ".lock", f"the package root of {suite}"):
            root = AptRoot(directory, suite, self._progress)
            if suite in self._updated or (root.is_ready and not self._refresh):
                try:
                    return use(root)
                except ImageError as error:
                    self._progress(
                        f"the cached package lists of {suite} do not work, fetching new ones "
                        f"({error.message})"
                    )
            if suite in self._absent:
                raise self._absent[suite]
            try:
                root.update()
            except PreconditionError as error:
                self._absent[suite] = error
                raise
            self._updated.add(suite)
            return use(root)


class Archive:
    """The packages of one image's definition."""

    def __init__(self, definition: ImageDefinition, refresh: bool, progress: Progress) -> None:
        self._definition = definition
        self._progress = progress
        self._suites = Suites(refresh, progress)

    def userland(self, unpacked: Path) -> tuple[Package, ...]:
        """Unpack the userland and its libraries into a directory."""
        source = self._definition.userland
        return self._suites.unpack(
            source.suite, lambda root: root.closure(source.packages), unpacked
        )

    def programs(self, names: Sequence[str], unpacked: Path) -> None:
        """Unpack packages, each into a directory of its name, next to all their dependencies."""
        suite = self._definition.userland.suite
        self._suites.unpack(suite, lambda root: root.closure(names), unpacked)
        for name in names:
            self._suites.unpack(suite, partial(_only, name), unpacked / name)

    def kernel(self, unpacked: Path) -> Kernel:
        """Unpack the kernel into a directory, including the split packages of 7.x."""
        return self._unpack(self.choose(), unpacked)

    def choose(self) -> KernelBuild:
        """Find the build that the definition asks for. Raises as `builds` does."""
        version = self._definition.kernel.version
        return self._newest() if version is None else self._called(version)

    def builds(self) -> list[KernelBuild]:
        """List the builds that `--image NAME=VERSION` can take, with those of side suites.

        Raises `ImageError`, also if the archive does not serve the suite.
        """
        source = self._definition.kernel
        try:
            return self._of_suites(
                searched_suites(source.suite), lambda root: root.kernel_builds(source.package)
            )
        except PreconditionError as error:
            raise ImageError(error.message, hint=error.hint) from error

    def completed(self, kernel: Kernel, unpacked: Path) -> Kernel:
        """Add the image's own modules to a given kernel that lacks some, if it is Debian's build.

        Packages are fetched only if the name of one contains the release.
        """
        tree = kernel.modules
        if tree is not None and not tree.lacks(self._definition.modules):
            return kernel
        kind = flavour(self._definition.kernel.package)
        if kind is None or kernel.release.endswith(f"-{kind}"):
            build = newest_called(self.builds(), kernel.release)
            if build is not None:
                own = self._unpack(build, unpacked)
                self._progress(f"using the modules of {kernel.release} from {build.package}")
                return replace(kernel, modules=own.modules, packages=own.packages)
        if tree is None:
            self._progress(
                f"there is no list of built-in modules next to {kernel.path}; the guest starts "
                f"only if {', '.join(self._definition.modules)} are built in (or add --modules)"
            )
        return kernel

    def _newest(self) -> KernelBuild:
        """Find the newest kernel of the suite and of its updates."""
        source = self._definition.kernel
        found = newest(
            self._of_suites(
                followed_suites(source.suite), lambda root: root.versions(source.package)
            )
        )
        if found is None:
            raise ImageError(
                f"{source.suite} has no package {source.package}",
                hint="check `kernel` in the image definition",
            )
        return found

    def _called(self, version: str) -> KernelBuild:
        """Find a build by its version, in new lists if the cached ones do not have it."""
        source = self._definition.kernel
        found = newest_called(self.builds(), version)
        if (found is None or found.missing) and self._suites.renew():
            found = newest_called(self.builds(), version)
        if found is not None and not found.missing:
            self._progress(f"{version} is {found.package} {found.version} of {found.suite}")
            return found
        if found is not None:
            seen = (
                f"the archive still has {found.package} of {found.suite}, but no longer "
                f"{' and '.join(found.missing)}, which a guest needs"
            )
        else:
            searched = self._suites.served(searched_suites(source.suite))
            seen = (
                f"the archive holds no build {version} of {source.package} in {', '.join(searched)}"
            )
        near = nearest_builds([build for build in self.builds() if not build.missing], version)
        raise ImageError(
            f"{seen}; it has {', '.join(near) or 'no build at all'}",
            hint="`fpr-harness image list --builds --image "
            f"{self._definition.name.partition('=')[0]}` lists all of them",
        )

    def _of_suites(
        self, suites: Sequence[str], use: Callable[[AptRoot], list[KernelBuild]]
    ) -> list[KernelBuild]:
        """Gather from a suite and its side suites; only the first must be served."""
        found = self._suites.with_root(suites[0], use)
        for suite in self._suites.served(suites[1:]):
            try:
                found += self._suites.with_root(suite, use)
            except PreconditionError as error:
                self._progress(f"going on without {suite}: {error.message}")
        return found

    def _unpack(self, build: KernelBuild, unpacked: Path) -> Kernel:
        packages = self._suites.unpack(build.suite, partial(_kernel_packages, build), unpacked)
        found = [*unpacked.glob("boot/vmlinuz-*"), *unpacked.glob("usr/lib/modules/*/vmlinuz")]
        if len(found) != 1:
            raise ImageError(
                f"{build.package} of {build.suite} and its dependencies contain {len(found)} "
                "kernels instead of one",
                hint="under `kernel` in the image definition, name a package with one kernel",
            )
        release = kernel_release(found[0])
        tree = ModuleTree.read(find_module_tree(unpacked, release))
        return Kernel(found[0], release, tree, packages, build)


def _kernel_packages(build: KernelBuild, root: AptRoot) -> list[str]:
    """List the packages of a build, without the empty one that stands for the newest: an archive
    that is being wound up may list it and no longer have it (5.10.262-1 of bullseye-security)."""
    names = [name for name in root.closure([build.package]) if name.startswith("linux-")]
    return [name for name in names if flavour(name) is None] or names


def _only(name: str, _root: AptRoot) -> list[str]:
    return [name]
