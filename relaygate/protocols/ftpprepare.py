"""
How a transfer is prepared: PASV, EPSV, PORT and EPRT.

The two halves run side by side: the client's (a port is opened for it, or its own is taken) and the
backend's (EPSV or PASV and a dial, or a port is opened and told by PORT or EPRT).  So when the
transfer's command comes, it goes to the backend with nothing of ours in front of it, and REST and
its transfer stay together.
"""

from __future__ import annotations

from typing import Final

from relaygate.protocols.ftp import Command, Reply
from relaygate.protocols.ftpaddr import (
    FTPAddressError,
    eprt_argument,
    extended_passive_reply,
    is_ipv4,
    passive_port,
    passive_reply,
    port_argument,
)
from relaygate.protocols.ftpeffects import (
    DialBackendData,
    ListenBackendData,
    OpenPassive,
    SendReply,
    Wait,
)
from relaygate.protocols.ftpexchange import Core, DataConnection, Exchange

NO_DATA: Final = Reply.of(425, "Cannot open data connection.")


class Preparation(Exchange):
    """PASV or EPSV (*port* is None), PORT or EPRT (*port* is where the client waits)."""

    def __init__(self, core: Core, verb: str, port: int | None) -> None:
        super().__init__(core)
        core.drop_offer()
        core.unprepared = False
        core.transfers += 1
        self.transfer = DataConnection(core.transfers, port)
        self._verb = verb
        self._asked = ""  # what the backend was asked and has not answered
        self._probed = False  # a command in between is answered before what is asked from now on
        self._offered: Reply | None = None
        self._agreed = False

    @property
    def wait(self) -> Wait:  # type: ignore[override]
        """The backend's reply, or a port of ours."""
        if self._probed:
            # On its way already.
            return Wait.ABORT
        return Wait.REPLY if self._asked else Wait.PREPARING

    @property
    def asked(self) -> str:
        """What the backend was asked and has not answered; empty: nothing."""
        return self._asked

    def begin(self) -> None:
        """Begin both halves."""
        number = self.transfer.number
        if self.transfer.port is None:
            self.core.emit(OpenPassive(number, self.core.protection.private))
        else:
            self._offered = Reply.of(200, f"{self._verb} command successful.")
        policy = self.core.policy
        client_active = self.transfer.port is not None
        if client_active if policy.backend_as_client else policy.backend_active:
            self.core.emit(ListenBackendData(number))
        else:
            self._ask("EPSV" if self.core.backend_has_epsv else "PASV")

    def passive_opened(self, host: str, port: int) -> None:
        """The client's port is open, and may be reached at *host*."""
        if self._verb == "EPSV":
            self._offered = extended_passive_reply(port)
        elif is_ipv4(host):
            self._offered = passive_reply(host, port)
        else:
            failure = Reply.of(522, "Network protocol not supported, use EPSV.")
            self.core.fail(self.transfer, failure)
        self.changed()

    def backend_listening(self, host: str, port: int) -> None:
        """A port is open for the backend: tell it."""
        if is_ipv4(host):
            self._ask("PORT", port_argument(host, port))
        else:
            self._ask("EPRT", eprt_argument(host, port))

    def reply_received(self, reply: Reply) -> None:
        """Take the backend's answer to what it was asked."""
        if reply.preliminary:
            return
        if self._probed:
            self._probed = False
            self.changed()
        elif self._asked:
            self.answered(reply)

    def answered(self, reply: Reply, *, probed: bool = False) -> None:
        """Take the final reply to what is asked; with *probed* another one, of no use, follows."""
        self._probed = probed
        asked, self._asked = self._asked, ""
        if asked in ("PORT", "EPRT"):
            self.transfer.backend_ready = self._agreed = reply.code < 300
            if not self._agreed:
                self._refused(reply)
        elif asked == "EPSV" and reply.code >= 500 and reply.code != 530:
            self.core.backend_has_epsv = False
            if self.transfer.failed is None:
                self._ask("PASV")
        else:
            try:
                port = passive_port(reply)
            except FTPAddressError:
                self._refused(reply)
            else:
                self._agreed = True
                # Told first and dialled then: the client's own way here is the longer one.
                self.changed()
                if self.transfer.failed is None:
                    self.core.emit(DialBackendData(self.transfer.number, port))
                return
        self.changed()

    def changed(self) -> None:
        """Answer the client as soon as both halves are there, or one cannot be."""
        if self._asked or self._probed or self.done:
            return
        if self.transfer.failed is not None:
            self.core.emit(SendReply(self.transfer.failed))
            self.done = True
        elif self._agreed and self._offered is not None:
            self.core.offer = self.transfer
            self.core.emit(SendReply(self._offered))
            self.done = True

    def _ask(self, verb: str, argument: bytes | None = None) -> None:
        self._asked = verb
        self.core.send(Command(verb, argument))

    def _refused(self, reply: Reply) -> None:
        """What the backend says about a login or about trouble is the client's to know."""
        passes = 400 <= reply.code < 500 or reply.code == 530
        self.core.fail(self.transfer, self.core.masked(reply) if passes else NO_DATA)
