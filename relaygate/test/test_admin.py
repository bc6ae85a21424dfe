"""Tests of the admin socket and of the commands that talk to it."""

from __future__ import annotations

import gc
import json
import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaygate.admin import (
    MAX_CONNECTIONS,
    MAX_REQUEST_BYTES,
    AdminCommands,
    AdminError,
    AdminPort,
    Answer,
    Arguments,
)
from relaygate.test.properties import given, st
from relaygate.test.test_cli import call
from relaygate.test.wire import lines, logged, until


def socket_path(case: SynchronousTestCase) -> Path:
    """A path for a socket, in a folder of its own; the usual ones are too long for it."""
    folder = tempfile.TemporaryDirectory()
    case.addCleanup(folder.cleanup)
    return Path(folder.name) / "admin.sock"


async def echo(arguments: Arguments) -> Answer:
    """Say what was given."""
    word = arguments.text("word", "nothing", longest=8)
    arguments.finish()
    return {"word": word}


async def fail(arguments: Arguments) -> Answer:
    """Fail in a way that nobody thought of."""
    raise RuntimeError("oh")


def commands() -> AdminCommands:
    """A table with a command that works and one that does not."""
    made = AdminCommands()
    made.register("echo", echo)
    made.register("fail", fail)
    return made


class CommandTests(SynchronousTestCase):
    """Requests and answers, without a socket."""

    def answer(self, line: bytes) -> Any:
        done = Deferred.fromCoroutine(commands().answer(line))
        reply = self.successResultOf(done)
        self.assertTrue(reply.endswith(b"\n"))
        return json.loads(reply)

    def test_answer(self) -> None:
        """A request is answered by its command's handler."""
        self.assertEqual(
            self.answer(b'{"command":"echo","word":"hi"}'), {"ok": True, "result": {"word": "hi"}}
        )

    def test_mistakes(self) -> None:
        """What is no request, no command or no argument is refused in words."""
        for line, words in (
            (b"", "JSON"),
            (b"\xff", "JSON"),
            (b"[" * 100_000, "JSON"),
            (b"[]", "JSON"),
            (b"{}", "knows echo, fail"),
            (b'{"command":7}', "knows echo, fail"),
            (b'{"command":"echo","word":"far too long"}', "word: expected a text of at most 8"),
            (b'{"command":"echo","word":7}', "word: expected"),
            (b'{"command":"echo","word":"a\\nb"}', "word: expected"),
            (b'{"command":"echo","wrod":"hi"}', "unknown argument: 'wrod'"),
        ):
            reply = self.answer(line)
            self.assertFalse(reply["ok"])
            self.assertIn(words, reply["error"])

    def test_a_mistake_of_ours(self) -> None:
        """A handler that fails costs its answer, and the log says why."""
        with logged() as events:
            reply = self.answer(b'{"command":"fail"}')
        self.assertEqual(reply, {"ok": False, "error": "internal error: see the log"})
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertTrue(events)

    @given(st.binary(max_size=200))
    def test_anything(self, line: bytes) -> None:
        """Whatever comes is answered."""
        self.assertIn("ok", self.answer(line))

    def test_arguments(self) -> None:
        """Each kind of argument is bounded."""
        values = Arguments({"n": 5, "c": "a", "l": ["x", "y"], "b": True})
        self.assertEqual(values.number("n", 1, 5), 5)
        self.assertEqual(values.choice("c", "a", "b"), "a")
        self.assertEqual(values.texts("l", most=2), ["x", "y"])
        self.assertEqual(values.texts("absent", most=2), [])
        self.assertEqual(values.number("absent", 1, 5, 3), 3)
        self.assertRaises(AdminError, values.number, "b", 0, 5)
        values.finish()
        self.assertRaises(AdminError, Arguments({"n": 6}).number, "n", 1, 5)
        self.assertRaises(AdminError, Arguments({}).choice, "c", "a")
        self.assertRaises(AdminError, Arguments({"l": ["x"] * 3}).texts, "l", most=2)
        self.assertRaises(AdminError, Arguments({"l": ["x", 7]}).texts, "l", most=2)
        self.assertRaises(AdminError, Arguments({"l": "x"}).texts, "l", most=2)


class SocketTests(TestCase):
    """The socket as such."""

    timeout = 60

    def setUp(self) -> None:
        self.path = socket_path(self)
        self.port = self.open()

    def open(self) -> AdminPort:
        """Listen there."""
        port = AdminPort(self.path, commands(), reactor)
        port.startService()
        self.addCleanup(port.stopService)
        return port

    def connect(self) -> socket.socket:
        """Connect to it."""
        made = socket.socket(socket.AF_UNIX)
        self.addCleanup(made.close)
        made.settimeout(30)
        made.connect(str(self.path))
        return made

    async def say(self, connection: socket.socket, data: bytes, answers: int = 1) -> list[Any]:
        """Send *data* and read so many answers."""

        def work() -> list[Any]:
            connection.sendall(data)
            with connection.makefile("rb") as stream:
                return [json.loads(stream.readline()) for _ in range(answers)]

        return await deferToThread(work)

    async def test_owner_only(self) -> None:
        """Nobody but its owner may connect, and no other file is left beside it."""
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(os.listdir(self.path.parent), ["admin.sock"])

    async def test_in_order(self) -> None:
        """Requests that are sent at once are answered in order, on one connection."""
        connection = self.connect()
        requests = [b'{"command":"echo","word":"%d"}\n' % number for number in range(500)]
        answers = await self.say(connection, b"".join(requests), 500)
        words = [answer["result"]["word"] for answer in answers]
        self.assertEqual(words, [str(number) for number in range(500)])

    async def test_left(self) -> None:
        """Of one who leaves without the answers nothing stays, nor does it make an error."""
        for _ in range(5):
            connection = self.connect()
            connection.sendall(b'{"command":"echo"}\n' * 200)
            connection.close()
        (answer,) = await self.say(self.connect(), b'{"command":"echo"}\n')
        self.assertTrue(answer["ok"])
        await until(lambda: len(self.port._connections) == 1)
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_too_long(self) -> None:
        """A request that does not end is refused, and its connection closed."""
        connection = self.connect()
        (answer,) = await self.say(connection, b"x" * (MAX_REQUEST_BYTES + 1))
        self.assertIn("too long", answer["error"])

    async def test_so_many(self) -> None:
        """So many connections, and not one more."""
        connections = [self.connect() for _ in range(MAX_CONNECTIONS)]
        (answer,) = await self.say(connections[-1], b'{"command":"echo"}\n')
        self.assertTrue(answer["ok"])
        self.assertEqual(await deferToThread(self.connect().recv, 1), b"")
        connections[0].close()
        await until(lambda: len(self.port._connections) < MAX_CONNECTIONS)
        (answer,) = await self.say(self.connect(), b'{"command":"echo"}\n')
        self.assertTrue(answer["ok"])

    async def test_taken_over(self) -> None:
        """
        A newer node's socket takes the name over, from one that was killed and from one that
        lives; the older one's end does not remove it.
        """
        newer = AdminCommands()
        newer.register("new", echo)
        port = AdminPort(self.path, newer, reactor)
        port.startService()
        self.addCleanup(port.stopService)
        (answer,) = await self.say(self.connect(), b'{"command":"new"}\n')
        self.assertTrue(answer["ok"])
        await self.port.stopService()
        (answer,) = await self.say(self.connect(), b'{"command":"new"}\n')
        self.assertTrue(answer["ok"])
        await port.stopService()
        self.assertEqual(os.listdir(self.path.parent), [])

    async def test_no_place(self) -> None:
        """A path where no socket can be is an error in the log that names it; the node lives."""
        with logged() as events:
            port = AdminPort(Path("/no/such/folder/admin.sock"), commands(), reactor)
            port.startService()
            port.stopService()
        [line] = [line for line in lines(events) if "admin.socket" in line]
        self.assertIn("on /no/such/folder/admin.sock: No such file", line)

    async def test_command_line(self) -> None:
        """The command line says why it got nothing: no socket, or a refusal in words."""
        where = ("--socket", str(self.path))
        status, out, err = await deferToThread(call, "status", *where)
        self.assertEqual((status, out), (1, ""))
        self.assertIn("no such command; this node knows echo, fail", err)
        status, out, err = await deferToThread(call, "status", "--socket", "/nowhere")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("no answer at /nowhere: No such file or directory", err)
        with mock.patch.dict(os.environ, RELAYGATE_SOCKET=str(self.path)):
            status, out, err = await deferToThread(call, "status")
        self.assertIn("no such command", err)
