"""Tests of what operators see of ways out, and of what they order."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.threads import deferToThread

from relaygate.addresses import HostPort
from relaygate.admin import AdminError, Answer, Arguments
from relaygate.metrics import metrics
from relaygate.test.farend import until
from relaygate.test.forwardnodes import PARTNER, ForwardCase
from relaygate.test.ftppeers import Line
from relaygate.test.test_admin import socket_path
from relaygate.test.test_cli import call
from relaygate.test.test_forward_socks import HELLO, request


class SteeringCase(ForwardCase):
    """Ways out, and their operator."""

    async def order(self, command: str, **arguments: Any) -> Answer:
        """Give a command without the socket."""
        return await self.node.commands._handlers[command](Arguments(arguments))

    async def through(self, entry: Any, partner: Any) -> tuple[Line, Line]:
        """A program's connection by SOCKS that has moved 5 bytes out and 3 back."""
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, partner.port))
        far = await partner.peer()
        await program.has(12)
        program.send(b"there")
        await far.has(5)
        far.send(b"hey")
        await program.has(15)
        return program, far


class StatusTests(SteeringCase):
    """``relaygate status``, ``relaygate sessions`` and the metrics."""

    async def test_entries_and_sessions(self) -> None:
        """
        Who goes where by which entry is seen while it runs, with its bytes (Lesson 11), and an
        operator ends it.
        """
        entry, partner = self.entry("socks5", name="out"), self.partner()
        other = self.entry("tcp", name="fixed", target=HostPort(PARTNER, partner.port))
        await self.begin(entry, other)
        program, _ = await self.through(entry, partner)
        beside = self.program(other)
        await partner.peer()
        await until(lambda: all(each.relay for each in self.node.forwards.sessions), "both")
        self.assertEqual(len((await self.order("sessions"))["sessions"]), 2)
        (row,) = (await self.order("sessions", entry="out"))["sessions"]
        host, port = program.socket.getsockname()
        self.assertEqual(
            {key: row[key] for key in ("entry", "client", "gateway", "destination", "state")},
            {
                "entry": "out",
                "client": f"{host}:{port}",
                "gateway": "dmz",
                "destination": f"{PARTNER}:{partner.port}",
                "state": "open",
            },
        )
        self.assertEqual((row["bytes_in"], row["bytes_out"]), (5, 3))
        self.assertEqual((await self.order("sessions", service="out"))["sessions"], [])
        status = await self.order("status")
        self.assertEqual(status["sessions"], 2)
        out, fixed = status["forwards"]
        self.assertEqual([out[key] for key in ("name", "sessions", "bytes_in")], ["out", 1, 5])
        self.assertEqual((fixed["target"], fixed["opened"]), (f"{PARTNER}:{partner.port}", 1))
        told = metrics(status, 0, 0).decode()
        self.assertIn('relaygate_entry_sessions{entry="out"} 1\n', told)
        self.assertIn('relaygate_entry_bytes_total{entry="out",direction="out"} 3\n', told)
        self.assertEqual(await self.order("end", session=row["session"]), {"ended": row["session"]})
        await program.is_reset()
        with self.assertRaises(AdminError):
            await self.order("end", session=row["session"])
        beside.finish()
        refused = self.program(entry)
        refused.send(HELLO + request(PARTNER, 1))
        await refused.has(12)
        await until(lambda: self.node.forwards.entries["out"].tally.refused == 1, "the refusal")
        out, _ = (await self.order("status"))["forwards"]
        self.assertEqual((out["sessions"], out["bytes_in"], out["bytes_out"]), (0, 5, 3))

    async def test_tables(self) -> None:
        """The command line prints them, in the tables of services."""
        entry, partner = self.entry("socks5", name="out"), self.partner()
        path = socket_path(self)
        await self.begin(entry, inside={"admin_socket": path})
        await self.through(entry, partner)
        status, out, err = await deferToThread(call, "status", "--socket", str(path))
        self.assertEqual((status, err), (0, ""))
        self.assertRegex(out, rf"(?m)^out +socks5 +{entry.listen} +- +1 +1 +0 +5 +3$")
        argv = ("sessions", "--entry", "out", "--socket", str(path))
        status, out, err = await deferToThread(call, *argv)
        self.assertRegex(out, rf" out +\S+ +dmz +{PARTNER}:{partner.port} +\S+ +5 +3\n")
        _, out, _ = await deferToThread(call, *argv, "--json")
        self.assertEqual(json.loads(out)[0]["entry"], "out")
