"""How cells of the matrix are chosen and compared; its runs are in test_e2e_ftp."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from relaygate.test.ftpclient import Result
from relaygate.test.ftpmatrix import (
    Backend,
    Cell,
    cells,
    chosen,
    differences,
    resets_itself,
    table,
)


class ChoiceTests(SynchronousTestCase):
    """Which cells there are, and which few stand for all."""

    def test_cells_name_what_both_can(self) -> None:
        """No cell asks a client or a server for what it has not."""
        every = cells()
        self.assertEqual(len(set(every)), len(every))
        self.assertNotIn("explicit", {c.backend.security for c in every if c.client == "ncftp"})
        implicit = {c.backend.kind for c in every if c.backend.security == "implicit"}
        self.assertEqual(implicit, {"vsftpd", "proftpd", "pyftpdlib"})
        self.assertEqual({c.backend.kind for c in every if c.backend.reuse}, {"vsftpd", "proftpd"})

    def test_chosen_cells_have_every_pair(self) -> None:
        """Few cells meet each action in each mode, and with each server and each kind of TLS."""
        every = cells()
        few = chosen(every)
        self.assertLess(len(few), len(every) / 6)
        self.assertLessEqual(set(few), set(every))

        def pairs(some: list[Cell]) -> set[tuple[object, ...]]:
            found: set[tuple[object, ...]] = set()
            for cell in some:
                tls = (cell.backend.security, cell.backend.version, cell.backend.reuse)
                found |= {
                    (cell.client, cell.mode, cell.action),
                    (cell.client, cell.backend.kind, cell.action),
                    (cell.client, cell.backend.kind, cell.mode),
                    (cell.client, cell.backend.kind, tls),
                    (cell.client, tls, cell.action),
                    (cell.client, tls, cell.mode),
                }
            return found

        self.assertEqual(pairs(few), pairs(every))

    def test_choice_is_the_same_each_time(self) -> None:
        """Two runs try the same."""
        every = cells()
        self.assertEqual(chosen(every), chosen(list(reversed(every))))


class ComparisonTests(SynchronousTestCase):
    """How two runs are put beside each other."""

    def setUp(self) -> None:
        backend = Backend("vsftpd", "explicit", "1.3")
        self.upload = Cell("curl", backend, "PASV", "upload")
        self.download = Cell("curl", backend, "PASV", "download")
        self.good = Result(True)
        self.bad = Result(False, "cut short")

    def test_what_is_lost_is_named(self) -> None:
        """What works directly alone, or was tried directly alone, is a difference."""
        direct = {self.upload: self.good, self.download: self.good}
        self.assertEqual(
            differences(direct, {self.upload: self.bad}),
            [
                "curl PASV download, vsftpd explicit 1.3: not tried",
                "curl PASV upload, vsftpd explicit 1.3: cut short",
            ],
        )

    def test_what_never_worked_is_no_difference(self) -> None:
        """What fails without a gateway is nothing that it could lose."""
        direct = {self.upload: self.bad, self.download: self.good}
        through = {self.upload: self.bad, self.download: self.good}
        self.assertEqual(differences(direct, through), [])
        self.assertEqual(differences(direct, {self.download: self.good}), [])

    def test_uploads_that_clients_reset(self) -> None:
        """Only curl's uploads under TLS 1.3, and only if the server tells that they are cut."""
        told = Result(False, "cut short there: curl: (18) server did not report OK, got 426")
        self.assertTrue(resets_itself(self.upload, told))
        self.assertTrue(resets_itself(replace(self.upload, action="append"), told))
        self.assertFalse(resets_itself(self.upload, self.good))
        self.assertFalse(resets_itself(self.upload, self.bad))
        self.assertFalse(resets_itself(self.download, told))
        self.assertFalse(resets_itself(replace(self.upload, client="lftp"), told))
        older = replace(self.upload, backend=Backend("vsftpd", "explicit", "1.2"))
        self.assertFalse(resets_itself(older, told))

    def test_table_has_both_side_by_side(self) -> None:
        """A line has each action with how it went directly and through the gateway."""
        direct = {self.upload: self.bad, self.download: self.good}
        through = {self.download: self.bad}
        lines = table(direct, through).splitlines()
        self.assertEqual(" ".join(lines[1].split()), "curl PASV vsftpd explicit 1.3 no . ok no")
        self.assertIn("0 of 1 work through the gateway", lines)
        self.assertIn("curl PASV upload, vsftpd explicit 1.3: cut short", lines)
