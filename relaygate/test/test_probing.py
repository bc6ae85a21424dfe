"""What a DMZ node says when it is asked how things look from where it stands."""

from __future__ import annotations

import json
import socket
from typing import Any

from relaygate import outlook
from relaygate.test.ftpnodes import GATE, SPAN, FTPCase
from relaygate.test.programs import new_folder
from relaygate.test.wire import lines, logged, until


class ProbeTests(FTPCase):
    """Two nodes in one process, asked as the admin socket asks."""

    async def probe(self, **arguments: Any) -> dict[str, Any]:
        """The answer's result."""
        reply = await self.ask(**arguments)
        self.assertTrue(reply["ok"], reply)
        result: dict[str, Any] = reply["result"]
        return result

    async def ask(self, **arguments: Any) -> dict[str, Any]:
        """The whole answer."""
        request = {"command": "probe", "gateway": "dmz", "channel": "tls", **arguments}
        answer: dict[str, Any] = json.loads(
            await self.node.commands.answer(json.dumps(request).encode())
        )
        return answer

    async def test_there_and_back(self) -> None:
        """A message goes over a real data channel and back, and leaves nothing behind but time."""
        await self.begin()
        with logged() as events:
            result = await self.probe()
        self.assertLess(0, result["channel_seconds"])
        self.assertLess(0, result["uplink_seconds"])
        self.assertLess(abs(result["clock_ahead_seconds"]), 2)
        self.assertEqual((result["permitted"], result["own"]), (0, False))
        self.assertEqual(lines(events, "session"), [])
        # The channel is replaced, as any that was used.
        await until(lambda: self.node.links["dmz"].state()["idle_channels"]["tls"] == 2)

    async def test_ports(self) -> None:
        """Ports that are taken do not count as free; those that the policy forbids not at all."""
        await self.begin()
        first, last = SPAN
        whole = await self.probe(host=GATE, first=first, last=last)
        self.assertEqual(whole["permitted"], last - first + 1)
        self.assertTrue(whole["own"])
        with socket.socket() as taken:
            taken.bind((GATE, 0))
            taken.listen()
            port = taken.getsockname()[1]
            result = await self.probe(host=GATE, first=port, last=port)
            self.assertEqual((result["permitted"], result["free"]), (1, 0))
        elsewhere = await self.probe(host="192.0.2.1", first=first, last=last)
        self.assertEqual((elsewhere["permitted"], elsewhere["own"]), (0, False))

    async def test_lent(self) -> None:
        """Ports that the system lends are counted, but for those that are reserved."""
        folder = new_folder(self)
        for name, text in (("_LENT", "32768\t60999\n"), ("_RESERVED", "40000,50000-50003\n")):
            (folder / name).write_text(text)
            self.patch(outlook, name, folder / name)
        spans = ((30000, 30999), (32700, 32769), (39999, 40001), (50000, 50005), (50000, 50003))
        found = [outlook.lent_ports(*span) for span in spans]
        self.assertEqual(found, [0, 2, 2, 2, 0])
        await self.begin()
        self.assertEqual((await self.probe(host=GATE, first=39999, last=40001))["lent"], 2)
        self.patch(outlook, "_LENT", folder / "not there")
        self.assertIsNone((await self.probe(host=GATE, first=39999, last=40001))["lent"])
        self.assertIsNone((await self.probe())["lent"])

    async def test_no_channel(self) -> None:
        """Where no channel of that kind comes there is no time, and an answer all the same."""
        await self.begin()
        self.patch(self.node.links["dmz"], "open_channels", lambda *_: None)
        result = await self.probe(channel="clear")
        self.assertIsNone(result["channel_seconds"])

    async def test_refusals(self) -> None:
        """Nonsense is refused in words, and so is a DMZ node that is not there."""
        await self.begin()
        for arguments, word in (
            ({"gateway": "moon"}, "moon"),
            ({"channel": "loud"}, "channel"),
            ({"host": "name.example"}, "IP address"),
            ({"host": GATE, "first": 9, "last": 8}, "range"),
            ({"host": GATE, "first": 70_000}, "first"),
        ):
            reply = await self.ask(**arguments)
            self.assertFalse(reply["ok"], arguments)
            self.assertIn(word, reply["error"])
        await self.stopped(self.dmz)  # type: ignore[misc]
        await until(lambda: self.node.links["dmz"].state()["state"] == "down")
        reply = await self.ask()
        self.assertIn("no uplink", reply["error"])
