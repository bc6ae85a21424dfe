"""Tests of entries that change while the node runs, and of draining."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

from relaygate.addresses import HostPort
from relaygate.config.forward import ForwardConfig, ForwardFTPConfig, UserConfig
from relaygate.identity import IdentityError
from relaygate.test.farend import until
from relaygate.test.forwardnodes import INSIDE, PARTNER, SPAN, Partner, rules
from relaygate.test.ftppeers import Line
from relaygate.test.ports import free_port
from relaygate.test.programs import new_folder
from relaygate.test.test_forward_socks import HELLO, request
from relaygate.test.test_forward_steering import SteeringCase


class ReloadCase(SteeringCase):
    """Ways out, whose entries change."""

    def use(self, *entries: ForwardConfig, **more: Any) -> list[str]:
        """Reload with *entries*."""
        return self.node.reload(replace(self.node._config, forwards=entries, **more))

    def sockets(self) -> dict[str, int]:
        """The listening sockets of entries, and which object each is."""
        return {str(at): id(port) for at, port in self.node.forwards._ports.items()}

    async def answered(self, entry: ForwardConfig, partner: Partner, code: int) -> Line:
        """A program's request to *entry* that is answered with *code*."""
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, partner.port))
        await program.has(4)
        self.assertEqual(program.received[:4], bytes((5, 0, 5, code)))
        return program

    async def refuses(self, entry: ForwardConfig) -> None:
        """Wait until nobody listens for *entry*."""

        def refused() -> bool:
            try:
                self.program(entry).close()
            except ConnectionRefusedError:
                return True
            return False

        await until(refused, "a closed port")

    async def goes_on(self, program: Line, far: Line) -> None:
        """Show that a session runs."""
        had = far.count
        program.send(b"and on")
        await far.has(had + 6)


class ReloadTests(ReloadCase):
    """The difference between two files, in entries (Lesson 14)."""

    async def test_coming_and_going(self) -> None:
        """
        Entries come and go; one that stays keeps its socket, one that goes is closed, and its
        sessions live on.
        """
        first, second = self.entry("socks5", name="first"), self.entry("socks5", name="second")
        partner = self.partner()
        await self.begin(first)
        program, far = await self.through(first, partner)
        before = self.sockets()
        self.assertEqual(self.use(first, second), ["forward second: added"])
        self.assertEqual(self.sockets() | before, self.sockets())
        await self.through(second, partner)
        self.assertEqual(self.use(second), ["forward first: removed"])
        await self.refuses(first)
        await self.goes_on(program, far)
        self.assertEqual(self.use(second), [])
        self.assertEqual([row["name"] for row in await self.node.forwards.state()], ["second"])
        # An address that one gives up is another's in the same turn, with the socket that is there.
        third = replace(first, name="third", listen=second.listen)
        socket_of = self.sockets()[str(second.listen)]
        told = self.use(third, first)
        self.assertEqual(
            told, ["forward third: added", "forward first: added", "forward second: removed"]
        )
        self.assertEqual(self.sockets()[str(second.listen)], socket_of)
        await self.through(third, partner)
        await self.through(first, partner)

    async def test_changed(self) -> None:
        """New sessions have the new settings on the same socket; those that run count on."""
        entry, partner = self.entry("socks5"), self.partner()
        await self.begin(entry)
        program, far = await self.through(entry, partner)
        before = self.sockets()
        elsewhere = replace(entry, destinations=rules("192.0.2.1:1"), max_sessions=2)
        told = self.use(elsewhere)
        self.assertEqual(told, ["forward socks5: changed (destinations, max_sessions)"])
        self.assertEqual(self.sockets(), before)
        refused = await self.answered(entry, partner, 2)
        refused.close()
        await self.goes_on(program, far)
        self.assertEqual(self.node.forwards.entries["socks5"].sessions.total, 1)
        self.use(replace(entry, max_sessions=1))
        await self.program(entry).ended()
        program.reset()
        await self.all_over()
        self.use(entry)
        await self.through(entry, partner)

    async def test_another_port(self) -> None:
        """An entry moves to another port; its sessions stay where they are."""
        entry, partner = self.entry("socks5"), self.partner()
        await self.begin(entry)
        program, far = await self.through(entry, partner)
        moved = replace(entry, listen=HostPort(INSIDE, free_port(INSIDE)))
        self.assertEqual(self.use(moved), ["forward socks5: changed (listen)"])
        await self.refuses(entry)
        await self.through(moved, partner)
        await self.goes_on(program, far)

    async def test_a_port_that_cannot_be_opened(self) -> None:
        """It is told, the old entry stays, others change, and the next reload tries again."""
        entry, other = self.entry("socks5"), self.entry("socks5", name="other")
        partner = self.partner()
        await self.begin(entry, other)
        taken = socket.create_server((INSIDE, 0))
        self.addCleanup(taken.close)
        at = HostPort(INSIDE, taken.getsockname()[1])
        # What waits for the address of one that stays, stays as well, and so on.
        new = self.entry("socks5", name="new")
        wish = (
            replace(entry, listen=at),
            replace(other, listen=entry.listen),
            replace(new, listen=other.listen),
        )
        told = self.use(*wish)
        self.assertEqual(
            told,
            [
                f"forward socks5: stays as it was: cannot listen on {at}: Address already in use",
                f"forward other: stays as it was: {entry.listen} is open for forward socks5",
                f"forward new: stays as it was: {other.listen} is open for forward other",
            ],
        )
        for each in (entry, other):
            await self.through(each, partner)
        self.assertEqual(set(self.sockets()), {str(entry.listen), str(other.listen)})
        taken.close()
        self.assertEqual(len(self.use(*wish)), 3)
        for each in wish:
            await self.through(each, partner)

    async def test_passwords(self) -> None:
        """Passwords are read again; one that cannot be read leaves everything as it is."""
        file = new_folder(self) / "password"
        file.write_text("old\n")
        file.chmod(0o600)
        entry = self.entry("socks5", users=(UserConfig("batch", file),))
        await self.begin(entry)

        async def logs_in(password: bytes) -> bool:
            program = self.program(entry)
            program.send(b"\5\1\2\1\5batch" + bytes((len(password),)) + password)
            await program.has(4)
            program.close()
            return program.received[3] == 0

        self.assertTrue(await logs_in(b"old"))
        file.write_text("newer\n")
        self.assertEqual(self.use(entry), [])
        self.assertEqual((await logs_in(b"old"), await logs_in(b"newer")), (False, True))
        file.unlink()
        before = self.node._config
        with self.assertRaises(IdentityError):
            self.use(entry, self.entry("socks5", name="other"))
        self.assertIs(self.node._config, before)
        self.assertTrue(await logs_in(b"newer"))

    async def test_data_ports(self) -> None:
        """An entry of FTPS that passes keeps its data ports until its sessions are over."""
        partner = self.partner()
        ports = (SPAN[0], SPAN[0] + 1)
        entry = self.entry(
            "ftp",
            target=HostPort(PARTNER, partner.port),
            ftp=ForwardFTPConfig(tls="pass", data_ports=ports),
        )
        await self.begin(entry)
        program = self.program(entry)
        await partner.peer()
        await until(lambda: all(each.relay for each in self.node.forwards.sessions), "the session")
        self.assertEqual(self.use(), ["forward ftp: removed"])
        await self.refuses(entry)
        self.assertEqual(set(self.sockets()), {f"{INSIDE}:{port}" for port in ports})
        listening = socket.create_server((PARTNER, ports[0]))
        self.addCleanup(listening.close)
        listening.setblocking(False)
        data = self.program(replace(entry, listen=HostPort(INSIDE, ports[0])))
        found: list[socket.socket] = []

        def came() -> bool:
            try:
                found.append(listening.accept()[0])
            except BlockingIOError:
                return False
            return True

        await until(came, "the data connection")
        self.addCleanup(found[0].close)
        program.reset()
        await until(lambda: not self.sockets(), "the ports' end")
        data.close()


class GatewayTests(ReloadCase):
    """DMZ nodes that a reload takes away."""

    async def test_retired(self) -> None:
        """A DMZ node's uplink stands as long as a session goes that way, for FTP's data."""
        entry, partner = self.entry("socks5"), self.partner()
        await self.begin(entry)
        program, far = await self.through(entry, partner)
        link = self.node.links["dmz"]
        self.assertEqual(self.use(entry, gateways=()), ["gateway dmz: removed"])
        await self.answered(entry, partner, 1)
        self.assertTrue(link.up)
        await self.goes_on(program, far)
        program.reset()
        await until(lambda: not link.up and link.parent is None, "the uplink's end")


class DrainTests(ReloadCase):
    """No new sessions, by order."""

    async def test_drain(self) -> None:
        """
        A node that drains tells programs so, each in its words; sessions run on, and the node waits
        for them; it takes new ones again when it is told to (Lesson 9).
        """
        partner = self.partner()
        target = HostPort(PARTNER, partner.port)
        entries = {
            "socks5": self.entry("socks5"),
            "http-connect": self.entry("http-connect"),
            "ftp": self.entry("ftp", target=target, ftp=ForwardFTPConfig()),
            "tcp": self.entry("tcp", target=target),
        }
        await self.begin(*entries.values())
        program, far = await self.through(entries["socks5"], partner)
        before = self.sockets()
        self.assertEqual(await self.order("drain", kind="node"), {"sessions": 1})
        await self.answered(entries["socks5"], partner, 1)
        http = self.program(entries["http-connect"])
        http.send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        await http.has(12)
        self.assertEqual(http.received[9:12], b"503")
        ftp = self.program(entries["ftp"])
        await ftp.has(3)
        self.assertEqual(ftp.received[:3], b"421")
        await self.program(entries["tcp"]).is_reset()
        self.assertEqual(self.sockets(), before)
        await self.goes_on(program, far)
        self.assertEqual(len(partner.peers), 1)
        await self.order("resume", kind="node")
        await self.through(entries["socks5"], partner)
        done = self.node.drain(60)
        self.assertFalse(done.called)
        for session in list(self.node.forwards.sessions):
            await self.order("end", session=session.id)
        await done
