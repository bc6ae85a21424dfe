"""The FTP clients of the tests: that none calls something a success that was none."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test import netns
from relaygate.test.ftpclient import ACTIONS, CONTENT, CONTINUED, HALF, Action, Target, Work
from relaygate.test.ftpclients import CLIENTS, FTPLib
from relaygate.test.ftpservers import Offer, PyFTPd
from relaygate.test.netns import Network
from relaygate.test.programs import Where, new_folder

PORT: Final = 2100


class Forgetful(FTPLib):
    """A client that begins again where it should continue."""

    def command(self, work: Work) -> list[str]:
        work.near.unlink()
        work.action = "download"
        try:
            return super().command(work)
        finally:
            work.action = "resume"


class ClientTests(TestCase):
    """Clients in a place where little is as it should be."""

    timeout = 240

    def setUp(self) -> None:
        netns.require()
        self.network = Network()
        self.addCleanup(self.network.destroy)
        self.network.create()
        self.address = self.network.private_address
        self.where: Where = (self.network, "private")
        self.files: Path = new_folder(self)

    async def test_without_a_server_all_fails(self) -> None:
        """Every action of every client fails, and says why, where nobody listens."""
        for client in CLIENTS:
            for action in ACTIONS:
                if not client.can("PASV", "plain", action):
                    continue
                target = Target(self.address, PORT, "partner", "PASV")
                result = await client.perform(self, target, action, self.files, where=self.where)
                self.assertFalse(result.ok, (client.name, action))
                self.assertNotEqual(result.why, "", (client.name, action))

    async def test_files_are_compared(self) -> None:
        """An action is judged by the files, not by what client and server say of it."""
        server = PyFTPd(self, self.address, PORT, Offer(), where=self.where)
        await server.ready()
        target = Target(self.address, PORT, server.user, "PASV")
        (server.files / "far-other").touch()
        wanted: dict[Action, str] = {
            "upload": f"cut short there, 0 of {len(CONTENT)} bytes",
            "append": f"cut short there, {HALF} of {len(CONTINUED)} bytes",
            "list": "not listed",
        }
        for client in CLIENTS:
            for action, why in wanted.items():
                if client.can("PASV", "plain", action):
                    # The files that are looked at are not those of the server.
                    result = await client.perform(
                        self, target, action, self.files, where=self.where
                    )
                    self.assertIn(why, result.why, (client.name, action))

    async def test_who_moves_all_again_is_found_out(self) -> None:
        """A download in the place of a continued one is no success."""
        server = PyFTPd(self, self.address, PORT, Offer(), where=self.where)
        await server.ready()
        target = Target(self.address, PORT, server.user, "PASV")
        result = await Forgetful().perform(self, target, "resume", server.files, where=self.where)
        self.assertIn("a wrong file here", result.why)
