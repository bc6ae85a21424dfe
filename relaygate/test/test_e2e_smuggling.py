"""
Requests that could be read in two ways, and what nginx and Apache behind the gateway made of them.

Whatever the gateway's log says that it has passed on, and nothing else, must have been seen inside.
"""

from __future__ import annotations

import difflib
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.gateway import Gateway
from relaygate.test.httppeers import read_all
from relaygate.test.netns import Network
from relaygate.test.peers import eventually, in_thread
from relaygate.test.smuggling import AMBIGUOUS, CLEAR, HIDDEN
from relaygate.test.suites import Source, unpacked
from relaygate.test.test_e2e_http import table
from relaygate.test.webservers import Apache, Nginx, WebServer

GUNICORN: Final = Source(
    "gunicorn", "27.0.1", "b1514965361c8b7e8107a80aa2a92636878df1ccfac6dd204a676426e04d9e3e"
)
PORTS: Final = {Nginx: 8080, Apache: 8081}
_LINE: Final = re.compile(
    r" request: service=(\S+) .* backend=(\S+) method=(\S+) host=\S+ path=('.*?'|\".*?\"|\S+)"
    r" status=(\d+) "
)
# A longer path is cut short in logs.
_SHOWN: Final = 200
_ESCAPE: Final = re.compile(rb"\\x([0-9a-fA-F]{2})")


class SmugglingTests(TestCase):
    """Two corpora, against two servers."""

    timeout = 300

    async def setUp(self) -> None:  # type: ignore[override]
        where = Network.private_address
        self.gateway = Gateway(
            self,
            [
                table(kind.__name__.lower(), "http", port, f"{where}:{kind.port}")
                for kind, port in PORTS.items()
            ],
        )
        self.servers = [kind(self, self.gateway.private, where) for kind in PORTS]
        for server in self.servers:
            await server.ready()
        await self.gateway.start()

    def send(self, port: int, data: bytes) -> bytes:
        """Send *data*, end our direction, and return all that is said."""
        with self.gateway.client(port) as client:
            client.settimeout(60)
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            except OSError:
                # It was refused while it was being sent.
                pass
            return read_all(client)

    def passed(self, server: WebServer) -> list[tuple[str, str, int]]:
        """What the gateway says it has passed on to *server*: method, path, status."""
        found = []
        for line in self.gateway.node.log().splitlines():
            match = _LINE.search(line)
            if match and match[1] == server.name and match[2] != "-":
                path = match[4].strip("'\"") if match[4][0] in "'\"" else match[4]
                found.append((match[3], path[:_SHOWN], int(match[5])))
        return found

    @staticmethod
    def seen(server: WebServer) -> list[tuple[str, str, int]]:
        """What *server* has seen."""
        found = []
        for row in server.seen:
            line = row[0].replace('\\"', '"')
            method, _, target = line.rpartition(" ")[0].partition(" ")
            status = next(int(each) for each in reversed(row) if each.isdigit())
            found.append((method, target.partition("?")[0][:_SHOWN], status))
        return found

    def difference(self, server: WebServer) -> list[str]:
        """What only the gateway, or only *server*, knows of."""
        passed = [f"{method} {path}" for method, path, _ in self.passed(server)]
        seen = [f"{method} {path}" for method, path, _ in self.seen(server)]
        return [line for line in difflib.ndiff(passed, seen) if line[0] != " "]

    async def compare(self, corpus: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
        """Send the *corpus* to each server; return the answers, by server and name."""
        answers = {}
        for server in self.servers:
            port = PORTS[type(server)]
            answers[server.name] = {
                name: await in_thread(self.send, port, data) for name, data in corpus.items()
            }
            # What was broken off is answered by neither side.
            try:
                await eventually(
                    lambda server=server: not self.difference(server),  # type: ignore[misc]
                    "the server has seen what was passed on",
                    30.0,
                )
            except AssertionError:
                self.fail(f"{server.name}: {self.difference(server)}")
        return answers

    async def test_published(self) -> None:
        """Requirements 50 to 55: no hidden request is seen by a server, or answered."""
        answers = await self.compare(AMBIGUOUS | CLEAR)
        for server in self.servers:
            said = answers[server.name]
            for name in AMBIGUOUS:
                self.assertEqual(len(re.findall(rb"HTTP/1\.1 [2-5]", said[name])), 1, name)
                self.assertRegex(said[name], rb"^HTTP/1\.1 (400|501|505) ", name)
            paths = [path for _, path, _ in self.seen(server)]
            self.assertNotIn(HIDDEN.decode(), paths)
            for name in CLEAR:
                self.assertEqual(len(re.findall(rb"HTTP/1\.1 [2-5]", said[name])), 1, name)

    async def test_gunicorn(self) -> None:
        """Gunicorn's requests, good and bad: the gateway and the servers agree on each."""
        root = await unpacked(self, GUNICORN) / "tests" / "requests"
        corpus = {
            f"{kind}/{file.stem}": raw_request(file)
            for kind in ("valid", "invalid")
            for file in sorted((root / kind).glob("*.http"))
        }
        self.assertGreater(len(corpus), 100)
        answers = await self.compare(corpus)
        for said in answers.values():
            for name, answer in said.items():
                self.assertNotIn(Network.private_address.encode(), answer, name)


def raw_request(file: Path) -> bytes:
    """The bytes that a file of gunicorn's corpus stands for."""
    data = file.read_bytes().replace(b"\n", b"").replace(b"\\r\\n", b"\r\n")
    data = data.replace(b"\\0", b"\0").replace(b"\\n", b"\n").replace(b"\\t", b"\t")
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), data)
