"""Tests of listening sockets that turn connections away before anything is made of them."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relaygate.legport import REFUSED, LegPort, ScreenedSocket, WaitingLeg
from relaygate.test.wire import until


class Welcome(Protocol):
    """Somebody who was let in."""

    def connectionMade(self) -> None:
        self.factory.made.append(self)


class Guests(Factory):
    """Keeps those who were let in."""

    noisy = False
    protocol = Welcome

    def __init__(self) -> None:
        self.made: list[Welcome] = []


class ScreenTests(TestCase):
    """Who comes is looked at first (Requirements 84 and 89)."""

    def open(self) -> None:
        """Open a port that asks :attr:`welcome`."""
        self.welcome = True
        self.asked: list[str] = []
        self.guests = Guests()

        def screen(address: str) -> bool:
            self.asked.append(address)
            return self.welcome

        self.port: Any = LegPort(
            "127.0.0.1", 0, self.guests, reactor, transport=WaitingLeg, screen=screen
        )
        self.port.startListening()
        self.addCleanup(self.port.stopListening)

    def connect(self) -> socket.socket:
        """A client, which does not wait."""
        client = socket.socket()
        self.addCleanup(client.close)
        client.settimeout(30.0)
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", self.port.getHost().port))
        client.setblocking(True)
        return client

    async def test_reset(self) -> None:
        """Who is not let in is reset: an orderly end would be an empty file, and would leave the
        kernel something to remember.
        """
        self.open()
        self.welcome = False
        client = self.connect()
        await until(lambda: self.asked == ["127.0.0.1"])
        with self.assertRaises((ConnectionResetError, BrokenPipeError)):
            await deferToThread(client.recv, 1)
        self.assertEqual(self.guests.made, [])

    async def test_let_in(self) -> None:
        """Who is let in is asked about once, and has a connection as any other."""
        self.open()
        self.connect()
        await until(lambda: len(self.guests.made) == 1)
        self.assertEqual(self.asked, ["127.0.0.1"])
        self.guests.made[0].transport.abortConnection()  # type: ignore[union-attr]

    async def test_flood(self) -> None:
        """Of those that wait only so many are turned away before others have their turn; and
        then whoever is welcome is let in.
        """
        self.open()
        self.port.stopReading()
        for _ in range(REFUSED + 5):
            self.connect()
        self.welcome = False
        listening = self.port.socket
        assert isinstance(listening, ScreenedSocket)
        with self.assertRaises(BlockingIOError):
            listening.accept()
        self.assertEqual(len(self.asked), REFUSED)
        self.welcome = True
        self.port.startReading()
        await until(lambda: len(self.guests.made) == 5)
        for made in self.guests.made:
            made.transport.abortConnection()  # type: ignore[union-attr]
