"""The matrix of FTP clients and servers, directly and through a gateway, and what is left of it."""

from __future__ import annotations

import sys

from twisted.trial.unittest import TestCase

from relaygate.test import netns
from relaygate.test.ftpgateway import FTPGateway
from relaygate.test.ftpmatrix import (
    AGAIN,
    Cell,
    Results,
    cells,
    chosen,
    differences,
    run,
    table,
    working,
)
from relaygate.test.gateway import SOAK

# Of what two programs are both able to do, some fails between them by itself; fewer than this in a
# hundred and the servers or the clients of the tests would be at fault.
FLOOR_PERCENT = 85


class MatrixTests(TestCase):
    """
    All that works without a gateway works with it.

    Requirements 1, 4, 6, 9, 12 to 14, 16, 18 to 20, 22, 25, 27 to 29, 32 to 35, 37, 38 and 42, as
    seven clients and four servers have them.
    """

    timeout = 5400 if SOAK else 600

    async def test_no_difference(self) -> None:
        """Each cell that works directly works through the gateway, and no port stays bound."""
        netns.require()
        every = cells()
        which = every if SOAK else chosen(every)
        gateway = FTPGateway(self, {cell.backend for cell in which})
        await gateway.start()
        beside, outside = gateway.directly(), gateway.outside
        direct = dict(await run(self, which, gateway.servers, beside, gateway.private))
        wanted = working(direct)
        # Nearly all combinations work, and each client gets something done with each kind of
        # server that it is able to speak to: or the matrix would say nothing.
        self.assertGreater(100 * len(wanted), FLOOR_PERCENT * len(which))
        spoken = {(cell.client, cell.backend.kind) for cell in wanted}
        self.assertEqual(spoken, {(cell.client, cell.backend.kind) for cell in which})
        through = dict(await run(self, which, gateway.servers, gateway.through, outside))
        for _ in range(AGAIN):
            lost = _lost(direct, through)
            if not lost:
                break
            sys.stdout.write("".join(f"again: {cell}: {through[cell].why}\n" for cell in lost))
            direct |= await run(self, lost, gateway.servers, beside, gateway.private)
            through |= await run(self, lost, gateway.servers, gateway.through, outside)
        sys.stdout.write(table(direct, through))
        self.assertEqual(differences(direct, through), [])
        await gateway.nothing_bound()


def _lost(direct: Results, through: Results) -> list[Cell]:
    return [cell for cell in working(direct) if not through[cell].ok]
