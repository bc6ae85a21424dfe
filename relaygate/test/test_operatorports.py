"""What a reload makes of the dashboard: another token, another address, TLS, or none at all."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import replace
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from relaygate.addresses import HostPort
from relaygate.admin import AdminCommands, Answer, Arguments
from relaygate.config import DashboardConfig
from relaygate.identity import IdentityError
from relaygate.keeper import DASHBOARD
from relaygate.operatorports import Keepers, OperatorPorts
from relaygate.test.certificates import ServerCA
from relaygate.test.peers import in_thread
from relaygate.test.ports import free_port
from relaygate.test.programs import new_folder, pause
from relaygate.test.test_dashboard import STATUS

HOST = "127.0.0.8"
TOKENS = ("correcthorsebatterystaple1", "correcthorsebatterystaple2")
WITHIN_S = 30.0


async def status(_: Arguments) -> Answer:
    """What the node says of itself."""
    return STATUS


class DoorsTests(TestCase):
    """A dashboard, and the files that it is made of."""

    timeout = 120

    def setUp(self) -> None:
        self.token = new_folder(self) / "token"
        self.token.touch(0o600)
        self.token.write_text(TOKENS[0])
        self.config = DashboardConfig(HostPort(HOST, free_port(HOST)), self.token)
        commands = AdminCommands()
        commands.register("status", status)
        self.keepers: Keepers = {}
        self.ports = OperatorPorts(None, self.config, commands, self.keepers, reactor)
        self.ports.startService()
        self.addCleanup(self.ports.stopService)

    def reload(self, config: DashboardConfig | None) -> list[str]:
        """As a node does."""
        return self.ports.use(self.ports.prepare(config))

    def answered(self, at: HostPort, token: str, ca: Path | None = None) -> int:
        """The status with which a look is answered; 0 if nobody listens."""
        line = http.client.HTTPConnection(at.host, at.port, timeout=30)
        if ca is not None:
            context = ssl.create_default_context(cafile=str(ca))
            line = http.client.HTTPSConnection(at.host, at.port, timeout=30, context=context)
        try:
            line.request("GET", "/api/past", headers={"Authorization": f"Bearer {token}"})
            return line.getresponse().status
        except ConnectionError:
            return 0
        finally:
            line.close()

    async def until(self, wanted: int, at: HostPort, token: str, ca: Path | None = None) -> None:
        """A port that moves is closed and opened in turns of the reactor."""
        found = -1
        for _ in range(int(WITHIN_S / 0.05)):
            found = await in_thread(lambda: self.answered(at, token, ca))
            if found == wanted:
                return
            await pause(0.05)
        self.assertEqual(found, wanted)

    async def test_token(self) -> None:
        """Another token counts from the reload on, also where connections stand; the past stays."""
        at = self.config.listen
        await self.until(200, at, TOKENS[0])
        self.assertEqual(self.reload(self.config), [])
        standing = http.client.HTTPConnection(at.host, at.port, timeout=30)
        self.addCleanup(standing.close)

        def ask() -> int:
            standing.request("GET", "/api/past", headers={"Authorization": f"Bearer {TOKENS[0]}"})
            answer = standing.getresponse()
            answer.read()
            return answer.status

        self.assertEqual(await in_thread(ask), 200)
        assert self.ports.dashboard is not None
        past = self.ports.dashboard.history
        self.token.write_text(TOKENS[1])
        self.assertEqual(self.reload(self.config), ["dashboard: changed (token)"])
        # The old connection is answered by one that is gone, or is gone as well.
        self.assertNotEqual(await in_thread(ask), 200)
        await self.until(200, at, TOKENS[1])
        await self.until(401, at, TOKENS[0])
        self.assertIs(self.ports.dashboard.history, past)

    async def test_address(self) -> None:
        """It moves, gets TLS, goes, and comes back."""
        first = self.config.listen
        moved = replace(self.config, listen=HostPort(HOST, free_port(HOST)))
        self.assertEqual(self.reload(moved), ["dashboard: changed (listen)"])
        await self.until(200, moved.listen, TOKENS[0])
        await self.until(0, first, TOKENS[0])
        ca = ServerCA(self)
        certified = ca.issue(HOST)
        safe = replace(moved, certificate=certified.certificate, key=certified.key)
        self.assertEqual(self.reload(safe), ["dashboard: changed (certificate, key)"])
        await self.until(200, safe.listen, TOKENS[0], ca.file)
        self.assertIn(DASHBOARD, self.keepers)
        self.assertEqual(self.reload(None), ["dashboard: removed"])
        await self.until(0, safe.listen, TOKENS[0])
        self.assertEqual(self.keepers, {})
        self.assertEqual(self.reload(self.config), ["dashboard: added"])
        await self.until(200, first, TOKENS[0])

    async def test_several_at_once(self) -> None:
        """Of reloads that follow each other at once the last one counts."""
        last = replace(self.config, listen=HostPort(HOST, free_port(HOST)))
        for config in (None, self.config, last):
            self.reload(config)
        await self.until(200, last.listen, TOKENS[0])
        await self.until(0, self.config.listen, TOKENS[0])

    async def test_files_that_are_wrong(self) -> None:
        """A token that cannot be used changes nothing."""
        self.token.write_text("short")
        self.assertRaises(IdentityError, self.reload, self.config)
        await self.until(200, self.config.listen, TOKENS[0])
