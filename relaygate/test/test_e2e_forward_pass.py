"""Uploads by FTPS under TLS 1.3 that pass a fixed forward unopened, beside a direct way."""

from __future__ import annotations

import sys
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.certificates import ServerCA
from relaygate.test.ftpclient import Client, Target
from relaygate.test.ftpclients import Curl, FTPLib
from relaygate.test.ftpservers import VSFTPD, Offer
from relaygate.test.netns import Network
from relaygate.test.programs import Where
from relaygate.test.wayoutnet import DOMAIN, WayOutGateway, entry

INSIDE: Final = Network.private_address
PARTNER: Final = Network.outside_address
PORT: Final = 2100
SPAN: Final = (30_000, 30_009)
ROUNDS: Final = 4


class UploadTests(TestCase):
    """
    curl closes its uploads with the server's TLS 1.3 tickets unread, so its kernel resets.

    Then the end of the file is lost, directly as well: 14 of 20 were cut short so, and 6 of 20
    through the gateway.  It is the client's, and nobody between can mend what he cannot read.
    """

    timeout = 200

    async def uploads(self, client: Client, host: str, where: Where) -> list[str]:
        """Upload some files; returns why each one failed that did."""
        target = Target(host, PORT, self.server.user, "EPSV", "explicit", "1.3", self.ca.file)
        done = [
            await client.perform(self, target, "upload", self.server.files, where=where)
            for _ in range(ROUNDS)
        ]
        return [each.why for each in done if not each.ok]

    async def test_uploads(self) -> None:
        """Requirement 28: what is cut short is told to be so; who reads to the end loses none."""
        self.ca = ServerCA(self)
        certified = self.ca.issue(INSIDE, PARTNER)
        ftps = entry(
            "ftps",
            "ftp",
            PORT,
            target=f"ftp.{DOMAIN}:{PORT}",
            ftp={"tls": "pass", "data_ports": f"{SPAN[0]}-{SPAN[1]}"},
        )
        gateway = WayOutGateway(self, [ftps], connect=[f"{PARTNER}:{PORT}-2200"])
        await gateway.start()
        offer = Offer("explicit", certified, "1.3", reuse=True, passive=SPAN)
        self.server = VSFTPD(self, PARTNER, PORT, offer, where=gateway.outside)
        await self.server.ready()
        for host, where in ((PARTNER, gateway.outside), (INSIDE, gateway.private)):
            failed = await self.uploads(Curl(), host, where)
            sys.stdout.write(f"curl to {host}: {len(failed)} of {ROUNDS} cut short\n")
            for why in failed:
                self.assertIn("got 426", why)
        self.assertEqual(await self.uploads(FTPLib(), INSIDE, gateway.private), [])
