"""
The quick start, done: its commands are read out of the document and run as they stand there.

Three networks, and in two of them machines with a systemd of their own, so that this shows as well
that the units work as systemd starts, reloads, restarts and stops them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Final

from twisted.trial.unittest import TestCase

import relaygate
from relaygate.test.ftpservers import PASSWORD, Offer, PyFTPd
from relaygate.test.machines import Machine
from relaygate.test.netns import Network, missing, require, require_program
from relaygate.test.openssh import Keys
from relaygate.test.programs import Completed, completed, new_folder, pause
from relaygate.test.wheelhouse import fill_for_relaygate

ROOT: Final = Path(relaygate.__file__).parents[1]
DOCUMENT: Final = ROOT / "docs" / "quickstart.md"
CONTAINER: Final = ROOT / "etc" / "Containerfile"
# The addresses that the document has, in the place of those of the test networks.
GATE, NODE, FILES = "192.0.2.10", "10.0.0.5", "10.0.0.22"
ADDRESSES: Final = f"""
ip -n DMZ address add {GATE}/32 dev lo
ip -n PRIVATE address add {NODE}/32 dev lo
ip -n PRIVATE address add {FILES}/32 dev lo
ip -n OUTSIDE route add {GATE}/32 via {Network.dmz_outer_address}
ip -n PRIVATE route add {GATE}/32 via {Network.dmz_inner_address} src {NODE}
ip -n DMZ route add {NODE}/32 via {Network.private_address}
"""
HOSTS: Final = f"{FILES} sftp.private.example ftp.private.example"
# With the package index, as somebody new does it; without, wheels are made of what is installed.
INDEX: Final = os.environ.get("RELAYGATE_SOAK") == "1"
LEAST_COMMANDS, MOST_COMMANDS = 6, 9


def sections(text: str) -> dict[str, list[str]]:
    """The commands of the quick start, by the first words of the paragraph before them."""
    found: dict[str, list[str]] = {}
    text = text.partition("\n## ")[0].replace("\\\n", " ")
    for paragraph, block in re.findall(r"(?m)^(\S.*(?:\n\S.*)*)\n\n((?: {4}.*\n)+)", text):
        words = re.split(r"[,:]", paragraph)[0]
        found[words] = [" ".join(line.split()) for line in block.splitlines()]
    return found


def built_from(text: str) -> list[str]:
    """What a Containerfile takes out of the checkout, which must go where the checkout lies."""
    found: list[str] = []
    for line in re.findall(r"(?m)^COPY ((?!--).+)$", text):
        *names, place = line.split()
        whole = len(names) > 1 or not (ROOT / names[0]).is_dir()
        assert place == ("/src/" if whole else f"/src/{names[0]}"), line
        found += names
    return found


class QuickStartTests(TestCase):
    """From a checkout to files by SFTP and FTPS."""

    timeout = 600

    def setUp(self) -> None:
        require()
        if not DOCUMENT.exists():
            missing("the documents are only in a checkout")
        for program in ("scp", "sftp", "curl", "ssh", "sshd"):
            require_program(program)
        self.network = Network()
        self.addCleanup(self.network.destroy)
        self.network.create()
        for line in ADDRESSES.strip().splitlines():
            self.address(line.split())

    def address(self, words: list[str]) -> None:
        """Run one line of :data:`ADDRESSES`."""
        place = words[2].lower()
        assert place in ("dmz", "private", "outside")
        self.network.run(place, ["ip", *words[3:]])  # type: ignore[arg-type]

    async def test_as_it_is_written(self) -> None:
        """Every command of it does what it says, in its place, and there are fewer than ten."""
        parts = sections(DOCUMENT.read_text())
        own, dmz_lines, node_lines, outside = parts.values()
        self.assertEqual(
            [name.partition(" with ")[0] for name in parts],
            [
                *("On your own machine", "On the DMZ machine", "On the internal machine"),
                "From anywhere outside",
            ],
        )
        commands = [*own, *dmz_lines, *node_lines, *outside]
        self.assertTrue(LEAST_COMMANDS <= len(commands) <= MOST_COMMANDS, commands)

        self.keys = Keys(self)
        dmz = Machine(self, self.network, "dmz", "dmz")
        node = Machine(self, self.network, "private", "node-a")
        ftpd = PyFTPd(self, FILES, 21, Offer(), where=(self.network, "private"))
        for machine in (dmz, node):
            await machine.boot()
            await self.let_in(machine)
        await node.run(
            f"echo '{HOSTS}' >>/etc/hosts; "
            "useradd --create-home --non-unique --uid 0 --password '*' partner"
        )
        await ftpd.ready()
        self.home = self.make_home()

        began = time.monotonic()
        for line in own:
            await self.at_home(line)
        for machine, lines in ((dmz, dmz_lines), (node, node_lines)):
            for line in lines:
                if "doctor" in line:
                    # Both programs have been started; the uplink may take a moment.
                    await self.uplink(node)
                done = await machine.run(line, timeout=300)
        self.assertIn("nothing bad", done.output.decode())
        # What the document advises, and so what a careful reader has done by now.
        await dmz.run("nft -f dmz/firewall.nft")
        await node.run("nft -f node-a/firewall.nft")
        sent = await self.from_outside(outside, ftpd)
        took = time.monotonic() - began
        sys.stdout.write(f"\n{len(commands)} commands, {took / 60:.1f} minutes of the machine's\n")
        stored = await node.run("cat /home/partner/report.csv")
        self.assertEqual(stored.output, sent)
        self.assertEqual((ftpd.root / "report.csv").read_bytes(), sent)
        # Nothing was dialled from the DMZ inwards.
        self.assertEqual(self.network.inbound_attempts(), 0)

        for machine, unit in ((dmz, "relaygate-dmz"), (node, "relaygate-internal")):
            await self.under_systemd(machine, unit)
        await self.as_a_container(dmz)

    # -- the people of it -----------------------------------------------------------------------

    def make_home(self) -> Path:
        """
        Your own machine: a checkout, the keys for both machines, and where pip looks.

        The checkout has no more than a container's image is built from, so that this is enough.
        """
        home = new_folder(self) / "checkout"
        home.mkdir()
        ignore = shutil.ignore_patterns("__pycache__", "dropin.cache", "test")
        for name in built_from(CONTAINER.read_text()):
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, home / name, ignore=ignore)
            else:
                shutil.copy(ROOT / name, home)
        tools = home.with_name("tools")
        tools.mkdir()
        for name in ("ssh", "scp", "sftp"):
            # Whose key it is, and that the host keys are known, which a person says once.
            options = " ".join(f"'{each}'" for each in self.keys.client_options)
            options = options.replace(f"User={self.keys.user}", "LogLevel=ERROR")
            real = require_program(name)
            file = tools / name
            file.write_text(f'#!/bin/sh\nexec {real} {options} -o BatchMode=yes "$@"\n')
            file.chmod(0o755)
        if not INDEX:
            fill_for_relaygate(home.with_name("wheels"))
        return home

    async def at_home(self, line: str, where: str = "private", stdin: str = "") -> Completed:
        """Run *line* in your own shell; it must do its work."""
        folder = self.home.parent
        path = f"{folder / 'tools'}:{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}"
        setting = [f"PATH={path}", "PIP_NO_COMPILE=1", "PIP_DISABLE_PIP_VERSION_CHECK=1"]
        if not INDEX:
            setting += ["PIP_NO_INDEX=1", f"PIP_FIND_LINKS={folder / 'wheels'}"]
        typed = folder / "typed"
        typed.write_text(stdin)
        done = await completed(
            self,
            ["env", "-C", str(self.home), *setting, "sh", "-c", line],
            where=None if INDEX and "pip" in line else (self.network, where),  # type: ignore[arg-type]
            stdin=typed,
            timeout=300,
        )
        self.assertEqual(done.status, 0, f"{line}: {done.output!r} {done.errors}")
        return done

    async def from_outside(self, lines: list[str], ftpd: PyFTPd) -> bytes:
        """What a partner does: the file goes both ways."""
        content = os.urandom(100_000)
        (self.home / "report.csv").write_bytes(content)
        # It was given to the partner beforehand.
        shutil.copy(self.home / "site" / "node-a" / "service-ftps.pem", self.home)
        for line in lines:
            # The password is asked for, and typed.
            known = line.replace("--user partner", f"--user {ftpd.user}:{PASSWORD}")
            await self.at_home(known, "outside", "put report.csv\n")
        return content

    async def let_in(self, machine: Machine) -> None:
        """Administrators, and here partners as well, come to port 22."""
        config = (
            "HostKey /root/host_key\nAuthorizedKeysFile /root/keys\nStrictModes no\nUsePAM no\n"
            "Subsystem sftp internal-sftp\nPidFile none\n"
        )
        host, known = self.keys.host_key.read_text(), self.keys.authorized_keys.read_text()
        await machine.run(
            f"umask 077; mkdir -p /run/sshd; printf '%s' '{config}' >sshd_config; "
            f"echo '{host}' >host_key; echo '{known}' >keys; $(command -v sshd) -f $PWD/sshd_config"
        )

    async def uplink(self, node: Machine) -> None:
        """Wait until the internal node has its DMZ node."""
        for _ in range(100):
            done = await node.run("/opt/relaygate/bin/relaygate status", check=False)
            if re.search(rb"dmz +192\S+ +up", done.output):
                return
            await pause(0.2)
        log = await node.run("journalctl --no-pager -u relaygate-internal")
        self.fail(f"no uplink: {log.output.decode()}")

    # -- what systemd sees ----------------------------------------------------------------------

    async def under_systemd(self, machine: Machine, unit: str) -> None:
        """It runs confined, reloads, comes back when it was killed, and stops well."""
        first = await self.shown(machine, unit)
        self.assertEqual((first["SubState"], first["NRestarts"]), ("running", "0"))
        done = await machine.run(
            f"cat /proc/{first['MainPID']}/status; stat -c %U /proc/{first['MainPID']}"
        )
        text = done.output.decode()
        capability = "0000000000000400" if unit == "relaygate-dmz" else "0000000000000000"
        for words in (f"CapEff:\t{capability}", "NoNewPrivs:\t1", "Seccomp:\t2"):
            self.assertIn(words, text)
        self.assertTrue(text.endswith("relaygate\n"), text)
        await machine.run(f"systemctl reload {unit}")
        await self.journal(machine, unit, "configuration read again")
        self.assertEqual((await self.shown(machine, unit))["MainPID"], first["MainPID"])
        await machine.run(f"systemctl kill --signal=KILL {unit}")
        for _ in range(150):
            again = await self.shown(machine, unit)
            if again["SubState"] == "running" and again["NRestarts"] == "1":
                break
            await pause(0.2)
        else:
            self.fail(f"{unit} did not come back: {again}")
        await machine.run(f"systemctl stop {unit}")
        last = await self.shown(machine, unit)
        self.assertEqual((last["SubState"], last["Result"]), ("dead", "success"))
        await self.journal(machine, unit, "stopping")

    async def as_a_container(self, dmz: Machine) -> None:
        """What etc/Containerfile starts works as its user, without a right, on a read-only root."""
        lines = CONTAINER.read_text().splitlines()
        words = dict(line.split(" ", 1) for line in lines if line[:4] in ("USER", "ENTR", "CMD "))
        user, group = words["USER"].split(":")
        command = " ".join(json.loads(words["ENTRYPOINT"]) + json.loads(words["CMD"]))
        await dmz.run(
            f"cp -r /etc/relaygate /run/c; chown -R {user}:{group} /run/c; chmod 755 /run\n"
            "cat >start <<'EOF'\n"
            "set -e\nmount --bind /run/c /etc/relaygate\nmount -o remount,bind,ro /\n"
            f"cd /etc/relaygate; export PATH=/opt/relaygate/bin:$PATH PYTHONDONTWRITEBYTECODE=1\n"
            f"exec setpriv --reuid={user} --regid={group} --clear-groups --no-new-privs "
            f"--inh-caps=-all --bounding-set=-all {command}\nEOF\n"
            "unshare --mount --propagation=private sh start >/tmp/log 2>&1 & echo $! >/tmp/pid"
        )
        for _ in range(150):
            log = await dmz.run("cat /tmp/log")
            if b"waits for internal nodes" in log.output:
                break
            await pause(0.2)
        else:
            self.fail(log.output.decode())
        status = (await dmz.run("cat /proc/$(cat /tmp/pid)/status")).output.decode()
        for line in (f"Uid:\t{user}", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"):
            self.assertIn(line, status)
        await dmz.run("kill $(cat /tmp/pid)")
        self.assertNotIn(b"Traceback", (await dmz.run("cat /tmp/log")).output)

    async def shown(self, machine: Machine, unit: str) -> dict[str, str]:
        """What systemd says of *unit*."""
        names = "SubState,NRestarts,MainPID,Result"
        done = await machine.run(f"systemctl show --property={names} {unit}")
        return dict(line.split("=", 1) for line in done.output.decode().splitlines())

    async def journal(self, machine: Machine, unit: str, words: str) -> None:
        """Wait until *words* are in the journal."""
        for _ in range(100):
            done = await machine.run(f"journalctl --no-pager -u {unit}")
            if words in done.output.decode():
                return
            await pause(0.1)
        self.fail(f"{unit}: no {words!r} in {done.output.decode()}")
