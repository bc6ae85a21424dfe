"""
The commands by which a client protects its session (RFC 2228, section 3; RFC 4217).

They are answered by the gateway and never reach the backend, whose own protection is agreed with
it separately::

    AUTH TLS   -> 234, then the handshake
    PBSZ 0     -> 200, only under TLS
    PROT P | C -> 200, only after PBSZ; what the data connections of the client carry

The other mechanisms and levels of RFC 2228 (integrity alone, confidentiality alone, commands as
base64) make no sense with TLS.  CCC, which takes the protection of the control connection away
again, is refused: names and passwords would follow in clear.
"""

from __future__ import annotations

from relaygate.protocols.ftp import Command, Reply
from relaygate.protocols.ftpeffects import FTPPolicy, Use

# AUTH SSL means the same to all that still send it (MS-FTPS, section 2.2.1.1), and so does TLS-C,
# the name in the drafts of RFC 4217.
_MECHANISMS = (b"TLS", b"SSL", b"TLS-C")


class ClientProtection:
    """What a client has agreed on so far."""

    def __init__(self, policy: FTPPolicy) -> None:
        self.secured = False
        """Whether the control connection is under TLS."""
        self.private = False
        """Whether data connections are."""
        self._policy = policy
        self._sized = False

    def secure(self) -> None:
        """The client's TLS handshake is done."""
        self.secured = True
        if self._policy.implicit:
            # Implicit TLS stands for AUTH, PBSZ and PROT P (MS-FTPS, section 3.1.5.1).
            self._sized = True
            self.private = self._policy.data is not Use.OFF

    @property
    def offered(self) -> bool:
        """Whether AUTH makes sense here."""
        return self._policy.control is not Use.OFF

    @property
    def missing(self) -> bool:
        """Whether the control connection has to be protected before anything passes."""
        return self._policy.control is Use.REQUIRE and not self.secured

    @property
    def refusal(self) -> Reply | None:
        """What a transfer is answered as long as its protection is not what is demanded."""
        if self._policy.data is Use.REQUIRE and not self.private:
            return Reply.of(521, "Data connections must be protected, send PROT P first.")
        return None

    def answer(self, command: Command) -> Reply:
        """Answer AUTH, PBSZ, PROT or one of their relatives; a 234 means that TLS begins."""
        word = command.words.upper()
        if command.verb == "AUTH":
            return self._auth(word)
        if command.verb == "PBSZ":
            return self._pbsz(word)
        if command.verb == "PROT":
            return self._prot(word)
        if command.verb == "CCC":
            return Reply.of(534, "The control connection stays as it is.")
        return Reply.of(502, "Command not implemented.")

    def _auth(self, mechanism: bytes) -> Reply:
        if self._policy.control is Use.OFF:
            return Reply.of(502, "TLS is not offered here.")
        if self.secured:
            return Reply.of(503, "Already using TLS.")
        if not mechanism:
            return Reply.of(501, "Syntax error: command needs an argument.")
        if mechanism not in _MECHANISMS:
            return Reply.of(504, "Unknown mechanism, use TLS.")
        return Reply.of(234, "Start TLS now.")

    def _pbsz(self, size: bytes) -> Reply:
        if not self.secured:
            return Reply.of(503, "PBSZ not allowed on insecure control connection.")
        if not size.isdigit():
            return Reply.of(501, "PBSZ needs a number.")
        self._sized = True
        # A size is for mechanisms that cut data into blocks (RFC 4217, section 8).
        return Reply.of(200, "PBSZ=0 successful.")

    def _prot(self, level: bytes) -> Reply:
        if not self.secured:
            return Reply.of(503, "PROT not allowed on insecure control connection.")
        if not self._sized:
            return Reply.of(503, "You must issue the PBSZ command prior to PROT.")
        if level in (b"S", b"E"):
            return Reply.of(536, "Level not supported with TLS, use C or P.")
        if level not in (b"C", b"P"):
            return Reply.of(504, "Unknown level, use C or P.")
        private = level == b"P"
        if self._policy.data is (Use.OFF if private else Use.REQUIRE):
            return Reply.of(534, "Refused by this server's policy.")
        self.private = private
        return Reply.of(200, "Protection set.")
