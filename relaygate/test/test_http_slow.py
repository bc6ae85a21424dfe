"""Slowhttptest at both nodes: slow heads, slow bodies and slow readers are all got rid of."""

from __future__ import annotations

from relaygate import httpwatch, relay
from relaygate.test.httppeers import OK, HTTPCase, parts
from relaygate.test.netns import require_program
from relaygate.test.programs import Program
from relaygate.test.test_sessions_http import CLOSE
from relaygate.test.wire import lines, logged, until

_COUNT = 12


class SlowHTTPTests(HTTPCase):
    """Requirement 86: each attack ends by our limits, while others are served."""

    timeout = 240

    async def attack(self, told: str, *mode: str) -> None:
        """
        Run it with *mode* until we have ended all that it began, each with *told* in its line.

        It asks in good manners now and then, to see whether it has won.
        """
        program = require_program("slowhttptest")
        url = f"http://127.0.0.1:{self.port}/"
        command = [program, *mode, "-c", str(_COUNT), "-r", "100", "-l", "200", "-u", url]
        attacker = Program(self, "slowhttptest", command)
        with logged() as events:
            attacker.start()
            await until(lambda: len(lines(events, " open: ")) >= 2 * _COUNT, "the attack")
            answer = await self.ask(CLOSE.replace(b"GET / ", b"GET /others "))
            self.assertEqual(parts(answer)[2], b"ok")
            await until(
                lambda: sum(told in line for line in lines(events, " request: ")) == _COUNT,
                "the lines",
            )
            # Each session ends on both nodes, and the one of others is among them.
            await until(lambda: len(lines(events, " end: ")) >= 2 * (_COUNT + 1), "the ends")
        if attacker.running:
            attacker.kill()
            await attacker.ended()

    async def test_slow_heads(self) -> None:
        """A field a second, for ever (slow-loris)."""
        await self.serve(header_timeout_s=1.5)
        await self.attack("status=408", "-H", "-i", "1")

    async def test_slow_bodies(self) -> None:
        """A few bytes of a body a second."""
        self.patch(httpwatch, "LOOK_S", 0.7)
        await self.serve(body_min_rate=1000)
        await self.attack("status=408", "-B", "-i", "1", "-s", "100000")

    async def test_slow_readers(self) -> None:
        """A window of a few bytes, of which one is read a second."""
        self.patch(httpwatch, "LOOK_S", 0.3)
        self.patch(httpwatch, "UNREAD_LIMIT_S", 1.0)
        self.patch(relay, "UNREAD_LOOK_S", 0.3)
        big = b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 20_000_000
        await self.serve(lambda asked: OK if b"/others" in asked else big)
        reading = ("-w", "64", "-y", "256", "-n", "1", "-z", "1")
        await self.attack("moved too slowly", "-X", *reading)
