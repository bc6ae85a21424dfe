"""
Sessions that are cut behind each of their steps, by each of their parties, in each way.

A dialogue is a generator that rests behind each thing that is said or done, also where nobody has
answered yet.  Whatever is cut there, nothing of the session may stay: no port, no descriptor, no
timer, no object; and what was half is never an orderly end for the other side.  With
RELAYGATE_SOAK=1 each party is cut in each way behind each step, else one of them.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, Final, cast

from relaygate import relay, transfers
from relaygate.test import test_ftp_leaks
from relaygate.test.farend import Ending, Peer, open_descriptors, reactor, unchanged, until
from relaygate.test.ftpnodes import CLIENT, FTPCase
from relaygate.test.ftppeers import Door, Line
from relaygate.test.gateway import SOAK
from relaygate.test.test_servicetls import client_context

Steps = AsyncGenerator[str, None]

WAYS: Final[dict[str, Callable[[Peer], None]]] = {
    "reset": Peer.reset,
    "end": Peer.finish,
    "close": Peer.close,
}
SILENT: Final = (b"USER", b"PASS", b"EPSV", b"STOR", b"SYST")


class StepTests(FTPCase):
    """Each step of each dialogue, each party, each way."""

    timeout = 900 if SOAK else 180

    def what_is_there(self) -> dict[str, object]:
        """All that a session could leave; pipes are kept for the next one."""
        found = test_ftp_leaks.LeakTests.what_is_there(cast(Any, self))
        kinds = open_descriptors().values()
        return found | {"descriptors": sum(not kind.startswith("pipe:") for kind in kinds)}

    # -- dialogues ------------------------------------------------------------------------------

    async def opened(self, tls: bool) -> Steps:
        """From nothing to a login."""
        self.parties["client"] = client = self.client()
        yield "connected"
        await client.reply(220)
        self.parties["backend"] = self.backend.controls[-1]
        yield "greeted"
        if tls:
            await client.ask(b"AUTH TLS", 234)
            yield "AUTH answered"
            await client.secure(client_context())
            yield "secured"
            await client.ask(b"PBSZ 0", 200)
            await client.ask(b"PROT P", 200)
        client.say(b"USER mina")
        yield "USER said"
        await client.reply(331)
        client.say(b"PASS sesame")
        yield "PASS said"
        await client.reply(230)
        yield "logged in"

    async def passive_transfer(self, command: bytes, tls: bool) -> Steps:
        """A file by EPSV."""
        async for step in self.opened(tls):
            yield step
        client = self.control
        self.backend.forget()
        client.say(b"EPSV")
        yield "EPSV said"
        port = int((await client.reply(229)).split(b"|")[3])
        yield "port offered"
        self.parties["data"] = data = self.connect(port)
        yield "data connected"
        client.say(command + b" x")
        yield "command said"
        await client.reply(150)
        yield "150"
        if tls:
            client.secure_data(data)
            await data.secured()
            yield "data secured"
        self.parties["inner"] = inner = await self.backend.data()
        yield "backend's data"
        async for step in self.moved(command, data, inner):
            yield step

    async def active_transfer(self, command: bytes) -> Steps:
        """A file by EPRT."""
        async for step in self.opened(tls=False):
            yield step
        client = self.control
        self.backend.forget()
        came: list[Line] = []
        door = Door(CLIENT, lambda skt: came.append(Line(skt)))
        self.doors.append(door)
        client.say(b"EPRT |1|%s|%d|" % (CLIENT.encode(), door.port))
        yield "EPRT said"
        await client.reply(200)
        yield "EPRT answered"
        client.say(command + b" x")
        yield "command said"
        await client.reply(150)
        await until(lambda: came, "the gateway's dial")
        door.close()
        self.parties["data"], self.parties["inner"] = came[0], await self.backend.data()
        yield "150"
        async for step in self.moved(command, came[0], self.parties["inner"]):
            yield step

    async def moved(self, command: bytes, data: Peer, inner: Peer) -> Steps:
        """The bytes of a file, and the last word."""
        source, sink = (inner, data) if command == b"RETR" else (data, inner)
        source.send(b"half")
        await sink.has(4)
        yield "half"
        source.finish()
        await sink.ended()
        yield "ended"
        sink.close()
        yield "closed"
        self.backend.controls[-1].say(b"226 done")
        await self.control.reply(226)
        yield "226"
        await self.control.ask(b"QUIT", 221)
        yield "221"

    async def aborted(self) -> Steps:
        """A download that is broken off."""
        async for step in self.passive_transfer(b"RETR", tls=False):
            if step == "half":
                break
        self.control.say(b"ABOR")
        yield "ABOR said"
        backend = self.backend.controls[-1]
        await backend.heard(b"ABOR")
        backend.say(b"426 aborted", b"226 done")
        await self.control.reply(426)
        yield "426"
        await self.control.reply(226)
        yield "226"

    async def late(self) -> Steps:
        """A command before its address."""
        async for _ in self.opened(tls=False):
            pass
        self.backend.forget()
        await self.control.ask(b"STOR x", 150)
        yield "150"
        self.control.say(b"EPSV")
        yield "EPSV said"
        port = int((await self.control.reply(229)).split(b"|")[3])
        yield "port offered"
        self.parties["data"] = self.connect(port)
        self.parties["inner"] = await self.backend.data()
        yield "connected"

    async def unanswered(self, verb: bytes) -> Steps:
        """A command that the backend leaves without an answer."""
        kept = self.backend.answers.pop(verb, None)
        try:
            async for step in self.passive_transfer(b"STOR", tls=False):
                if step == "logged in" and verb == b"SYST":
                    self.control.say(b"SYST", b"NOOP")
                    break
                word = "command" if verb == b"STOR" else verb.decode()
                if step == f"{word} said":
                    break
            backend = self.backend.controls[-1]
            await until(lambda: (backend.commands or [b""])[-1].startswith(verb), "the command")
            yield "silence"
        finally:
            if kept is not None:
                self.backend.answers[verb] = kept

    # -- cutting --------------------------------------------------------------------------------

    @property
    def control(self) -> Line:
        """The client's control connection."""
        client = self.parties["client"]
        assert isinstance(client, Line)
        return client

    async def cut(
        self, dialogue: Callable[[], Steps], number: int, choose: Callable[[list[str]], str]
    ) -> str | None:
        """Cut what *choose* says behind step *number*; what it was, or None: there is no step."""
        self.parties: dict[str, Peer] = {}
        steps = dialogue()
        at, count = "", -1
        async for step in steps:
            at, count = step, count + 1
            if count == number:
                break
        await steps.aclose()
        if count < number:
            await self.cleared()
            return None
        there = [name for name, peer in self.parties.items() if not peer.closed]
        what = choose([f"{party} {way}" for party in there for way in WAYS])
        party, way = what.split()
        # From here on nobody is to be waited for.
        for each in self.running:
            each._limits = dict.fromkeys(each._limits, 0.2)
        WAYS[way](self.parties[party])
        await self.consequences(f"{at}: {what}", party)
        await self.cleared()
        return what

    async def cleared(self) -> None:
        """Leave nothing for the next session."""
        for door in (*self.doors, *self.backend._data):
            door.close()
        self.doors.clear()
        self.backend._data.clear()
        for peer in [*self.parties.values(), *self.backend.controls, *self.backend.arrived]:
            peer.reset()
        await self.all_over()
        self.backend.controls.clear()
        self.backend.arrived.clear()
        self.backend.forget()

    async def consequences(self, what: str, party: str) -> None:
        """The session ends by itself with a control connection; half a file is never whole."""
        if party not in ("client", "backend"):
            # It may go on, and be told so, or be done.
            await self.settled()
            return
        try:
            await self.all_over()
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from None
        other = self.parties.get("data")
        if other is not None and not other.closed and other.ending is None:
            await other.ended()
        for name in ("data", "inner"):
            peer = self.parties.get(name)
            if peer is not None and not peer.closed and peer.count == 4 and not self.ended:
                self.assertIs(await peer.ended(), Ending.RESET, f"{what}: {name}")

    @property
    def ended(self) -> bool:
        """Whether the file had come to its end."""
        return any(peer.ending is Ending.END for peer in self.parties.values())

    async def settled(self) -> None:
        """Let what was done take effect."""
        for _ in range(3):
            await until(lambda: True, "a turn")
            reactor.callLater(0, lambda: None)
            await until(lambda: True, "a turn")

    async def walk(self, dialogue: Callable[[], Steps], draw: random.Random) -> int:
        """Cut a dialogue behind each step: once, or, with a lot of time, in all ways."""
        number = cuts = 0
        while True:
            done: set[str] = set()
            left: list[str] = []

            def choose(ways: list[str]) -> str:
                left[:] = [way for way in ways if way not in done]  # noqa: B023
                return draw.choice(left)  # noqa: B023

            while True:
                what = await self.cut(dialogue, number, choose)
                if what is None:
                    return cuts
                cuts += 1
                done.add(what)
                if not SOAK or len(left) == 1:
                    break
            number += 1

    async def test_each(self) -> None:
        """Nothing stays, wherever a session is cut (Requirement 21, 28)."""
        self.patch(relay, "UNREAD_LOOK_S", 0.1)
        self.patch(transfers, "LEAVING_LIMIT_S", 0.3)
        self.doors: list[Door] = []
        await self.begin("allow")
        dialogues: list[Callable[[], Steps]] = [
            lambda: self.passive_transfer(b"RETR", tls=False),
            lambda: self.passive_transfer(b"STOR", tls=True),
            lambda: self.active_transfer(b"RETR"),
            lambda: self.active_transfer(b"STOR"),
            self.aborted,
            self.late,
            *(partial(self.unanswered, verb) for verb in SILENT),
        ]
        draw = random.Random(8)
        # The first ones fill the pools.
        await self.walk(dialogues[0], draw)
        await unchanged(lambda: len(open_descriptors()), 1.0)
        before = self.what_is_there()
        cuts = 0
        for dialogue in dialogues:
            cuts += await self.walk(dialogue, draw)
        self.assertGreater(cuts, 60)
        await self.nothing_left()
        await unchanged(lambda: len(open_descriptors()), 1.0)
        self.assertEqual(self.what_is_there(), before)
