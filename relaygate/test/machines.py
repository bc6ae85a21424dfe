"""
Machines for tests: a systemd of their own, over a copy of this machine's files that only they see.

A :class:`Machine` is a set of namespaces (mounts, processes, host name, cgroups) in a place of a
:class:`relaygate.test.netns.Network`. Its root is an overlay: what it writes lies in memory, and is
gone with it. Its ``/root``, ``/tmp`` and ``/run`` are empty. Of this machine's services none runs
there; what a test installs does, as systemd starts it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.netns import Network, Place, missing, require_program
from relaygate.test.programs import Completed, Program, completed, new_folder, pause

_SYSTEMD: Final = Path("/lib/systemd/systemd")
_BOOT_S: Final = 60.0
# What a service manager starts by itself on real hardware, and a container must not touch.
_NOT_HERE: Final = (
    *("systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-control.socket"),
    *("systemd-udevd-kernel.socket", "systemd-modules-load.service", "systemd-sysctl.service"),
    *("systemd-remount-fs.service", "systemd-random-seed.service", "systemd-update-utmp.service"),
    *("systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "dev-hugepages.mount"),
    *("dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("sys-fs-fuse-connections.mount", "systemd-tmpfiles-setup-dev.service", "getty.target"),
    *("systemd-logind.service", "systemd-networkd.service", "systemd-timesyncd.service"),
)
# $1: a folder to mount in; $2: the interpreter's folder, to be seen as /opt/python; $3: the name;
# $4: units that are not wanted.
_BOOT: Final = """
set -eu
mount -t tmpfs none "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /sys sys
mount -t tmpfs none dev
for each in null zero full random urandom tty; do
    touch "dev/$each"; mount --bind "/dev/$each" "dev/$each"
done
ln -s /proc/self/fd dev/fd
mkdir dev/shm dev/pts
mount -t tmpfs none dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 none dev/pts
ln -s pts/ptmx dev/ptmx
if [ -n "$2" ]; then mkdir -p opt/python; mount --rbind "$2" opt/python; fi
for each in run tmp root; do mount -t tmpfs -o mode=0755 none "$each"; done
chmod 1777 tmp
rm -rf etc/systemd/system/*.wants
: >etc/fstab
echo "$3" >etc/hostname
hostname "$3"
for each in $4; do ln -sf /dev/null "etc/systemd/system/$each"; done
# Not chroot: the kernel gives no user namespaces (PrivateUsers=) to who has changed his root so.
mkdir -p mnt/old
pivot_root . mnt/old
cd /
umount -l /mnt/old
exec env -i container=relaygate PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    /lib/systemd/systemd --unit=basic.target --show-status=0
"""


class Machine:
    """A machine called *name* in *place*; it is switched off when the test *case* is over."""

    def __init__(self, case: TestCase, network: Network, place: Place, name: str) -> None:
        if os.geteuid():
            missing("only root can make a machine of namespaces")
        if not _SYSTEMD.exists():
            missing("there is no systemd on this machine")
        self._case = case
        self._network = network
        self._place = place
        self.name = name
        self._cgroups: list[Path] = []
        base = Path(sys.base_prefix)
        # An interpreter in somebody's home is out of other users' sight.
        self._python = "" if base == Path("/usr") else str(base)
        unshare = require_program("unshare")
        argv = [unshare, "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--cgroup"]
        argv += ["--propagation=private", "sh", "-c", _BOOT, "sh", str(new_folder(case))]
        argv += [self._python, name, " ".join(_NOT_HERE)]
        self._program = Program(case, name, argv, where=(network, place))

    async def boot(self) -> None:
        """Switch it on; raises ``AssertionError`` if systemd does not come up."""
        self._case.addCleanup(self._sweep)
        with _OwnCgroups(self.name) as self._cgroups:
            self._program.start()
        self._case.addCleanup(self._off)
        for _ in range(int(_BOOT_S / 0.2)):
            await pause(0.2)
            done = await self.run("systemctl is-active basic.target", check=False)
            if done.status == 0:
                return
        raise AssertionError(f"{self.name} does not boot: {self._program.log()}")

    def argv(self, command: str) -> list[str]:
        """What runs *command* in its shell as root, in ``/root``."""
        path = ("/opt/python/bin:" if self._python else "") + "/usr/sbin:/usr/bin:/sbin:/bin"
        flags = ["-m", "-p", "-i", "-u", "-C", "-n", "-r", "-w"]
        enter = [require_program("nsenter"), "-t", str(self._first()), *flags]
        clean = ["env", "-i", f"PATH={path}", "HOME=/root", "LC_ALL=C.UTF-8", "PIP_NO_COMPILE=1"]
        return [*enter, *clean, "sh", "-c", f"cd /root; {command}"]

    async def run(self, command: str, *, check: bool = True, timeout: float = 120.0) -> Completed:
        """Have it run *command*; raises ``AssertionError`` if *check* and it fails."""
        done = await completed(self._case, self.argv(command), timeout=timeout)
        if check and done.status:
            log = await self.run("journalctl --no-pager --lines=30", check=False)
            raise AssertionError(
                f"{self.name}: {command}: {done.output!r} {done.errors}\n{log.output.decode()}"
            )
        return done

    def _first(self) -> int:
        """The process, as we number it, that is the machine's first."""
        children = Path(f"/proc/{self._program.pid}/task/{self._program.pid}/children")
        found = children.read_text().split()
        return int(found[0]) if found else self._program.pid

    def _off(self) -> None:
        if self._program.running:
            os.kill(self._first(), signal.SIGKILL)

    def _sweep(self) -> None:
        """Remove the cgroups that systemd has left; the machine is off."""
        end = time.monotonic() + 10.0
        for folder in self._cgroups:
            while folder.exists() and time.monotonic() < end:
                for each in sorted(folder.rglob("*/"), key=lambda path: -len(path.parts)):
                    _remove(each)
                _remove(folder)


def _remove(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        time.sleep(0.01)


class _OwnCgroups:
    """What is started meanwhile begins in cgroups of its own, so that systemd finds empty ones."""

    def __init__(self, name: str) -> None:
        self._name = f"relaygate-{os.getpid()}-{name}"
        self._homes: list[Path] = []
        self._made: list[Path] = []

    def __enter__(self) -> list[Path]:
        for mount, own in _hierarchies():
            folder = mount / own / self._name
            try:
                folder.mkdir()
                self._made.append(folder)
                (folder / "cgroup.procs").write_text(str(os.getpid()))
                self._homes.append(mount / own)
            except OSError:
                continue
        return self._made

    def __exit__(self, *_: object) -> None:
        for home in self._homes:
            (home / "cgroup.procs").write_text(str(os.getpid()))


def _hierarchies() -> Iterator[tuple[Path, str]]:
    """Where systemd's own hierarchies are mounted, and where this process is in each."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, names, own = line.split(":", 2)
        for mount in Path("/proc/self/mounts").read_text().splitlines():
            _, where, kind, options, *_ = mount.split()
            if (number == "0" and kind == "cgroup2") or (
                names == "name=systemd" and names in options.split(",")
            ):
                yield Path(where), own.lstrip("/")
