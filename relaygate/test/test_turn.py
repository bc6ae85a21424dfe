"""The shorter turn: the same events, the same ends, as Twisted's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import main
from twisted.internet.abstract import FileDescriptor
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relaygate.turn import shorten


class _End(FileDescriptor):
    """One end of a pair of sockets; *reads* is what it does when it can be read."""

    def __init__(self, reactor: Any, reads: Callable[[_End], Exception | None]) -> None:
        super().__init__(reactor)
        self.mine, self.other = socket.socketpair()
        self.mine.setblocking(False)
        self.calls: list[str] = []
        self.lost: list[type[BaseException] | None] = []
        self._reads = reads

    def fileno(self) -> int:
        """See :class:`twisted.internet.interfaces.IFileDescriptor`."""
        return self.mine.fileno()

    def doRead(self) -> Exception | None:
        """See :class:`twisted.internet.interfaces.IReadDescriptor`."""
        self.calls.append("read")
        return self._reads(self)

    def doWrite(self) -> Exception | None:
        """See :class:`twisted.internet.interfaces.IWriteDescriptor`."""
        self.calls.append("write")
        return None

    def connectionLost(self, reason: Failure) -> None:
        """See :class:`twisted.internet.interfaces.IFileDescriptor`."""
        self.lost.append(reason.type)
        super().connectionLost(reason)
        self.mine.close()
        self.other.close()


def take(end: _End) -> Exception | None:
    """Read what there is."""
    return None if end.mine.recv(100) else main.CONNECTION_DONE


class TurnTests(SynchronousTestCase):
    """A reactor of its own, turned by hand; each test asks both kinds of turn."""

    def reactor(self, short: bool) -> EPollReactor:
        """A reactor."""
        made = EPollReactor()
        if short:
            self.assertTrue(shorten(made))

        def close() -> None:
            for one in made.removeAll():
                if isinstance(one, _End):
                    one.mine.close()
                    one.other.close()
            made._poller.close()

        self.addCleanup(close)
        return made

    def end(self, reactor: EPollReactor, reads: Callable[[_End], Exception | None] = take) -> _End:
        """One that is read."""
        made = _End(reactor, reads)
        made.startReading()
        return made

    def test_events(self) -> None:
        """What can be read is read, what can be written is written, and nothing else is asked."""
        for short in (False, True):
            reactor = self.reactor(short)
            reader, both, idle = (self.end(reactor) for _ in range(3))
            writer = self.end(reactor)
            writer.stopReading()
            writer.startWriting()
            both.startWriting()
            for one in (reader, both):
                one.other.send(b"x")
            reactor.iterate(0)
            calls = [one.calls for one in (reader, both, writer, idle)]
            self.assertEqual(calls, [["read"], ["read", "write"], ["write"], []])

    def test_ends(self) -> None:
        """An end, and a hang-up of one that is not read, are told as Twisted tells them."""
        for short in (False, True):
            reactor = self.reactor(short)
            ended, hung = self.end(reactor), self.end(reactor)
            hung.stopReading()
            hung.startWriting()
            ended.other.shutdown(socket.SHUT_WR)
            hung.other.close()
            reactor.iterate(0)
            self.assertEqual((ended.lost, hung.lost), ([ConnectionDone], [ConnectionLost]))

    def test_failures(self) -> None:
        """One that fails ends, with a line in the log; those beside it have their turn."""

        def fail(_: _End) -> None:
            raise ZeroDivisionError

        for short in (False, True):
            reactor = self.reactor(short)
            ends = [self.end(reactor, reads) for reads in (take, fail, take)]
            for one in ends:
                one.other.send(b"x")
            reactor.iterate(0)
            self.assertEqual([one.calls for one in ends], [["read"]] * 3)
            self.assertEqual([one.lost for one in ends], [[], [ZeroDivisionError], []])
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_gone_meanwhile(self) -> None:
        """What another one's event has ended is not asked any more."""
        for short in (False, True):
            reactor = self.reactor(short)
            ends: list[_End] = []

            def end_the_others(me: _End, ends: list[_End] = ends) -> None:
                for one in ends:
                    if one is not me and not one.lost:
                        one.connectionLost(Failure(main.CONNECTION_DONE))

            ends += [self.end(reactor, end_the_others) for _ in range(3)]
            for one in ends:
                one.other.send(b"x")
            reactor.iterate(0)
            self.assertEqual(sum(len(one.calls) for one in ends), 1)

    def test_number_of_another_one(self) -> None:
        """A new one that has the number of one that was just closed is not told of its end."""
        reactor = self.reactor(True)
        ends: list[_End] = []
        made = self.end(reactor)
        made.stopReading()

        def replace(me: _End) -> None:
            (other,) = (one for one in ends if one is not me)
            number = other.fileno()
            other.connectionLost(Failure(main.CONNECTION_DONE))
            os.dup2(made.fileno(), number)
            made.mine.close()
            made.mine = socket.socket(fileno=number)
            made.startReading()

        ends += [self.end(reactor, replace) for _ in range(2)]
        for one in ends:
            one.other.send(b"x")
        reactor.iterate(0)
        self.assertEqual(sum(len(one.calls) for one in ends), 1)
        self.assertEqual(sum(len(one.lost) for one in ends), 1)
        self.assertEqual((made.calls, made.lost), ([], []))

    def test_other_reactors(self) -> None:
        """Another reactor is left as it is."""
        other = SelectReactor()
        self.addCleanup(other.removeAll)
        self.assertFalse(shorten(other))
