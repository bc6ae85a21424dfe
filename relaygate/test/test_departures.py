"""Tests of who leaves while nobody reads, on real sockets."""

from __future__ import annotations

import socket

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from relaygate.departures import LOOK_S, Departures, has_left
from relaygate.test.farend import until


class _Leg:
    """As much of a leg as is looked at."""

    connected = True

    def __init__(self, skt: socket.socket) -> None:
        self.socket = skt


class DepartureTests(TestCase):
    """A reset always tells; an end does where a program waits for an answer."""

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Two ends of a connection: the other one's, and ours."""
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
        self.addCleanup(far.close)
        self.addCleanup(near.close)
        return far, near

    async def test_end(self) -> None:
        """An end says so only if it has to, and nothing unread is before it."""
        far, near = self.pair()
        self.assertFalse(has_left(near, by_end=True))
        far.close()
        await until(lambda: has_left(near, by_end=True), "the end")
        self.assertFalse(has_left(near, by_end=False))
        far, near = self.pair()
        far.sendall(b"x")
        far.close()
        await until(lambda: near.recv(1, socket.MSG_PEEK), "a byte")
        self.assertFalse(has_left(near, by_end=True))
        self.assertEqual(near.recv(2), b"x")

    async def test_reset(self) -> None:
        """A reset says so in any case."""
        far, near = self.pair()
        near.sendall(b"unread")
        await until(lambda: far.recv(1, socket.MSG_PEEK), "a byte")
        far.close()
        await until(lambda: has_left(near, by_end=False), "the reset")
        near.close()
        self.assertTrue(has_left(near, by_end=False))

    async def test_watch(self) -> None:
        """Who has left is told of once, who is forgotten never, and no timer is left behind."""
        clock = Clock()
        departures = Departures(clock)
        told: list[int] = []
        pairs = [self.pair() for _ in range(3)]
        legs = [_Leg(near) for _, near in pairs]
        for number, leg in enumerate(legs):
            departures.watch(
                leg,  # type: ignore[arg-type]
                lambda number=number: told.append(number),  # type: ignore[misc]
                by_end=True,
            )
        clock.advance(LOOK_S)
        self.assertEqual((told, len(departures)), ([], 3))
        departures.forget(legs[0])  # type: ignore[arg-type]
        for number in (0, 1):
            pairs[number][0].close()
            await until(lambda n=number: has_left(pairs[n][1], by_end=True), "an end")  # type: ignore[misc]
        clock.advance(LOOK_S)
        clock.advance(LOOK_S)
        self.assertEqual((told, len(departures)), ([1], 1))
        departures.forget(legs[2])  # type: ignore[arg-type]
        self.assertEqual(clock.getDelayedCalls(), [])
