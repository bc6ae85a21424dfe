"""Odd peers at odd moments: what servers do behind ABOR and QUIT, and clients that read slowly."""

from __future__ import annotations

from relaygate import ftpdata, ftprelay
from relaygate.protocols.ftpeffects import DataEnd, Direction, End, Wait
from relaygate.test.farend import Ending, payload, until
from relaygate.test.ftpnodes import FTPCase
from relaygate.test.ftppeers import Line
from relaygate.test.ftpscript import ScriptTestCase, asks, closes, own, told
from relaygate.test.test_mapped import PORT, PassingCase
from relaygate.transfers import MAX_MAPPED

_CLOSED = own(421, "Service not available, closing control connection.")


class LastWordTests(ScriptTestCase):
    """A backend that is gone with the file's tail still on its way."""

    def setUp(self) -> None:
        self.log_in()
        self.offer()
        self.flow("RETR a", Direction.DOWNLOAD)

    def test_quit(self) -> None:
        """What was asked behind a transfer is answered behind it (Requirement 5, 6)."""
        self.client("QUIT")
        self.comes(self.session.timed_out())
        self.backend("226 Sent.", "221 Bye.")
        self.comes(self.session.backend_lost())
        self.does(asks("QUIT"))
        self.waits_for(Wait.DATA)
        self.data_ends()
        self.ends(End.DONE, told("226 Sent."), self.transferred("RETR a", 226), told("221 Bye."))

    def test_quit_without_an_answer(self) -> None:
        """A backend that closes instead of an answer has agreed (Requirement 6)."""
        self.client("QUIT")
        self.comes(self.session.timed_out())
        self.backend("226 Sent.")
        self.comes(self.session.backend_lost())
        self.data_ends()
        self.ends(
            End.DONE,
            asks("QUIT"),
            told("226 Sent."),
            self.transferred("RETR a", 226),
            own(221, "Goodbye."),
        )

    def test_status(self) -> None:
        """STAT's answer stays behind the transfer's, where the backend has it so."""
        self.client("STAT")
        self.backend("226 Sent.", "211 All well.")
        self.does(asks("STAT"))
        self.data_ends()
        self.does(told("226 Sent."), self.transferred("RETR a", 226), told("211 All well."))

    def test_gone(self) -> None:
        """A backend that is gone has sent the file nevertheless (Requirement 27)."""
        self.client("PWD")
        self.backend("226 Sent.")
        self.comes(self.session.backend_lost())
        self.does_nothing()
        self.data_ends()
        self.ends(End.BACKEND, told("226 Sent."), self.transferred("RETR a", 226), _CLOSED)

    def test_gone_and_broken(self) -> None:
        """A tail that does not arrive is told, whatever the backend has said (Requirement 27)."""
        self.backend("226 Sent.")
        self.comes(self.session.backend_lost())
        self.data_ends(end=DataEnd.CLIENT_BROKE)
        self.ends(
            End.BACKEND,
            own(426, "Data connection broken off, transfer aborted."),
            self.transferred("RETR a", 426),
            _CLOSED,
        )

    def test_gone_too_early(self) -> None:
        """Without the backend's last word nothing is whole (Requirement 28)."""
        self.comes(self.session.backend_lost())
        self.ends(End.BACKEND, _CLOSED)

    def test_gone_and_failed(self) -> None:
        """What a backend that is gone has called failed is told so (Requirement 8)."""
        self.backend("426 Broken.")
        self.comes(self.session.backend_lost())
        failed = (closes(1), told("426 Broken."), self.transferred("RETR a", 426))
        self.ends(End.BACKEND, *failed, _CLOSED)

    def test_quit_that_was_not_sent(self) -> None:
        """A client whose QUIT waited when the backend left has quit (Requirement 6)."""
        self.client("QUIT")
        self.backend("226 Sent.")
        self.comes(self.session.backend_lost())
        self.does_nothing()
        self.data_ends()
        self.ends(
            End.DONE,
            told("226 Sent."),
            self.transferred("RETR a", 226),
            own(221, "Goodbye."),
        )

    def test_quit_behind_a_command(self) -> None:
        """What comes before QUIT would be left without an answer: that is no way to part."""
        self.client("NOOP", "QUIT")
        self.backend("226 Sent.")
        self.comes(self.session.backend_lost())
        self.data_ends()
        self.ends(End.BACKEND, told("226 Sent."), self.transferred("RETR a", 226), _CLOSED)


class AbortTests(ScriptTestCase):
    """Servers that do not answer NOOP with 200."""

    def setUp(self) -> None:
        self.log_in()
        self.offer()
        self.flow("STOR a", Direction.UPLOAD)
        self.client("ABOR", "PWD")
        self.backend("426 Aborted.")
        self.does(
            asks("ABOR"),
            closes(1),
            told("426 Aborted."),
            self.transferred("STOR a", 426, Direction.UPLOAD),
            asks("NOOP"),
        )

    def test_another_answer(self) -> None:
        """Behind two answers to ABOR the third is NOOP's, whatever it is (Requirement 5)."""
        for line in ("250 Fine.", "500 What?", "530 Log in."):
            self.setUp()
            self.backend("226 ABOR done.", line)
            self.does(told("226 ABOR done."), asks("PWD"))

    def test_unanswered(self) -> None:
        """A server that does not answer NOOP is not waited for as a hash is (Requirement 6)."""
        self.waits_for(Wait.PROBE)
        self.comes(self.session.timed_out())
        self.ends(End.TIMEOUT, own(421, "Timeout, closing control connection."))

    def test_unclear(self) -> None:
        """Where two readings are left nobody waits long, and no answer is misread."""
        self.backend("500 What?")
        self.does(told("500 What?"))
        self.waits_for(Wait.ABORT)
        self.comes(self.session.timed_out())
        self.ends(End.TIMEOUT, own(421, "Timeout, closing control connection."))


class SlowClientTests(FTPCase):
    """A client that asks for a file and quits, and reads when it likes."""

    async def test_quit_behind_a_file(self) -> None:
        """It has the whole file, though the backend was gone before (Requirement 5, 27)."""
        self.patch(ftprelay, "LIMITS_S", ftprelay.LIMITS_S | {Wait.QUIT: 0.1})
        await self.begin()
        self.backend.answers.pop(b"QUIT")
        client, backend = await self.logged_in()
        data = self.connect(await self.passive(client), window=4096)
        body = payload(8_000_000)
        client.say(b"RETR x", b"QUIT")
        await client.reply(150)
        inner = await self.backend.data()
        await backend.heard(b"QUIT")
        inner.send(body)
        inner.finish()
        await inner.emptied()
        data.pause()
        backend.say(b"226 done", b"221 bye")
        backend.finish()
        await until(lambda: not self.running or self.running[0]._backend._over, "the backend's end")
        data.resume()
        await data.got(body)
        data.close()
        await client.reply(226)
        await client.reply(221)
        await self.is_over(client)
        await self.all_over()


class GoodbyeTests(FTPCase):
    """Servers under TLS at the end of an upload."""

    async def uploaded(self) -> tuple[Line, Line]:
        """The two ends of an upload's connections; the client heard 226, the server reads not."""
        await self.begin(backend_tls="explicit")
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"STOR x")
        await inner.secured()
        inner.pause()
        data.send(payload(20_000))
        data.finish()
        backend.say(b"226 done")
        await client.reply(226)
        return data, inner

    async def test_waits(self) -> None:
        """What a server says late does not cost it the file's tail (Requirement 39)."""
        self.patch(ftpdata, "FINISH_LIMIT_S", 60.0)
        data, inner = await self.uploaded()
        inner.send(b"late words")
        await data.has(10)
        inner.resume()
        await inner.got(payload(20_000))
        inner.finish()
        await self.nothing_left()

    async def test_not_for_ever(self) -> None:
        """A server that never says close_notify is left in time (Requirement 39)."""
        self.patch(ftpdata, "FINISH_LIMIT_S", 0.3)
        await self.uploaded()
        await self.nothing_left()


class PassingTests(PassingCase):
    """Sessions that pass unopened, and come and go."""

    async def test_left_behind(self) -> None:
        """Data that outlives its session counts for the client's next one (Requirement 86)."""
        await self.begin_passing()
        left: list[tuple[Line, Line]] = []
        for _ in range(2):
            client = self.client()
            await client.reply(220)
            while len(left) < MAX_MAPPED:
                left.append(await self.joined())
            self.assertIs(await self.connect(PORT).ended(), Ending.RESET)
            client.finish()
            (await self.backend.control()).finish()
            await until(lambda: not len(self.dmz.desk), "the session's end")
        for data, server in left:
            data.finish()
            server.finish()
            await data.ended()
        await self.all_over()
        client = self.client()
        await client.reply(220)
        await self.joined()
