"""Relays whose peers do not end in order: an abort on one side is an abort on the other."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

import relaygate
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.test.dataplane import (
    BOTH_TLS,
    COPIED,
    INNER_TLS,
    OUTER_TLS,
    SPLICED,
    WAYS,
    Bench,
    every_way,
    held,
)
from relaygate.test.farend import LOOPBACK, MB, Ending, Peer, payload, reactor, unchanged, until

REPEATS = 5
DONE = Outcome(Cause.DONE, Phase.RELAY)


def sides(bench: Bench) -> Iterator[tuple[Peer, Peer, Cause]]:
    """Each peer with the other one, and with its name as a cause."""
    yield bench.client, bench.backend, Cause.CLIENT
    yield bench.backend, bench.client, Cause.BACKEND


class ResetTests(TestCase):
    """A reset on one side is a reset on the other, never an end (Requirements 28 and 78)."""

    timeout = 240

    async def _for_each_side(self, act: Callable[[Bench, Peer, Peer], Any]) -> None:
        """Have *act* break one peer; the other must see a reset, and the log the culprit."""
        for way in WAYS:
            for side in (0, 1):
                for _ in range(REPEATS):
                    async with Bench(way) as bench:
                        breaking, other, cause = list(sides(bench))[side]
                        await act(bench, breaking, other)
                        self.assertIs(await other.ended(), Ending.RESET, f"{way}, {cause}")
                        outcome = await bench.over()
                        self.assertIs(outcome.phase, Phase.RELAY)
                        self.assertIn(outcome.cause, (Cause.CLIENT, Cause.BACKEND))

    async def test_before_the_first_byte(self) -> None:
        """A peer that resets an unused session is named as the cause."""

        async def act(bench: Bench, breaking: Peer, _other: Peer) -> None:
            breaking.reset()
            outcome = await bench.over()
            cause = Cause.CLIENT if breaking is bench.client else Cause.BACKEND
            self.assertEqual(outcome, Outcome(cause, Phase.RELAY, "connection reset"))

        await self._for_each_side(act)

    async def test_before_the_relay(self) -> None:
        """A peer that is gone before the relay starts takes the other one with it."""
        for way in WAYS:
            for side in (0, 1):
                async with Bench(way, started=False) as bench:
                    breaking, other, cause = list(sides(bench))[side]
                    breaking.reset()
                    bench.relay.start()
                    self.assertIs(await other.ended(), Ending.RESET)
                    self.assertIs((await bench.over()).cause, cause)

    async def test_while_it_sends(self) -> None:
        """A sender that breaks off in the middle of a file leaves no whole-looking file."""

        async def act(_bench: Bench, breaking: Peer, other: Peer) -> None:
            breaking.send(payload(MB), 20)
            await other.has(MB)
            breaking.reset()

        await self._for_each_side(act)

    async def test_while_it_reads(self) -> None:
        """A reader that breaks off in the middle of a file is heard of by the sender."""

        async def act(_bench: Bench, breaking: Peer, other: Peer) -> None:
            other.send(payload(MB), 20)
            await breaking.has(MB)
            breaking.reset()

        await self._for_each_side(act)

    async def test_after_its_own_end(self) -> None:
        """A peer that ended in order, and then resets in the middle of the answer."""
        for way in WAYS:
            for side in (0, 1):
                for _ in range(REPEATS):
                    async with Bench(way) as bench:
                        breaking, other, cause = list(sides(bench))[side]
                        breaking.send(b"question")
                        breaking.finish()
                        await other.got(b"question")
                        other.send(payload(MB), 100)
                        await breaking.has(MB)
                        breaking.reset()
                        # Its stream has ended in order already: it is the sending that breaks.
                        await other.is_reset()
                        self.assertIs((await bench.over()).cause, cause)

    async def test_after_the_others_end(self) -> None:
        """A peer that resets after the other one's end, before its own answer was whole."""

        async def act(_bench: Bench, breaking: Peer, other: Peer) -> None:
            other.send(b"question")
            other.finish()
            await breaking.has(8)
            breaking.send(payload(MB), 20)
            await other.has(MB)
            breaking.reset()

        await self._for_each_side(act)

    async def test_while_the_sink_is_full(self) -> None:
        """A sleeping reader that breaks is noticed although nobody can send to it or reads it."""

        async def act(bench: Bench, breaking: Peer, other: Peer) -> None:
            breaking.pause()
            other.send(payload(MB), 64)
            pump = bench.relay._pump_out if other is bench.backend else bench.relay._pump_in
            await held(pump)
            await unchanged(lambda: other.sent, 0.05)
            breaking.reset()

        await self._for_each_side(act)


class CutTests(TestCase):
    """Under TLS a stream without ``close_notify`` is cut short, whatever TCP says (40, 78)."""

    async def test_cut_is_an_abort(self) -> None:
        """FIN without ``close_notify``: the other side is reset, before and after bytes."""
        for way, side in (
            (OUTER_TLS, 0),
            (INNER_TLS, 1),
            (BOTH_TLS, 0),
            (BOTH_TLS, 1),
        ):
            for size in (0, 1, 16_384, MB):
                async with Bench(way) as bench:
                    cutting, other, cause = list(sides(bench))[side]
                    cutting.send(payload(size))
                    await cutting.emptied()
                    await other.has(size)
                    cutting.cut()
                    self.assertIs(await other.ended(), Ending.RESET)
                    self.assertEqual(
                        await bench.over(), Outcome(cause, Phase.RELAY, "connection reset")
                    )

    async def test_goodbye_is_one_direction(self) -> None:
        """``close_notify`` ends its sender's direction alone (RFC 8446 section 6.1)."""
        for way, side in ((OUTER_TLS, 0), (INNER_TLS, 1), (BOTH_TLS, 0), (BOTH_TLS, 1)):
            async with Bench(way) as bench:
                first, second, _ = list(sides(bench))[side]
                first.finish()
                await second.got(b"")
                second.send(payload(MB))
                await first.has(MB)
                self.assertIsNone(first.ending)
                second.finish()
                await first.got(payload(MB))
                self.assertEqual(await bench.over(), DONE)

    async def test_abort_is_no_goodbye(self) -> None:
        """A relay that is ended by force resets both peers, and says goodbye to none."""
        for way in WAYS:
            async with Bench(way) as bench:
                bench.client.send(payload(MB), 20)
                await bench.backend.has(MB)
                bench.relay.abort(Cause.SHUTDOWN, "the node stops")
                bench.relay.abort(Cause.TIMEOUT, "too late to matter")
                for peer in bench.peers:
                    self.assertIs(await peer.ended(), Ending.RESET, str(way))
                self.assertEqual(
                    await bench.over(), Outcome(Cause.SHUTDOWN, Phase.RELAY, "the node stops")
                )


QUESTION = b"USER guest\r\n"
ANSWER = b"331 go on\r\n"


class EveryOffsetTests(TestCase):
    """A small exchange that stops at every byte: nothing is left over (the bench looks)."""

    timeout = 240

    async def _exchange(self, bench: Bench, offset: int) -> tuple[Peer, Peer, Cause, bytes]:
        """Play the exchange up to *offset*; who spoke last, who listened, and what was heard."""
        question, answer = QUESTION[:offset], ANSWER[: max(0, offset - len(QUESTION))]
        bench.client.send(question)
        await bench.backend.has(len(question))
        if offset <= len(QUESTION):
            return (*next(sides(bench)), question)
        bench.backend.send(answer)
        await bench.client.has(len(answer))
        return bench.backend, bench.client, Cause.BACKEND, answer

    async def test_resets(self) -> None:
        """The speaker or the listener resets at each offset: the other one is reset."""
        for way in WAYS:
            for offset in range(len(QUESTION + ANSWER) + 1):
                for listener_breaks in (False, True):
                    async with Bench(way) as bench:
                        one, two, _, _ = await self._exchange(bench, offset)
                        breaking, other = (two, one) if listener_breaks else (one, two)
                        breaking.reset()
                        self.assertIs(await other.ended(), Ending.RESET, f"{way} at {offset}")
                        await bench.over()

    async def test_half_closes(self) -> None:
        """The speaker ends in order at each offset: the end comes behind the bytes, alone."""
        for way in WAYS:
            for offset in range(len(QUESTION + ANSWER) + 1):
                async with Bench(way) as bench:
                    speaker, listener, _, heard = await self._exchange(bench, offset)
                    speaker.finish()
                    await listener.got(heard)
                    listener.send(b"last words")
                    listener.finish()
                    self.assertIs(await speaker.ended(), Ending.END, f"{way} at {offset}")
                    self.assertTrue(speaker.received.endswith(b"last words"))
                    self.assertEqual(await bench.over(), DONE)

    async def test_cuts(self) -> None:
        """A TLS client that vanishes without goodbye at each offset resets the backend."""
        for way in (OUTER_TLS, BOTH_TLS):
            for offset in range(len(QUESTION + ANSWER) + 1):
                async with Bench(way) as bench:
                    await self._exchange(bench, offset)
                    bench.client.cut()
                    self.assertIs(await bench.backend.ended(), Ending.RESET, f"at {offset}")
                    self.assertIs((await bench.over()).cause, Cause.CLIENT)

    @every_way
    async def test_in_one_go(self, bench: Bench) -> None:
        """Bytes and a reset that come together, before the relay has read any, end in a reset."""
        for offset in range(len(QUESTION) + 1):
            async with Bench(bench.way, started=False) as late:
                late.client.send(QUESTION[:offset])
                await late.client.emptied()
                late.client.reset()
                late.relay.start()
                self.assertIs(await late.backend.ended(), Ending.RESET)


class OwnTroubleTests(TestCase):
    """What happens to the node itself is an abort for its peers."""

    @contextmanager
    def _no_descriptors(self) -> Iterator[None]:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    async def test_no_descriptor_for_a_pipe(self) -> None:
        """Without descriptors a session goes on: its bytes are copied (Requirement 84)."""
        for side in (0, 1):
            async with Bench(SPLICED) as bench:
                sender, other, _ = list(sides(bench))[side]
                data = payload(3 * MB)
                with self._no_descriptors():
                    sender.send(data)
                    await other.has(len(data))
                sender.send(data)
                await other.has(2 * len(data))
                for peer in (sender, other):
                    peer.finish()
                self.assertEqual(await bench.over(), DONE)

    async def test_killed_process(self) -> None:
        """A process that is killed while it relays resets both peers (Requirement 28)."""
        for way in (SPLICED, COPIED):
            for size in (0, 4 * MB):
                await self._kill(way.splice, size)

    async def _kill(self, splice: bool, size: int) -> None:
        with socket.create_server((LOOPBACK, 0)) as listener:
            child = Child(listener.getsockname()[1], splice=splice)
            self.addCleanup(child.kill)
            await until(lambda: child.said.endswith(b"\n"), "the child's port")
            client = Peer(socket.create_connection((LOOPBACK, int(child.said))))
            self.addCleanup(client.close)
            listener.settimeout(10)
            backend = Peer(listener.accept()[0])
            self.addCleanup(backend.close)
        client.send(b"ping")
        await backend.has(4)
        backend.send(b"pong")
        await client.has(4)
        client.send(payload(size), 10)
        backend.send(payload(size), 10)
        await backend.has(4 + size)
        await client.has(4 + size)
        await child.kill()
        for peer in (client, backend):
            self.assertIs(await peer.ended(), Ending.RESET)


class Child(ProcessProtocol):
    """A process with one relay, between who dials it and a port on loopback."""

    def __init__(self, backend: int, *, splice: bool) -> None:
        self.said = b""
        self.errors = b""
        self._ended: Deferred[None] | None = Deferred()
        self._transport: Any = reactor.spawnProcess(
            self,
            sys.executable,
            [sys.executable, "-c", _CHILD, str(backend), "splice" if splice else "copy"],
            env={**os.environ, "PYTHONPATH": str(Path(relaygate.__file__).parents[1])},
        )

    def outReceived(self, data: bytes) -> None:
        self.said += data

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Failure = connectionDone) -> None:
        assert self._ended is not None
        ended, self._ended = self._ended, None
        ended.callback(None)

    async def kill(self) -> None:
        """Kill it, if it lives, and wait until it is gone."""
        if self._ended is not None:
            os.kill(self._transport.pid, signal.SIGKILL)
            await self._ended


_CHILD = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from relaygate import pump
from relaygate.addresses import HostPort
from relaygate.dial import dial
from relaygate.legport import LegPort
from relaygate.pipes import PipeShelf
from relaygate.relay import Relay

if sys.argv[2] == "copy":
    pump._SPLICE = None

class Client(Protocol):
    def connectionMade(self):
        self.transport.stopReading()
        Deferred.fromCoroutine(self.join())

    async def join(self):
        inner = await dial(reactor, HostPort("127.0.0.1", int(sys.argv[1])), 10)
        Relay(self.transport, inner, reactor, PipeShelf(), print).start()

port = LegPort("127.0.0.1", 0, Factory.forProtocol(Client), reactor)
port.startListening()
print(port.getHost().port, flush=True)
reactor.run()
"""
