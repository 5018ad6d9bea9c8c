# SPDX-License-Identifier: Apache-2.0
"""What the harness wants of a kernel's configuration, and what it costs otherwise. Pure.

Names are those of Kconfig without CONFIG_. Read at source from 5.10 to 7.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Rank = Literal["needed", "useful", "costly"]


@dataclass(frozen=True)
class Option:
    """One option: `needed` and `useful` ones should be set, `costly` ones should not."""

    name: str
    rank: Rank
    costs: str
    """What is lost while it is otherwise."""

    def is_right(self, config: Mapping[str, str]) -> bool:
        """Whether a configuration has it as it should be."""
        return (config.get(self.name) in ("y", "m")) is (self.rank != "costly")


_NO_INIT = "the guest's init cannot mount it and gives up"
_NO_LOGIN = "the guest cannot be reached over SSH"
_PLUG = "memory cannot be plugged into the guest: the memory-hotplug scenarios do not pass"

OPTIONS = (
    Option("X86_64", "needed", "the guests are x86_64"),
    Option("BLK_DEV_INITRD", "needed", "all of the guest is an initramfs: without it, a panic"),
    Option("RD_GZIP", "needed", "the initramfs is gzipped: without it, a panic"),
    Option("BINFMT_ELF", "needed", "the guest's init does not start"),
    Option("BINFMT_SCRIPT", "needed", "commands in the guest do not start"),
    Option("PRINTK", "needed", "the console is silent: a crash cannot be seen"),
    Option("SERIAL_8250_CONSOLE", "needed", "no console: nobody hears that the guest is ready"),
    Option("UNIX98_PTYS", "needed", _NO_INIT),
    Option("PROC_FS", "needed", _NO_INIT),
    Option("SYSFS", "needed", _NO_INIT),
    Option("DEVTMPFS", "needed", _NO_INIT),
    Option("TMPFS", "needed", _NO_INIT),
    Option("INET", "needed", _NO_LOGIN),
    Option("VIRTIO_PCI", "needed", "the guest sees none of its devices"),
    Option("VIRTIO_MMIO", "needed", "the images load it: microvm has no PCI"),
    Option("VIRTIO_NET", "needed", _NO_LOGIN),
    Option("VIRTIO_BALLOON", "needed", "nobody in the guest reports free pages"),
    Option("PAGE_REPORTING", "needed", "the guest has no free page reporting"),
    Option(
        "PROC_PAGE_MONITOR",
        "needed",
        "no /proc/kpageflags: no page can be told from another, every audit is a MISS",
    ),
    Option("KALLSYMS", "useful", "stacks on the console are bare addresses"),
    Option("MAGIC_SYSRQ", "useful", "a hang is told without the tasks that were blocked"),
    Option("SOFTLOCKUP_DETECTOR", "useful", "a vCPU that is stuck in the kernel is found late"),
    Option("DETECT_HUNG_TASK", "useful", "tasks that hang are not told on the console"),
    Option(
        "TRANSPARENT_HUGEPAGE",
        "useful",
        "freed memory comes back as single pages, which merge late and leave some in between",
    ),
    Option("HUGETLBFS", "useful", "scenarios with a pool of huge pages in the guest do not pass"),
    Option("NUMA", "useful", "the guest has one node whatever the scenario says"),
    Option("MEMORY_HOTPLUG", "useful", _PLUG),
    Option("ACPI_HOTPLUG_MEMORY", "useful", _PLUG),
    Option(
        "MEMORY_HOTREMOVE",
        "useful",
        "the per-CPU lists cannot be drained: the step `drain` is a SKIP",
    ),
    Option("VIRTIO_MEM", "useful", "scenarios with virtio-mem do not pass"),
    Option("SUSPEND", "useful", "scenarios that suspend the guest do not pass"),
    Option(
        "CMDLINE_OVERRIDE",
        "costly",
        "the kernel ignores the harness's command line: no console, no end after a panic",
    ),
    Option(
        "MODULE_SIG_FORCE",
        "costly",
        "modules straight from the tree are not signed and not loaded: build virtio in, or give "
        "--modules with what `make modules_install` made",
    ),
    Option("KASAN", "costly", "some three times slower, and freed memory stays in quarantine"),
    Option("DEBUG_PAGEALLOC", "costly", "each page that is freed or taken costs a flush: slow"),
    Option("PROVE_LOCKING", "costly", "some two times slower; worth it to look for a deadlock"),
    Option("INIT_ON_FREE_DEFAULT_ON", "costly", "freeing writes to every page: churn is slower"),
)


def wrong(config: Mapping[str, str]) -> list[Option]:
    """What is otherwise than it should be, gravest first."""
    return [option for option in OPTIONS if not option.is_right(config)]
