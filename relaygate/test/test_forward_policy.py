"""Attacks on where a way out may lead, each through both nodes, and several DMZ nodes."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

from relaygate.addresses import HostPort
from relaygate.commands import Connect
from relaygate.config.forward import ForwardConfig
from relaygate.test.farend import until
from relaygate.test.forwardnodes import EXIT, GATE, PARTNER, ForwardCase, rules
from relaygate.test.ftppeers import Line
from relaygate.test.test_forward_socks import HELLO, request
from relaygate.test.wire import lines, logged
from relaygate.uplink import UplinkFailed

PUBLIC = "203.0.113.0/24:1-65535"


class AttackTests(ForwardCase):
    """Requirement 66: the policy is asked about the very address that is dialled."""

    async def refused(self, entry: ForwardConfig, host: str, port: int = 80) -> None:
        """Show that *host* is refused as not allowed, and that it is an audit event."""
        with logged() as events:
            program = self.program(entry)
            program.send(HELLO + request(host, port))
            await program.ended()
            self.assertEqual(bytes(program.received[2:4]), b"\5\2", host)
            program.close()
            await self.all_over()
        self.assertTrue(lines(events, " refused: entry="), host)

    async def test_private_addresses(self) -> None:
        """Names that lead to private, loopback and other special addresses, as a CNAME would."""
        entry = self.entry("socks5")
        await self.begin(entry, connect=["*:1-65535", "0.0.0.0/0:1-65535", "[::/0]:1-65535"])
        for number, address in enumerate(
            (
                "10.0.0.1",
                "127.0.0.1",
                "169.254.169.254",
                "172.31.0.1",
                "192.168.1.1",
                "100.64.0.1",
                "224.0.0.1",
                "0.0.0.0",
                "255.255.255.255",
                "::1",
                "::",
                "fe80::1",
                "fc00::1",
                "ff02::1",
                "::ffff:10.0.0.1",
                "::ffff:8.8.8.8",
                "64:ff9b::a00:1",
                "2002:a00:1::",
                "2001:0:1::1",
                "::10.0.0.1",
                "fec0::1",
                "64:ff9b:1::a00:1",
                "::ffff:0:a00:1",
            )
        ):
            self.names[name := f"n{number}.partner.example"] = [address]
            await self.refused(entry, name)

    async def test_mixed_answers(self) -> None:
        """One bad address among good ones spoils them all."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry)
        self.names["mixed.partner.example"] = [PARTNER, "10.0.0.1"]
        await self.refused(entry, "mixed.partner.example", partner.port)
        self.assertEqual(partner.peers, [])

    async def test_rebinding(self) -> None:
        """A name that leads elsewhere a moment later: it is resolved once."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry)

        async def resolve(name: str, *_: object) -> list[str]:
            self.asked.append(name)
            return [PARTNER] if len(self.asked) == 1 else ["127.0.0.9"]

        self.dmz.egress.resolve = resolve
        program = self.program(entry)
        program.send(HELLO + request("rebind.partner.example", partner.port))
        await self.echoes(program, await partner.peer())
        self.assertEqual(len(self.asked), 1)
        await self.refused(entry, "rebind.partner.example", partner.port)
        self.assertEqual(len(self.asked), 2)

    async def test_other_spellings(self) -> None:
        """Decimal, octal and hexadecimal addresses, dots at the end, and IPv4 dressed as IPv6."""
        entry = self.entry("socks5")
        await self.begin(entry, connect=["*:1-65535", "127.0.0.1:1-65535", PUBLIC])
        for host in (
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "127.1",
            "017700000001",
            "0177.0.0.1",
            "127.0.0.1.",
            "localhost.",
            "sftp.partner.example.",
            "::ffff:127.0.0.1",
            "[::1]",
            "fe80::1%eth0",
            "sftp_partner.example",
            "xn--.-",
            "a..b",
            "partner.example/x",
        ):
            await self.refused(entry, host)
        self.assertEqual(self.asked, [])

    async def test_mapped_address(self) -> None:
        """SOCKS has a form of its own for IPv6, in which IPv4 can be dressed."""
        entry = self.entry("socks5")
        await self.begin(entry, connect=["*:1-65535", "127.0.0.1:1-65535"])
        program = self.program(entry)
        program.send(HELLO + b"\5\1\0\4" + ip_address("::ffff:127.0.0.1").packed + b"\0\x50")
        await program.ended()
        self.assertEqual(bytes(program.received[2:4]), b"\5\2")

    async def test_own_addresses(self) -> None:
        """The DMZ's own addresses are reached only where each is named."""
        entry = self.entry("socks5")
        own = self.partner(GATE)
        await self.begin(entry, connect=["127.0.0.0/8:1-65535"])
        await self.refused(entry, GATE, own.port)
        self.names["gate.partner.example"] = [GATE]
        await self.refused(entry, "gate.partner.example", own.port)
        self.assertEqual(own.peers, [])

    async def test_own_public_address(self) -> None:
        """An address that is public, and the DMZ's own, is none that a wide rule means."""
        entry = self.entry("socks5")
        await self.begin(entry, connect=["*:1-65535", "0.0.0.0/0:1-65535"])
        self.dmz.egress.is_own = lambda address: address == "8.8.8.8"
        self.names["own.partner.example"] = ["8.8.8.8"]
        await self.refused(entry, "own.partner.example")
        await self.refused(entry, "8.8.8.8")

    async def test_abused_ports(self) -> None:
        """Requirement 67: mail and telephony need a rule for that very port."""
        entry = self.entry("socks5")
        await self.begin(entry)
        for port in (25, 465, 587, 5060, 5061):
            await self.refused(entry, PARTNER, port)

    async def test_default_is_to_deny(self) -> None:
        """Requirement 66: without a policy nothing is dialled."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry, connect=["nobody.partner.example:1"])
        await self.refused(entry, PARTNER, partner.port)

    async def test_no_questions_for_a_taken_over_node(self) -> None:
        """Requirement 66: what no rule can permit is not looked up either, nor told apart."""
        entry = self.entry("socks5")
        await self.begin(entry, connect=["sftp.partner.example:22"])
        for name, port in (("c2vjcmv0.evil.example", 53), ("sftp.partner.example", 443)):
            self.names[name] = [PARTNER]
            await self.refused(entry, name, port)
        await self.refused(entry, "no-such-name.example", 22)
        self.assertEqual(self.asked, [])

    async def test_inside_decides_first(self) -> None:
        """Requirement 67: the DMZ is not asked about what the entry does not allow."""
        partner = self.partner()
        entry = self.entry("socks5", destinations=rules("*.partner.example:22", f"{PARTNER}:1"))
        await self.begin(entry)
        for host, port in (
            (PARTNER, partner.port),
            ("sftp.partner.example", 23),
            ("partner.example", 22),
            ("other.example", 22),
        ):
            await self.refused(entry, host, port)
        self.assertEqual((self.asked, partner.peers), ([], []))

    async def test_hostile_passive_answer(self) -> None:
        """Requirement 69: a program that believes a partner's 227 is bounded as with any wish."""
        entry = self.entry("socks5")
        partner = self.partner()
        inside = self.partner("127.0.0.8")
        await self.begin(entry, connect=[f"{PARTNER}:{partner.port}"])
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, partner.port))
        far = await partner.peer()
        far.say(b"227 Entering Passive Mode (127,0,0,8,%d,%d)" % divmod(inside.port, 256))
        await program.has(40)
        await self.refused_beside(entry, inside.port)
        self.assertEqual(inside.peers, [])

    async def refused_beside(self, entry: ForwardConfig, port: int) -> None:
        """As :meth:`refused`, while another session runs."""
        program = self.program(entry)
        program.send(HELLO + request("127.0.0.8", port))
        await program.ended()
        self.assertEqual(bytes(program.received[2:4]), b"\5\2")

    async def test_redirect(self) -> None:
        """A partner's redirect is the program's to follow, and asked about again."""
        entry = self.entry("http-connect")
        partner = self.partner()
        await self.begin(entry)
        program = self.program(entry)
        program.send(f"GET http://{PARTNER}:{partner.port}/ HTTP/1.1\r\n\r\n".encode())
        far = await partner.peer()
        answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\n\r\n"
        far.send(answer)
        far.finish()
        await program.got(answer)
        program.close()
        again = self.program(entry)
        again.send(b"GET http://127.0.0.1:9/ HTTP/1.1\r\n\r\n")
        await again.ended()
        self.assertEqual(again.received[9:12], b"403")

    async def test_a_node_cannot_take_anothers_session(self) -> None:
        """A session that may have transfers is not made a second time, nor given to another."""
        entry = self.entry("tcp", target=self.target())
        await self.begin(entry)
        uplink = next(iter(self.node.links.values()))._uplink
        assert uplink is not None
        wish: dict[str, Any] = {
            "session": "0123456789abcdef",
            "transfer": 1,
            "entry": "x",
            "host": PARTNER,
            "port": self.there.port,
            "data": True,
            "tls": False,
            "patience": 5_000,
        }
        answer = await uplink.ask(Connect, **wish)
        self.assertEqual((answer["code"], answer["own_host"]), (0, EXIT))
        try:
            await uplink.ask(Connect, **(wish | {"transfer": 2}))
        except UplinkFailed as error:
            self.assertIn("has a connection", str(error))
        else:
            self.fail("it was made a second time")
        await self.all_over()

    def target(self) -> HostPort:
        """A partner's address, as a target."""
        self.there = self.partner()
        return HostPort(PARTNER, self.there.port)


class SeveralTests(ForwardCase):
    """Several DMZ nodes, and addresses."""

    async def test_in_turn(self) -> None:
        """Sessions go out through one DMZ node after the other."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry, gateways=("dmz", "dmz-2"))
        with logged() as events:
            for _ in range(4):
                program = self.program(entry)
                program.send(HELLO + request(PARTNER, partner.port))
                await self.echoes(program, await partner.peer())
        opened = lines(events, " open: entry=")
        self.assertEqual(len([line for line in opened if "gateway=dmz " in line]), 2)
        self.assertEqual(len([line for line in opened if "gateway=dmz-2 " in line]), 2)

    async def test_next_one(self) -> None:
        """Where one does not reach the destination, the next one is asked."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry, gateways=("dmz", "dmz-2"))
        self.gates["dmz"].egress.policy = type(self.dmz.egress.policy)()
        for _ in range(4):
            program = self.program(entry)
            program.send(HELLO + request(PARTNER, partner.port))
            await self.echoes(program, await partner.peer())

    async def test_one_that_is_gone(self) -> None:
        """A DMZ node that is down is not waited for, and without one there is a refusal."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry, gateways=("dmz", "dmz-2"))
        stopping = self.gates["dmz"].stopService()
        assert stopping is not None
        await stopping
        link = self.node.links["dmz"]
        await until(lambda: not link.up, "the uplink's end")
        for _ in range(2):
            program = self.program(entry)
            program.send(HELLO + request(PARTNER, partner.port))
            await self.echoes(program, await partner.peer())
        stopping = self.gates["dmz-2"].stopService()
        assert stopping is not None
        await stopping
        await until(lambda: not self.node.links["dmz-2"].up, "the other uplink's end")
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, partner.port))
        await program.ended()
        self.assertEqual(bytes(program.received[2:4]), b"\5\1")

    async def test_addresses_in_turn(self) -> None:
        """The next address of a name is tried beside one that does not answer (RFC 8305)."""
        entry = self.entry("socks5")
        partner = self.partner()
        mute = socket.create_server(("127.0.0.7", partner.port), backlog=0)
        self.addCleanup(mute.close)
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            self.addCleanup(filler.close)
            filler.connect_ex(("127.0.0.7", partner.port))
        await self.begin(entry, connect=[f"{PARTNER}:1-65535", "127.0.0.7:1-65535"])
        self.names["two.partner.example"] = ["127.0.0.7", PARTNER]
        program = self.program(entry)
        program.send(HELLO + request("two.partner.example", partner.port))
        await self.echoes(program, await partner.peer())
        await self.all_over()

    async def test_shutdown(self) -> None:
        """Sessions that run end with the node, as resets, and leave their lines."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry)
        program: Line = self.program(entry)
        program.send(HELLO + request(PARTNER, partner.port))
        await partner.peer()
        await program.has(12)
        with logged() as events:
            await self.node.stopService()
            await program.is_reset()
        self.assertTrue(lines(events, "outcome=shutdown/relay"))
