"""A test that FTP sessions leave nothing behind, however they end."""

from __future__ import annotations

import gc
import random
from collections import Counter

from relaygate.backsession import BackSession
from relaygate.frontsession import FrontSession
from relaygate.ftpcontrol import ControlEnd
from relaygate.ftpdata import FTPData
from relaygate.ftprelay import FTPRelay
from relaygate.protocols.ftpalg import FTPSession
from relaygate.relay import Relay
from relaygate.test.farend import Peer, open_descriptors, reactor, unchanged, until
from relaygate.test.ftpnodes import FTPCase
from relaygate.test.ftppeers import BackendLine, Line
from relaygate.transfer import Transfer

KINDS = (BackSession, FrontSession, ControlEnd, FTPData, FTPRelay, FTPSession, Relay, Transfer)
SESSIONS = 500


class LeakTests(FTPCase):
    """Sessions of all kinds, one after the other."""

    timeout = 240

    async def test_nothing_stays(self) -> None:
        """After 500 sessions with random ends nothing is left of any (Requirement 21; Lesson 1)."""
        await self.begin("allow")
        kinds = [(way, end) for way in range(6) for end in range(4)]
        # The first ones fill the pools.
        for way, end in kinds:
            await self.session(way, end)
        await unchanged(lambda: len(open_descriptors()), 1.0)
        before = self.what_is_there()
        draw = random.Random(4)
        for _ in range(SESSIONS):
            await self.session(*draw.choice(kinds))
        await self.nothing_left()
        try:
            await until(lambda: self.what_is_there() == before, "as it was")
        except AssertionError:
            self.assertEqual(self.what_is_there(), before)

    def what_is_there(self) -> dict[str, object]:
        """All that a session could leave."""
        gc.collect()
        return {
            "objects": Counter(type(each) for each in gc.get_objects() if type(each) in KINDS),
            "descriptors": len(open_descriptors()),
            "calls": len(reactor.getDelayedCalls()),
            "bound": set(self.bound),
        }

    async def session(self, way: int, end: int) -> None:
        """Do something *way*, and break off or finish in *end*."""
        client, backend = await self.logged_in(tls=way % 2 == 1)
        peers: list[Peer] = [client, backend]
        if way >= 2:
            port = await self.passive(client)
            if way >= 4:
                data = self.connect(port)
                peers.append(data)
                await client.ask(b"STOR x", 150)
                if client.context is not None:
                    client.secure_data(data)
                inner = await self.backend.data()
                data.send(b"some")
                await inner.has(4)
                if end == 0:
                    await self.finish(client, backend, data, inner)
            peers += self.backend.arrived
        if end == 0:
            await client.ask(b"QUIT", 221)
        elif end == 1:
            client.reset()
        elif end == 2:
            client.close()
        else:
            backend.reset()
            await client.ended()
        for peer in peers if end else [client]:
            peer.close()
        await self.all_over()
        for peer in peers:
            peer.close()
        self.backend.controls.clear()
        self.backend.arrived.clear()
        self.backend.forget()

    async def finish(self, client: Line, backend: BackendLine, data: Line, inner: Line) -> None:
        """Let an upload end well."""
        data.finish()
        await inner.got(b"some")
        inner.close()
        backend.say(b"226 done")
        await client.reply(226)
        data.close()
