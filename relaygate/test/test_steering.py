"""Tests of what an operator asks and orders of a running internal node."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

import relaygate
from relaygate import piecemeal
from relaygate.admin import Arguments
from relaygate.outcome import Cause
from relaygate.test.netns import missing
from relaygate.test.test_admin import socket_path
from relaygate.test.test_cli import call
from relaygate.test.test_sessions import Echo, SessionCase
from relaygate.test.wire import until


class SteeringCase(SessionCase):
    """Two nodes, whose internal one has a socket."""

    async def begin(self, **more: Any) -> None:
        """Start both with one service."""
        self.path = socket_path(self)
        self.admin_socket = self.path
        await self.start("tcp", Echo, **more)

    async def call(self, *argv: str) -> tuple[int, str, str]:
        """Run ``relaygate``."""
        return await deferToThread(call, *argv, "--socket", str(self.path))

    async def ask(self, *argv: str) -> Any:
        """Run ``relaygate`` with ``--json`` and read what it says."""
        status, out, err = await self.call(*argv, "--json")
        self.assertEqual((status, err), (0, ""), argv)
        return json.loads(out)


class StatusTests(SteeringCase):
    """``relaygate status`` and ``relaygate sessions``."""

    async def test_status(self) -> None:
        """
        Status tells of the node, of the DMZ node in its own words, and counts bytes while sessions
        run (Lesson 11).
        """
        await self.begin()
        client = await self.client(b"hello")
        await self.got(client, b"hello")
        status = await self.ask("status")
        self.assertEqual(status["node"], "node-a")
        self.assertEqual(status["sessions"], 1)
        (service,) = status["services"]
        self.assertEqual(
            [service[key] for key in ("name", "sessions", "opened", "refused", "bytes_in")],
            ["svc", 1, 1, 0, 5],
        )
        (gateway,) = status["gateways"]
        self.assertEqual((gateway["name"], gateway["state"]), ("dmz", "up"))
        report = gateway["report"]
        self.assertEqual(report["figures"]["sessions"], 1)
        (listener,) = report["listeners"]
        self.assertEqual((listener["service"], listener["opened"]), ("svc", 1))
        # What the document promises to programs is there.
        promised = self.promised()
        self.assertEqual(promised["`status`"] - status.keys(), set())
        (session,) = await self.ask("sessions")
        for name, row in (
            ("gateways", gateway),
            ("services", service),
            ("backends", service["backends"][0]),
            ("certificates", status["certificates"][0]),
            ("sessions", session),
        ):
            self.assertEqual(promised[f"`{name}`"] - row.keys(), set(), name)
        status, out, err = await self.call("status")
        self.assertEqual((status, err), (0, ""))
        for word in ("node-a", "dmz", "svc", "up"):
            self.assertIn(word, out)

    def promised(self) -> dict[str, set[str]]:
        """The keys of JSON that docs/operations.md has, by what they are keys of."""
        document = Path(relaygate.__file__).parents[1] / "docs" / "operations.md"
        if not document.exists():
            missing("the documents are only in a checkout")
        found = {}
        rows = r"(?m)^\| (?:each of )?(`\w+`)(?: \(a list\))? \| ((?:`\w+` ?){3,})\|$"
        for name, keys in re.findall(rows, document.read_text()):
            found[name] = set(re.findall(r"\w+", keys))
        self.assertEqual(len(found), 6)
        return found

    async def test_sessions(self) -> None:
        """Sessions are listed with their bytes, and in pages."""
        await self.begin()
        clients = [await self.client(b"hello") for _ in range(3)]
        await until(lambda: all(client.data == b"hello" for client in clients))
        sessions = await self.ask("sessions")
        self.assertEqual(len(sessions), 3)
        self.assertEqual({each["bytes_out"] for each in sessions}, {5})
        self.assertEqual(await self.ask("sessions", "--service", "other"), [])
        _, out, _ = await self.call("sessions")
        self.assertEqual(len(out.splitlines()), 4)
        answer = await self.answer("sessions", limit=2)
        self.assertEqual((len(answer["sessions"]), answer["more"]), (2, True))
        after = answer["sessions"][-1]["session"]
        answer = await self.answer("sessions", limit=2, after=after)
        self.assertEqual((len(answer["sessions"]), answer["more"]), (1, False))
        # One that has ended since the first page is on none that follows.
        answer = await self.answer("sessions", limit=1)
        for client in clients:
            client.transport.abortConnection()  # type: ignore[union-attr]
        await until(lambda: not self.node.sessions)
        after = answer["sessions"][0]["session"]
        answer = await self.answer("sessions", after=after)
        self.assertEqual(answer, {"sessions": [], "more": False})

    async def test_ends_while_counted(self) -> None:
        """Sessions are counted in pieces; what ends between two is counted once, by both nodes."""
        await self.begin()
        clients = [await self.client(b"hello") for _ in range(4)]
        await until(lambda: all(client.data == b"hello" for client in clients))
        self.patch(piecemeal, "PIECE", 1)
        inside, report = self.answer("status", reports=False), self.answer("status")
        for session in list(self.node.sessions):
            session.abort(Cause.POLICY, "")
        (service,) = (await inside)["services"]
        self.assertEqual((service["bytes_in"], service["bytes_out"]), (20, 20))
        (gateway,) = (await report)["gateways"]
        (listener,) = gateway["report"]["listeners"]
        self.assertEqual((listener["bytes_in"], listener["bytes_out"]), (20, 20))

    async def test_end(self) -> None:
        """One session is ended by its id and its client reset; one that there is not is refused."""
        await self.begin()
        ended, other = [await self.client(b"hello") for _ in range(2)]
        await until(lambda: ended.data == other.data == b"hello")
        port = ended.transport.getHost().port  # type: ignore[union-attr]
        [row] = [each for each in await self.ask("sessions") if each["client"].endswith(f":{port}")]
        said = await self.call("end", row["session"])
        self.assertEqual(said, (0, f"ended: {row['session']}\n", ""))
        await until(lambda: ended.over is not None)
        self.assertEqual(len(await self.ask("sessions")), 1)
        status, out, err = await self.call("end", row["session"])
        self.assertEqual((status, out), (1, ""))
        self.assertIn("there is none with this id", err)

    def answer(self, name: str, **arguments: Any) -> Deferred[Any]:
        """Give a command without the socket."""
        handler = self.node.commands._handlers[name]
        return Deferred.fromCoroutine(handler(Arguments(arguments)))
