"""Who waits at an entry, who leaves meanwhile, and DMZ nodes that are no help."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred

from relaygate import dataway, egress, entries, wayout
from relaygate.addresses import HostPort
from relaygate.commands import Await, Connect
from relaygate.config.forward import ForwardConfig, ForwardFTPConfig
from relaygate.destinations import Destinations
from relaygate.test.farend import Ending, until
from relaygate.test.forwardnodes import EXIT, PARTNER, SPAN, STRANGER, ForwardCase, rules
from relaygate.test.ftppeers import Line
from relaygate.test.test_forward_socks import HELLO, request
from relaygate.test.wire import lines, logged


class LeavingTests(ForwardCase):
    """A program that leaves is not waited for any longer."""

    def mute(self) -> None:
        """Have the DMZ's resolver answer nothing."""
        self.waiting: list[Deferred[list[str]]] = []

        def resolve(*_: object) -> Deferred[list[str]]:
            self.waiting.append(Deferred())
            return self.waiting[-1]

        self.dmz.egress.resolve = resolve

    async def test_slow_dial(self) -> None:
        """Requirement 83: with the program goes what is made for it, at once and on both nodes."""
        entry = self.entry("socks5")
        await self.begin(entry)
        self.mute()
        for resets in (False, True):
            with logged() as events:
                program = self.program(entry)
                program.send(HELLO + request("slow.partner.example", 22))
                await until(lambda: self.waiting, "a question to the DMZ")
                if resets:
                    program.reset()
                else:
                    program.close()
                await self.all_over()
            self.waiting.clear()
            (end,) = lines(events, " end: entry=socks5 client=")
            self.assertIn("outcome=client/open", end)

    async def test_http(self) -> None:
        """A CONNECT is given up; a request that ends its stream behind itself is not."""
        entry = self.entry("http-connect")
        partner = self.partner()
        await self.begin(entry)
        self.mute()
        program = self.program(entry)
        program.send(b"CONNECT slow.partner.example:443 HTTP/1.1\r\n\r\n")
        await until(lambda: self.waiting, "a question to the DMZ")
        program.finish()
        await self.all_over()
        program = self.program(entry)
        url = f"http://slow.partner.example:{partner.port}/"
        program.send(f"GET {url} HTTP/1.1\r\n\r\n".encode())
        program.finish()
        await until(lambda: len(self.waiting) == 2, "a question to the DMZ")
        await self.looked_at()
        self.waiting[1].callback([PARTNER])
        far = await partner.peer()
        await far.ended()
        far.send(b"HTTP/1.1 200 OK\r\n\r\nfine")
        far.finish()
        await program.got(b"HTTP/1.1 200 OK\r\n\r\nfine")

    async def looked_at(self) -> None:
        """Wait until all who wait were looked at twice."""
        departures = self.node.forwards._around.departures
        for _ in range(2):
            call = departures._looking
            await until(lambda before=call: departures._looking is not before, "a look")  # type: ignore[misc]

    async def test_early_bytes(self) -> None:
        """Who has sent its bytes ahead, and their end, has not left."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry)
        self.mute()
        program = self.program(entry)
        program.send(HELLO + request("slow.partner.example", partner.port) + b"x" * 300_000)
        program.finish()
        await until(lambda: self.waiting, "a question to the DMZ")
        await self.looked_at()
        self.waiting[0].callback([PARTNER])
        far = await partner.peer()
        await far.got(b"x" * 300_000)

    async def test_bind(self) -> None:
        """Requirement 65: a program that leaves takes its port in the DMZ with it."""
        entry = self.entry("socks5", bind_ports=SPAN)
        await self.begin(entry)
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, 0, 2))
        await program.has(12)
        self.assertEqual(self.dmz.egress.awaited.total, 1)
        program.close()
        await self.all_over()
        self.assertEqual(self.dmz.egress.awaited.total, 0)

    async def test_aborted_while_it_waits(self) -> None:
        """What an operator or the end of the node cuts off is no fault of the program's or ours."""
        entry = self.entry("socks5")
        await self.begin(entry)
        self.mute()
        silent = self.program(entry)
        program = self.program(entry)
        program.send(HELLO + request("slow.partner.example", 22))
        await until(lambda: self.waiting, "a question to the DMZ")
        with logged() as events:
            await self.node.stopService()
            await program.ended()
            await silent.ended()
        ends = lines(events, " end: entry=socks5 client=")
        self.assertEqual(len(ends), 2)
        for end in ends:
            self.assertIn("outcome=shutdown/", end)


class CrowdTests(ForwardCase):
    """Those who say nothing, and those who ask for too much."""

    async def test_silent_ones(self) -> None:
        """Requirement 86: silent connections keep nobody out, though there are more than room."""
        self.patch(entries, "MAX_ALL_PENDING", 20)
        self.patch(entries, "MAX_PENDING", 15)
        entry = self.entry("socks5", max_sessions=5)
        partner = self.partner()
        await self.begin(entry)
        silent = [self.program(entry) for _ in range(40)]
        # Those of one address beyond its share are let go.
        await until(lambda: sum(each.ending is not None for each in silent) == 25, "the share")
        silent += [self.program(entry, STRANGER) for _ in range(40)]
        running = self.node.forwards.entries["socks5"]
        await until(lambda: len(running.waiting) == 20, "all of the room in use")
        good = self.program(entry, PARTNER)
        good.send(HELLO + request(PARTNER, partner.port))
        await self.echoes(good, await partner.peer())
        # Sessions that say what they want are bounded by the cap, and are told.
        kept = []
        for _ in range(5):
            kept.append(program := self.program(entry, "127.0.0.11"))
            program.send(HELLO + request(PARTNER, partner.port))
            await partner.peer()
            await program.has(12)
        more = self.program(entry, "127.0.0.12")
        await more.ended()
        for each in (*silent, *kept):
            each.reset()
        await self.all_over()
        self.assertEqual(len(running.waiting), 0)

    async def test_silent_ones_in_the_log(self) -> None:
        """Requirement 90: who comes and goes without a word fills no log, and is counted there."""
        entry = self.entry("socks5")
        await self.begin(entry)
        with logged() as events:
            for _ in range(60):
                self.program(entry).close()
            tally = self.node.forwards.entries["socks5"].tally
            await until(lambda: tally.refused == 60, "the end of all of them")
        self.assertEqual(len(lines(events, " end: entry=socks5 client=")), 20)

    async def ask(self, command: Any, number: int, **more: Any) -> dict[str, Any]:
        """What a node that has gone mad asks of the DMZ."""
        uplink = next(iter(self.node.links.values()))._uplink
        assert uplink is not None
        wish: dict[str, Any] = {
            "session": f"{number:016x}",
            "transfer": number,
            "entry": "x",
            "tls": False,
        }
        return await uplink.ask(command, **(wish | more))

    async def test_mad_node(self) -> None:
        """Lesson 10: one node's ports and connections are bounded, and leave some for others."""
        self.patch(egress, "MAX_AWAITED", 3)
        entry = self.entry("socks5", bind_ports=SPAN)
        await self.begin(entry, policy={"max_forwards": 10, "nodes": ("node-a", "node-b")})
        where = {"host": PARTNER, "first": SPAN[0], "last": SPAN[1]}
        codes = [(await self.ask(Await, number, **where))["code"] for number in range(1, 6)]
        self.assertEqual(codes, [0, 0, 0, 5, 5])
        self.assertEqual(len(self.dmz.egress.ports.bound), 3)
        # It does not even say no on the channels that it brings.
        next(iter(self.node.links.values())).dataway.take = lambda *_: None  # type: ignore[method-assign]
        partner = self.partner()
        goes = {"host": PARTNER, "port": partner.port, "data": False, "patience": 5_000}
        codes = [(await self.ask(Connect, number, **goes))["code"] for number in range(6, 13)]
        self.assertEqual(codes, [0, 0, 0, 0, 0, 5, 5])
        self.assertEqual(self.dmz.egress.of_nodes.total, 8)
        # The node forgets all of them with its uplink.
        await self.node.stopService()
        await until(lambda: not len(self.dmz.egress), "the end of what was asked for")
        self.assertEqual(self.dmz.egress.of_nodes.total, 0)
        self.assertEqual(self.dmz.egress.awaited.total, 0)

    async def test_mapped_programs(self) -> None:
        """Requirement 71: an IPv4 program in IPv6's clothes is on a list that has its network."""
        entry = self.entry("socks5", allow=("127.0.0.4/32", "2001:db8::/32"))
        await self.begin(entry)
        running = self.node.forwards.entries["socks5"]
        for address in ("127.0.0.4", "::ffff:127.0.0.4", "2001:db8::1", "2001:db8::1%eth0"):
            self.assertTrue(running.admits(address), address)
        for address in ("127.0.0.5", "::ffff:127.0.0.5", "::127.0.0.4", "2001:db9::1"):
            self.assertFalse(running.admits(address), address)

    async def test_data_ports_of_a_full_entry(self) -> None:
        """A session that is the last one the cap allows has its data connections."""
        partner = self.partner()
        door = self.partner()
        entry = self.entry(
            "ftp",
            target=HostPort(PARTNER, partner.port),
            ftp=ForwardFTPConfig(tls="pass", data_ports=(door.port, door.port)),
            max_sessions=1,
        )
        await self.begin(entry)
        program = self.program(entry)
        far = await partner.peer()
        far.send(b"\x16")
        await program.has(1)
        skt = socket.create_connection((entry.listen.host, door.port), 5, ("127.0.0.4", 0))
        data = Line(skt)
        self.addCleanup(data.close)
        await self.echoes(data, await door.peer())


class NoHelpTests(ForwardCase):
    """Several DMZ nodes, of which one is dead, hangs, or refuses."""

    async def served(self, entry: ForwardConfig, port: int) -> None:
        """Show that a program reaches its partner."""
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, port))
        await self.echoes(program, await self.there.peer())

    async def several(self) -> ForwardConfig:
        """Start three DMZ nodes."""
        entry = self.entry("socks5")
        self.there = self.partner()
        await self.begin(entry, gateways=("dmz", "dmz-2", "dmz-3"))
        return entry

    async def test_one_that_hangs(self) -> None:
        """One that does not answer costs one program its time, and is asked last from then on."""
        self.patch(wayout, "FIRST_LIMIT_S", 0.2)
        self.patch(dataway, "ANSWER_GRACE_S", 0.3)
        entry = await self.several()
        asked: list[object] = []

        async def hang(*words: object, **_: object) -> dict[str, Any]:
            asked.append(words)
            await Deferred()
            raise AssertionError

        self.dmz.egress.connect = hang  # type: ignore[method-assign]
        with logged() as events:
            for _ in range(9):
                await self.served(entry, self.there.port)
        self.assertEqual(len(asked), 1)
        (line,) = lines(events, "gateway failed: ")
        self.assertIn("gateway=dmz ", line)

    async def test_one_that_is_slow(self) -> None:
        """One that cannot reach the partner in a part of the time leaves time for the next one."""
        self.patch(wayout, "FIRST_LIMIT_S", 0.2)
        self.patch(dataway, "ANSWER_GRACE_S", 0.3)
        entry = await self.several()
        self.names["www.partner.example"] = [PARTNER]
        self.dmz.egress.resolve = lambda *_: Deferred()
        limits = []
        made = self.dmz.egress.connect

        async def connect(*words: Any, **wish: Any) -> dict[str, Any]:
            limits.append(wish["patience"])
            return await made(*words, **wish)

        self.dmz.egress.connect = connect  # type: ignore[method-assign]
        program = self.program(entry)
        program.send(HELLO + request("www.partner.example", self.there.port))
        await self.echoes(program, await self.there.peer())
        self.assertEqual(limits, [200])
        await self.all_over()

    async def test_one_that_refuses(self) -> None:
        """One whose policy forbids it is asked in its turn, and the next one has its say."""
        entry = await self.several()
        self.dmz.egress.policy = Destinations()
        with logged() as events:
            for _ in range(6):
                await self.served(entry, self.there.port)
        self.assertEqual(len(lines(events, "gateway failed: ")), 2)
        # Where all forbid it, or cannot reach it, it is the policy that the program hears of.
        self.gates["dmz-2"].egress.policy = Destinations(rules("127.0.0.9:1"))
        self.gates["dmz-3"].egress.policy = Destinations()
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, self.there.port))
        await program.ended()
        self.assertEqual(bytes(program.received[2:4]), b"\5\2")

    async def test_one_that_is_cut_off(self) -> None:
        """One whose uplink breaks while it is asked is followed by the next one."""
        entry = await self.several()

        async def cut(node: Any, **_: object) -> dict[str, Any]:
            node.uplink.end("cut off by the test")
            await Deferred()
            raise AssertionError

        self.dmz.egress.connect = cut  # type: ignore[method-assign]
        await self.served(entry, self.there.port)

    async def test_one_that_drains(self) -> None:
        """Lesson 9: a DMZ node that drains gets no new session, and those that run go on."""
        entry = await self.several()
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, self.there.port))
        far = await self.there.peer()
        await program.has(12)
        draining = self.dmz.drain(60.0)
        await until(lambda: self.node.links["dmz"].draining, "the word of it")
        with logged() as events:
            for _ in range(3):
                await self.served(entry, self.there.port)
        self.assertEqual(lines(events, "gateway=dmz "), [])
        self.assertFalse(draining.called)
        await self.echoes(program, far)
        await draining

    async def test_reset_by_the_partner(self) -> None:
        """Requirement 28: nothing is asked twice once the partner was reached."""
        entry = await self.several()
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, self.there.port))
        (await self.there.peer()).reset()
        self.assertIs(await program.ended(), Ending.RESET)
        self.assertEqual(len(self.there.peers), 1)
        self.assertEqual({host for host, _ in self.there.sources}, {EXIT})
