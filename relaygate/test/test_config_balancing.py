"""Tests of how a service's balancing is configured."""

from __future__ import annotations

from relaygate.addresses import HostPort
from relaygate.config import BackendConfig, PersistenceConfig, load_internal
from relaygate.config.internal import ServiceConfig
from relaygate.test.test_config import INTERNAL, FileCase


class BalancingTests(FileCase):
    """``backends``, ``balance``, ``node_balance`` and ``persistence``."""

    def service(self, more: str, backends: str = '["10.0.0.1:22"]') -> ServiceConfig:
        """The service of a file with *more* keys for it."""
        text = INTERNAL.replace('["10.0.0.1:22"]', backends + "\n" + more)
        return load_internal(self.write(text)).services[0]

    def wrong(self, more: str, backends: str = '["10.0.0.1:22"]') -> list[str]:
        """What is wrong in such a file, without the place."""
        text = INTERNAL.replace('["10.0.0.1:22"]', backends + "\n" + more)
        return self.problems(text, load_internal)

    def test_backends_with_settings(self) -> None:
        """A backend is an address, or a table of it, its weight, and whether it is a backup."""
        service = self.service(
            "",
            '["a.example:1", { address = "b.example:2", weight = 3 },'
            ' { address = "c.example:3", backup = true }]',
        )
        self.assertEqual(
            service.backends,
            (
                HostPort("a.example", 1),
                BackendConfig("b.example", 2, 3),
                BackendConfig("c.example", 3, 1, True),
            ),
        )

    def test_wrong_backends(self) -> None:
        """Each mistake in a backend is told with its place."""
        place = 'service "sftp".backends'
        for backends, expected in (
            ('["a.example:1", "a.example:1"]', "each of the backends once"),
            ('["a.example:1", { address = "a.example:1" }]', "each of the backends once"),
            ('[{ address = "a.example:1", backup = true }]', "one that is not a backup"),
            ("[{ weight = 1 }]", "address: missing"),
            ('[{ address = "a.example:1", weight = 0 }]', "weight: expected a whole number"),
            ('[{ address = "a.example:1", wait = 1 }]', "wait: unknown key (did you mean weight?)"),
            ('[{ address = "a.example:1", backup = 1 }]', "backup: expected true or false"),
            ("[7]", "expected an address to dial"),
        ):
            (problem,) = self.wrong("", backends)
            self.assertIn(expected, problem)
            self.assertTrue(problem.startswith(place), problem)

    def test_balance(self) -> None:
        """Nodes are balanced as backends are, but for failover, unless it is said."""
        for rule, nodes in (
            ("round-robin", "round-robin"),
            ("failover", "round-robin"),
            ("least-sessions", "least-sessions"),
            ("source", "source"),
        ):
            service = self.service(f'balance = "{rule}"')
            self.assertEqual((service.balance, service.node_balance), (rule, nodes))
        self.assertEqual(self.service('node_balance = "failover"').node_balance, "failover")
        self.assertIn("balance: expected one of", self.wrong('balance = "random"')[0])

    def test_persistence(self) -> None:
        """Persistence is by source, for a time that has a default."""
        self.assertIsNone(self.service("").persistence)
        made = self.service('persistence = { by = "source" }').persistence
        self.assertEqual(made, PersistenceConfig("source", 300.0))
        made = self.service('persistence = { by = "source", ttl = 60 }').persistence
        self.assertEqual(made, PersistenceConfig("source", 60.0))
        self.assertIn("by: missing", self.wrong("persistence = { ttl = 5 }")[0])
        self.assertIn("ttl: expected", self.wrong('persistence = { by = "source", ttl = 0 }')[0])
