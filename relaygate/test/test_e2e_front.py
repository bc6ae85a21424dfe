"""What stands in front of several DMZ nodes, with the files of ``etc/``."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from twisted.trial.unittest import TestCase

import relaygate
from relaygate.test import netns
from relaygate.test.fleet import SERVICE_PORT, Clients, Fleet, TwoDMZNetwork
from relaygate.test.netns import Network
from relaygate.test.peers import dial, eventually, in_thread, listening
from relaygate.test.programs import Program, new_folder, pause

ETC = Path(relaygate.__file__).parents[1] / "etc"


def serves(fleet: Fleet) -> bool:
    """Whether somebody answers at HAProxy's port."""
    try:
        dial(fleet.outside, "127.0.0.1", 7001).close()
    except OSError:
        return False
    return True


class HAProxyTests(TestCase):
    """One HAProxy, two DMZ nodes."""

    timeout = 300

    async def test_nobody_is_refused(self) -> None:
        """
        Through etc/haproxy.cfg no client is refused while one DMZ node drains, is killed, and comes
        back (Lesson 13, Lesson 28).
        """
        program = netns.require_program("haproxy")
        fleet = Fleet(
            self,
            ["node-a", "node-b"],
            2,
            stop=20,
            policy=f'trusted_proxies = ["{Network.outside_address}", "203.0.114.2"]',
            dmz_tables='[status]\nlisten = "0.0.0.0:8181"',
        )
        await fleet.start()
        text = (ETC / "haproxy.cfg").read_text()
        for old, new in (
            ("bind :22", "bind 127.0.0.1:7001"),
            ("192.0.2.10:22", f"{Network.dmz_outer_address}:{SERVICE_PORT}"),
            ("192.0.2.11:22", f"{TwoDMZNetwork.second_outer}:{SERVICE_PORT}"),
            # All clients of a test have one address.
            ("balance source", "balance roundrobin"),
            ("    hash-type consistent\n", ""),
        ):
            self.assertIn(old, text)
            text = text.replace(old, new)
        file = new_folder(self) / "haproxy.cfg"
        file.write_text(text)
        front = Program(self, "haproxy", [program, "-db", "-f", str(file)], where=fleet.outside)
        front.start()
        await eventually(lambda: serves(fleet), "haproxy listens", 60.0)
        clients = Clients(fleet, short=3, long=0, front=("127.0.0.1", 7001))
        clients.start()
        try:
            await self.served(clients, 20)
            first = fleet.dmzs[0]
            first.kill(signal.SIGTERM)
            await first.ended(60)
            await self.served(clients, 20)
            first.start()
            await eventually(
                lambda: ("0.0.0.0", SERVICE_PORT) in listening(first.pid), "it listens", 60.0
            )
            await pause(3.0)
            second = fleet.dmzs[1]
            refused = len(clients.seen.refused)
            second.kill()
            await second.ended()
            await self.served(clients, 40)
        finally:
            await in_thread(clients.stop)
        self.assertEqual(refused, 0, clients.seen.refused)
        # What was on the killed node is lost; a connection that it had not answered yet is so too.
        self.assertLessEqual(len(clients.seen.refused), 3, clients.seen.refused)

    async def served(self, clients: Clients, count: int) -> None:
        """Wait until *count* more clients were served."""
        wanted = clients.seen.served + count
        await eventually(lambda: clients.seen.served >= wanted, "clients come", 60.0)


class KeepalivedTests(TestCase):
    """Two keepalived, one address."""

    timeout = 300

    async def test_address_moves(self) -> None:
        """Through etc/keepalived.conf the address goes to the node that is ready, and back."""
        program = netns.require_program("keepalived")
        netns.require()
        network = Network()
        self.addCleanup(network.destroy)
        network.create()
        folder = new_folder(self)
        ready = {place: folder / f"ready-{place}" for place in ("outside", "dmz")}
        text = (ETC / "keepalived.conf").read_text()
        # The two namespaces at the ends of one wire are the two DMZ nodes here.
        nodes = {"outside": ("dmz", 110), "dmz": ("outside", 100)}
        for place, (interface, priority) in nodes.items():
            own = re.sub(r'script "/usr.*"', f'script "/usr/bin/test -e {ready[place]}"', text)
            own = own.replace("interface eth0", f"interface {interface}")
            own = own.replace("192.0.2.100/24", "203.0.113.100/24")
            own = own.replace("priority 110", f"priority {priority}")
            own = own.replace("enable_script_security", "").replace("nobody", "root")
            (folder / f"{place}.conf").write_text(own)
            ready[place].touch()
            state = folder / place
            argv = [program, "-n", "-l", "-P", "-f", str(folder / f"{place}.conf")]
            argv += ["-p", f"{state}.pid", "-r", f"{state}.vrrp"]
            Program(self, f"keepalived-{place}", argv, where=(network, place)).start()  # type: ignore[arg-type]

        def holders() -> list[str]:
            return [
                place
                for place in nodes
                if "203.0.113.100" in network.run(place, ["ip", "-4", "-o", "address"]).stdout  # type: ignore[arg-type]
            ]

        await eventually(lambda: holders() == ["outside"], "the first has the address", 60.0)
        ready["outside"].unlink()
        await eventually(lambda: holders() == ["dmz"], "the second has it", 60.0)
        ready["outside"].touch()
        await eventually(lambda: holders() == ["outside"], "the first has it again", 60.0)
