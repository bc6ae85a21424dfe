"""A node of either kind that was taken over, with its good certificate, beside honest ones."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relaygate import commands
from relaygate.errors import TooMany, UnknownService
from relaygate.pool import MAX_IDLE
from relaygate.protocols.preamble import SessionReply, SessionStart, seal
from relaygate.supply import MAX_DEMANDED, MAX_DIALS
from relaygate.test.gateway import (
    ECHO_PORT,
    TCP_PORT,
    UPLINK_PORT,
    Gateway,
    service,
    tcp_service,
)
from relaygate.test.netns import Network
from relaygate.test.peers import LATE_S, PATIENCE_S, AtOnce, echo, eventually, in_thread, says
from relaygate.test.programs import pause
from relaygate.test.rogues import RogueGateway, RogueNode, Wire, ask
from relaygate.test.test_e2e_abuse import AbuseTestCase

ROGUE_PORT: Final = UPLINK_PORT + 10
SECOND_PORT: Final = TCP_PORT + 1
REPLY_BYTES: Final = len(seal(SessionReply(0), b"k" * 32))
CAP: Final = 20
FOR_S: Final = 3.0
GROWTH_KB: Final = 20 << 10
# Some thousand idle channels under TLS, about 25 KB for each at its peak.
CHANNELS_KB: Final = 192 << 10
ID: Final = "0123456789abcdef"


def listener(port: int, **changed: Any) -> dict[str, Any]:
    """A service as a node declares it."""
    return {
        "name": f"tcp-{port}",
        "protocol": "tcp",
        "host": "0.0.0.0",
        "port": port,
        "tls_channel": False,
        "max_sessions": 0,
        "max_sessions_per_address": 0,
    } | changed


def wish(services: list[dict[str, Any]]) -> bytes:
    """The bytes that declare *services*, on as many pages as they need."""
    size = commands.SERVICES_PER_PAGE
    pages = [services[at : at + size] for at in range(0, len(services), size)]
    return b"".join(
        ask(commands.Declare, page=number, last=number == len(pages) - 1, services=page)
        for number, page in enumerate(pages)
    )


class Beside:
    """Honest clients that come one after the other for as long as the block runs."""

    def __init__(self, gateway: Gateway, port: int = TCP_PORT) -> None:
        self.served = AtOnce()
        self.failures: list[str] = []
        self._gateway = gateway
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._come, daemon=True)

    def _come(self) -> None:
        while not self._stop.is_set():
            try:
                with self.served.timed():
                    client = self._gateway.client(self._port)
                    if not says(client, b"hello"):
                        self.failures.append("closed")
                    client.close()
            except OSError as error:
                self.failures.append(repr(error))

    @contextlib.contextmanager
    def coming(self) -> Iterator[None]:
        """Let them come."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()

    async def check(self, case: TestCase, *, at_once: bool = True) -> None:
        """
        Demand that every one was served, and soon.

        Where the rogue's own threads keep this process busy, not *at_once*, but in time.
        """
        await in_thread(self._thread.join, PATIENCE_S)
        case.assertEqual(self.failures, [])
        if at_once:
            self.served.check()
        else:
            case.assertLess(max(self.served.seconds), LATE_S)


class RogueNodeTests(AbuseTestCase):
    """An internal node that may enrol, and uses that for all that it is worth."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.rogue = RogueNode(
            self,
            self.gateway.authority,
            "node-z",
            self.gateway.private,
            Network.dmz_inner_address,
            UPLINK_PORT,
        )

    async def test_channels_without_end(self) -> None:
        """However many channels a node brings, the DMZ node keeps a bounded number of them."""
        await in_thread(self.rogue.uplink)
        counts = {False: MAX_IDLE + 200, True: MAX_IDLE + 100}
        for tls, count in counts.items():

            def bring(tls: bool = tls, count: int = count) -> None:
                for _ in range(count):
                    self.rogue.channel(tls=tls)

            beside = Beside(self.gateway)
            with beside.coming():
                await in_thread(bring)
            await beside.check(self)
            self.assertLess(self.descriptors(), self.at_rest + (1 + tls) * MAX_IDLE + 100)
        self.assertLess(self.gateway.dmz.rss_kb() - self.rss_kb, CHANNELS_KB)
        self.assertNotIn("Traceback", self.gateway.dmz.log())

    async def test_wishes_without_end(self) -> None:
        """A node that opens and closes a thousand listeners without a pause holds up nobody."""
        wire = await in_thread(self.rogue.uplink)
        wishes = [
            wish([listener(port) for port in range(first, first + 1000)])
            for first in (20_000, 30_000)
        ]

        def declare() -> None:
            end = time.monotonic() + FOR_S
            with contextlib.suppress(OSError, SSL.Error):
                while time.monotonic() < end:
                    for made in wishes:
                        wire.send(made)
                        wire.receive()

        usual, beside = Beside(self.gateway), Beside(self.gateway)
        with usual.coming():
            await pause(FOR_S)
        await usual.check(self)
        with beside.coming():
            await in_thread(declare)
        await beside.check(self)
        self.assertGreater(len(beside.served.seconds), len(usual.served.seconds) / 5)
        self.assertIn("listener open: listen=0.0.0.0:20000", self.gateway.dmz.log())
        wire.close()
        await self.unharmed()

    async def test_reports_without_end(self) -> None:
        """A node that asks for reports of a thousand listeners without a pause holds up nobody."""
        wire = await in_thread(self.rogue.uplink)
        wire.send(wish([listener(port) for port in range(20_000, 21_000)]))
        await self.gateway.dmz.logged("listener open: listen=0.0.0.0:20999")
        asked = ask(commands.Report, page=0) * 200

        def report() -> None:
            end = time.monotonic() + FOR_S
            while time.monotonic() < end:
                wire.send(asked)
                answers = 0
                while answers < 200:
                    got = wire.receive()
                    answers += got.count(b"_answer") + got.count(b"_error\0")

        beside = Beside(self.gateway)
        with beside.coming():
            await in_thread(report)
        await beside.check(self)
        self.assertGreater(len(beside.served.seconds), 100)
        wire.close()
        await self.unharmed()

    async def test_wrong_answers(self) -> None:
        """
        A node that offers what another does and answers nonsense costs a client no more than the
        moment for which it is asked for another channel alone.
        """
        same = listener(TCP_PORT, name="echo", tls_channel=True)
        nonsense: list[Callable[[bytes], bytes]] = [
            lambda key: b"",
            lambda key: os.urandom(5000),
            lambda key: seal(SessionReply(0), os.urandom(32)),
            lambda key: seal(SessionReply(77), key),
            lambda key: seal(SessionReply(UnknownService.code), key) * 1000,
            lambda key: seal(SessionReply(1), key)[:-1],
            lambda key: seal(SessionStart(ID, "echo", ("::", 1), ("::", 1), 1), key),
        ]
        for answer in nonsense:
            # A node that has failed is passed over for a while, and so it comes anew each time.
            wire = await in_thread(self.rogue.uplink)
            wire.send(ask(commands.Declare, page=0, last=True, services=[same]))
            self.assertIn(b"refused", await in_thread(wire.receive))
            channel, key = await in_thread(self.rogue.channel, tls=True)
            asked: list[bytes] = []

            def reply(
                channel: Wire = channel, data: bytes = answer(key), asked: list[bytes] = asked
            ) -> None:
                asked.append(channel.receive()[:1])
                channel.pour(data)
                channel.close()

            answering = threading.Thread(target=reply, daemon=True)
            answering.start()
            # Nodes take turns, so one of two clients comes upon it.
            for _ in range(2):
                self.assertTrue(await in_thread(self.honest_client))
            await in_thread(answering.join, PATIENCE_S)
            self.assertEqual(asked, [b"S"], "a client came upon it")
            mark = len(self.gateway.dmz.log())
            wire.close()
            await self.gateway.dmz.logged("uplink lost: node=node-z", after=mark)
        await self.unharmed()

    async def test_silence(self) -> None:
        """A node that offers what another does and never answers: its clients are served late."""
        wire = await in_thread(self.rogue.uplink)
        same = listener(TCP_PORT, name="echo", tls_channel=True)
        wire.send(ask(commands.Declare, page=0, last=True, services=[same]))
        self.assertIn(b"refused", await in_thread(wire.receive))
        for _ in range(4):
            await in_thread(self.rogue.channel, tls=True)
        # SOON_S is below what a session may take to be opened: the other node is tried in time.
        for served in await gatherResults([deferToThread(self.honest_client) for _ in range(8)]):
            self.assertTrue(served)
        wire.close()
        await self.unharmed()


class RogueGatewayTests(TestCase):
    """
    A DMZ node in the wrong hands, which an internal node dials beside an honest one.

    It can say that clients came for services, and want channels for them. Nothing else is heard.
    """

    timeout = 300

    async def start(
        self,
        *,
        uplink_work: Callable[[Wire], object] = lambda _: None,
        channel_work: Callable[[Wire, bytes], object] = lambda *_: None,
    ) -> None:
        """Start the honest nodes and the rogue one, which does its work."""
        second = f"{Network.private_address}:{ECHO_PORT + 1}"
        address = f"{Network.dmz_inner_address}:{ROGUE_PORT}"
        services = [
            f'[[gateway]]\naddress = "{address}"\nname = "rogue"\npool = 8\n',
            tcp_service(),
            service("capped", "tcp", SECOND_PORT, second, channel="never", max_sessions=CAP),
        ]
        self.gateway = gateway = Gateway(self, services)
        gateway.backend(echo)
        self.second = gateway.backend(None, ECHO_PORT + 1)
        self.rogue = RogueGateway(
            self,
            gateway.authority,
            "rogue",
            (gateway.network, "dmz"),
            Network.dmz_inner_address,
            ROGUE_PORT,
            uplink_work=uplink_work,
            channel_work=channel_work,
        )
        await gateway.start()
        self.rss_kb = gateway.node.rss_kb()
        await gateway.node.logged("uplink open: gateway=rogue")

    async def unharmed(self, *, growth_kb: int = GROWTH_KB) -> None:
        """Demand that the internal node is as it was, and serves who comes by the honest way."""
        beside = Beside(self.gateway)
        with beside.coming():
            await eventually(lambda: len(beside.served.seconds) >= 10, "clients are served")
        await beside.check(self, at_once=False)
        self.assertEqual(self.rogue.faults, [])
        self.assertLess(self.gateway.node.rss_kb() - self.rss_kb, growth_kb)
        self.assertNotIn("Traceback", self.gateway.node.log())
        self.assertNotIn("uplink lost: gateway=dmz", self.gateway.node.log())

    async def test_services_that_are_not_there(self) -> None:
        """Names that stand in no configuration reach nothing, however they are said."""
        names = ("vault", "", "127.0.0.1:22", "../capped", "capped\n", "x" * 255, "CAPPED")
        answers: list[bytes] = []

        def start(wire: Wire, key: bytes) -> None:
            name = names[len(answers) % len(names)]
            # The same id each time, and a patience of seven weeks.
            start = SessionStart(ID, name, ("192.0.2.1", 1), ("192.0.2.2", 2), 2**32 - 1)
            wire.send(seal(start, key))
            answers.append(wire.exactly(REPLY_BYTES))

        await self.start(channel_work=start)
        await eventually(lambda: len(answers) >= 30 * len(names), "all are answered")
        # The header, and then the code that says so.
        self.assertEqual({answer[3] for answer in answers if answer}, {UnknownService.code})
        self.assertEqual(self.second.accepted, [])
        await self.unharmed()

    async def test_caps_hold_inside(self) -> None:
        """Sessions beyond a service's cap are refused inside, too, and reach no backend."""
        codes: list[int] = []

        def start(wire: Wire, key: bytes) -> None:
            client = (f"192.0.2.{len(codes) % 250}", 1)
            wire.send(seal(SessionStart(ID, "capped", client, ("192.0.2.2", 2), 20_000), key))
            answer = wire.exactly(REPLY_BYTES)
            if answer:
                codes.append(answer[3])

        await self.start(channel_work=start)
        await eventually(lambda: codes.count(TooMany.code) > 3 * CAP, "many are refused")
        self.assertEqual(codes.count(0), CAP)
        self.assertEqual(len(self.second.accepted), CAP)
        await self.unharmed()

    async def test_wants_channels_without_end(self) -> None:
        """However many channels it wants, a bounded number is dialled and kept."""

        def want(wire: Wire) -> None:
            for number in range(500):
                wire.send(ask(commands.OpenChannels, tls=bool(number % 2), count=1024))

        await self.start(uplink_work=want)
        most = 2 * (MAX_DEMANDED + MAX_DIALS) + 100
        for _ in range(100):
            self.assertLess(len(self.gateway.node.fds()), most)
            await pause(0.05)
        self.assertGreater(len(self.gateway.node.fds()), 200, "it was heard")
        await self.unharmed(growth_kb=CHANNELS_KB)

    async def test_nonsense(self) -> None:
        """Nonsense on the uplink and on every channel ends these, and they are paced."""
        garbage = (
            os.urandom(100_000),
            b"\x00" * 50_000,
            b"".join(b"\x00\x04%04d\xff\xff" % number + b"v" * 65535 for number in range(100)),
            ask(commands.Declare, page=0, last=True, services=[listener(2222)]) * 1000,
            (ask(commands.Ping)) * 50_000,
            seal(SessionStart(ID, "capped", ("a b", 1), ("c", 2), 1), b"k" * 32) * 100,
        )
        said: list[int] = []

        def pour(wire: Wire, *_: bytes) -> None:
            said.append(1)
            wire.pour(garbage[len(said) % len(garbage)])

        await self.start(uplink_work=pour, channel_work=pour)
        await eventually(lambda: len(said) > 40, "much of it is said")
        self.assertEqual(self.second.accepted, [])
        await self.unharmed()
