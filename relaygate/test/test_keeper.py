"""Tests of the keeper of a running node's identity: renewals, mistakes in them, and warnings."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate import pki
from relaygate.identity import Identity, Role, load_identity
from relaygate.keeper import LOOK_S, WARN_AGAIN_S, WARN_BEFORE, Keeper
from relaygate.test.wire import lines, logged

START = datetime(2030, 1, 1, tzinfo=UTC)
DAY_S = 24 * 3600.0


class KeeperCase(SynchronousTestCase):
    """A keeper of real files, by a pretended clock."""

    days = 90

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = START.timestamp()
        self.folder = Path(self.mktemp()).absolute()
        self.ca = pki.create_ca(self.folder / "ca", "relaygate test", START, 3650)
        self.certificate = self.folder / "node-a.pem"
        self.key = self.folder / "node-a.key"
        pki.create_node(self.ca, "node-a", Role.INTERNAL, START, self.days, self.folder)
        self.used: list[Identity] = []
        files = (self.certificate, self.key, self.folder / "ca.pem")
        self.load = partial(load_identity, *files, role=Role.INTERNAL)
        self.first = self.load(now=START)
        self.keeper = Keeper(
            "identity",
            self.first,
            lambda now: self.load(now=now),
            self.used.append,
            files,
            self.clock,
        )
        self.keeper.startService()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop the keeper, if a test has not done so."""
        if self.keeper.running:
            self.keeper.stopService()

    def now(self) -> datetime:
        """The pretended time."""
        return datetime.fromtimestamp(self.clock.seconds(), UTC)

    def renew(self, days: int = 90) -> None:
        """Renew the certificate as an operator does."""
        pki.renew_nodes(self.ca, [self.certificate], self.now(), days)

    def damage(self, path: Path, content: bytes = b"no PEM") -> None:
        """Write *content* into a file, and be sure that its time differs."""
        path.write_bytes(content)
        later = path.stat().st_mtime_ns + 1_000_000
        os.utime(path, ns=(later, later))


class ChangeTests(KeeperCase):
    """Files that change under a running node."""

    def test_nothing_changes(self) -> None:
        """Files that stay are not used again, however often they are looked at."""
        with logged() as events:
            for _ in range(100):
                self.clock.advance(LOOK_S)
        self.assertEqual(self.used, [])
        self.assertEqual(lines(events), [])

    def test_found_by_itself(self) -> None:
        """A renewed certificate is used within one look, without a signal."""
        self.clock.advance(DAY_S)
        self.renew()
        with logged() as events:
            self.clock.advance(LOOK_S)
        (identity,) = self.used
        self.assertNotEqual(identity.certificate_pem, self.first.certificate_pem)
        self.assertGreater(identity.not_after, self.first.not_after)
        (line,) = lines(events)
        self.assertIn("identity changed: name=node-a", line)
        self.assertIn(identity.not_after.isoformat(), line)

    def test_used_once(self) -> None:
        """A change is used once."""
        self.renew()
        for _ in range(5):
            self.clock.advance(LOOK_S)
        self.assertEqual(len(self.used), 1)

    def test_reload(self) -> None:
        """Told to reload, the keeper reads at once, and the next look finds nothing new."""
        self.renew()
        self.keeper.reload()
        self.assertEqual(len(self.used), 1)
        self.clock.advance(LOOK_S)
        self.assertEqual(len(self.used), 1)

    def test_reload_of_the_same(self) -> None:
        """Told to reload files that are the same, the keeper changes nothing."""
        self.keeper.reload()
        self.assertEqual(self.used, [])

    def test_bad_files(self) -> None:
        """Files that cannot be used leave the old identity, with one line each, not one a look."""
        for path in (self.certificate, self.key, self.folder / "ca.pem"):
            good = path.read_bytes()
            self.damage(path)
            with logged() as events:
                for _ in range(5):
                    self.clock.advance(LOOK_S)
            (line,) = lines(events)
            self.assertIn("identity not changed", line)
            self.assertIn(str(path), line)
            self.damage(path, good)
            self.clock.advance(LOOK_S)
        self.assertEqual(self.used, [])

    def test_missing_file(self) -> None:
        """A file that is gone for a while does no harm, and what comes back is used."""
        away = self.folder / "away"
        shutil.move(self.certificate, away)
        with logged() as events:
            self.clock.advance(2 * LOOK_S)
        self.assertEqual(len(lines(events, "does not exist")), 1)
        shutil.move(away, self.certificate)
        self.renew()
        self.clock.advance(LOOK_S)
        self.assertEqual(len(self.used), 1)

    def test_between_key_and_certificate(self) -> None:
        """A look that falls between a new key and its certificate keeps the old identity."""
        made = pki.issue(self.ca, "node-a", Role.INTERNAL, self.now())
        self.damage(self.key, made.key_pem)
        with logged() as events:
            self.clock.advance(LOOK_S)
        self.assertEqual(len(lines(events, "does not belong to")), 1)
        self.assertEqual(self.used, [])
        self.damage(self.certificate, made.certificate_pem)
        self.clock.advance(LOOK_S)
        self.assertEqual([identity.key_pem for identity in self.used], [made.key_pem])

    def test_key_that_others_can_read(self) -> None:
        """A new key that others can read is not used."""
        self.renew()
        self.key.chmod(0o644)
        with logged() as events:
            self.clock.advance(LOOK_S)
        self.assertEqual(len(lines(events, "is open to group or others")), 1)
        self.assertEqual(self.used, [])

    def test_stopped(self) -> None:
        """A keeper that was stopped looks no more."""
        self.keeper.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class WarningTests(KeeperCase):
    """The end of a certificate."""

    def test_warned_once_a_day(self) -> None:
        """From 30 days before the end there is one warning a day, and none before."""
        quiet = timedelta(days=self.days) - WARN_BEFORE
        with logged() as events:
            while self.now() < START + quiet - timedelta(hours=1):
                self.clock.advance(3600)
            self.assertEqual(lines(events), [])
            for _ in range(3 * 24):
                self.clock.advance(WARN_AGAIN_S / 24)
            warnings = lines(events, "renew it")
        self.assertEqual(len(warnings), 3)
        self.assertIn("the certificate of node-a", warnings[0])
        self.assertIn("ends in 30 days", warnings[0])
        self.assertIn(self.first.not_after.isoformat(), warnings[0])

    def test_renewal_ends_the_warnings(self) -> None:
        """A renewed certificate is not warned of."""
        self.clock.advance(DAY_S * 70)
        self.renew()
        self.clock.advance(LOOK_S)
        with logged() as events:
            for _ in range(48):
                self.clock.advance(3600)
        self.assertEqual(lines(events), [])

    def test_after_the_end(self) -> None:
        """A certificate that has ended is still warned of, each day."""
        self.clock.advance(DAY_S * 100)
        with logged() as events:
            self.clock.advance(DAY_S + LOOK_S)
        self.assertEqual(len(lines(events, "renew it")), 1)
