"""Tests for :mod:`relaygate.config`: what is said about files with mistakes in them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from relaygate.config import ConfigError, load, load_dmz, load_internal
from relaygate.config.dmz import DMZ_FILE
from relaygate.config.internal import INTERNAL_FILE
from relaygate.test.properties import given, settings, st
from relaygate.test.test_config import (
    DMZ,
    GATEWAY,
    IDENTITY,
    INTERNAL,
    SERVICE,
    FileCase,
    paths_of,
)


class MistakeTests(FileCase):
    """Each mistake, by its message."""

    def one(self, text: str, old: str, new: str, expected: str) -> None:
        """Replace *old* by *new* in a good file, and expect this one problem."""
        self.assertIn(old, text)
        loader = load_dmz if text == DMZ else load_internal
        self.assertEqual(self.problems(text.replace(old, new, 1), loader), [expected])

    def test_every_mistake_at_once(self) -> None:
        """All mistakes of a file come in one run, each with its place and what was expected."""
        text = """
typo = 1
[identity]
certificate = 5
key = ""
[uplink]
listen = "localhost:7443"
nodes = []
[policy]
listen = ["0.0.0.0:21-22", "nonsense", "0.0.0.0:21-22"]
max_session = 5
max_pending = true
[log]
level = "loud"
"""
        rule = 'an IP address and port or ports, as in "0.0.0.0:21-22" or "[::]:443"'
        self.assertEqual(
            self.problems(text, load_dmz),
            [
                "typo: unknown key (known here: identity, uplink, policy, status, log, stop)",
                "identity.certificate: expected a path, found 5",
                'identity.key: expected a path, found ""',
                "identity.ca: missing, expected a path",
                (
                    "uplink.listen: expected an IP address and port to listen on, as in "
                    '"192.0.2.1:22", found "localhost:7443" (not an IP address)'
                ),
                "uplink.nodes: expected a non-empty list of names, found []",
                "policy.max_session: unknown key (did you mean max_sessions?)",
                f'policy.listen[2]: expected {rule}, found "nonsense" (the port is missing)',
                (
                    "policy.listen[3]: expected each of the listen rules once, "
                    'found "0.0.0.0:21-22" again (as in item 1)'
                ),
                "policy.max_pending: expected a whole number from 1 to 65536, found true",
                'log.level: expected one of "debug", "info", "warn", "error", found "loud"',
            ],
        )

    def test_of_the_other_kind(self) -> None:
        """One line says that a file is the other node's, and which program reads it."""
        (problem,) = self.problems(DMZ, load_internal)
        found = "found that of a DMZ node, which relaygate-dmz reads"
        self.assertEqual(problem, f"expected the file of an internal node, {found}")
        (problem,) = self.problems(INTERNAL, load_dmz)
        self.assertIn("which relaygate-internal reads", problem)

    def test_empty_file(self) -> None:
        """An empty file lacks every required key, and each is named."""
        self.assertEqual(
            [problem.partition(":")[0] for problem in self.problems("", load_dmz)],
            [
                "identity.certificate",
                "identity.key",
                "identity.ca",
                "uplink.listen",
                "uplink.nodes",
                "policy.listen",
            ],
        )
        self.assertEqual(
            self.problems(IDENTITY, load_internal),
            [
                "gateway: missing, expected at least one [[gateway]]",
                "service: missing, expected at least one [[service]] or [[forward]]",
            ],
        )

    def test_empty_lists(self) -> None:
        """Lesson 22: a blank list of peers, rules or backends refuses to start."""
        for text, old, new, key in [
            (DMZ, '["node-a", "node-b"]', "[]", "uplink.nodes"),
            (DMZ, '["0.0.0.0:21-22", "[::]:443"]', "[]", "policy.listen"),
            (INTERNAL, '["10.0.0.1:22"]', "[]", 'service "sftp".backends'),
        ]:
            loader = load_dmz if text == DMZ else load_internal
            (problem,) = self.problems(text.replace(old, new), loader)
            self.assertTrue(problem.startswith(f"{key}: expected a non-empty list of "), problem)

    def test_node_names(self) -> None:
        """A node's name is a lower-case DNS name of at most 63 characters, each once."""
        kind = (
            "uplink.nodes[2]: expected a node name (lower-case DNS name of at most 63 characters)"
        )
        for name, reason in [
            ("Node-B", "it has capital letters"),
            ("a" * 64, "it has 64 characters"),
        ]:
            shown = name if len(name) <= 64 else name[:61] + "..."
            self.one(DMZ, "node-b", name, f'{kind}, found "{shown}" ({reason})')
        for name in ["node_b", "", "a b", "-b", "b.", "192.0.2.1", "*", "b\\u0000", "\\u00e9"]:
            (problem,) = self.problems(DMZ.replace("node-b", name), load_dmz)
            self.assertTrue(problem.startswith(kind), problem)
        self.one(
            DMZ,
            "node-b",
            "node-a",
            'uplink.nodes[2]: expected each of the names once, found "node-a" again (as in item 1)',
        )

    def test_gateway_name(self) -> None:
        """A gateway's name is a node name too."""
        (problem,) = self.problems(INTERNAL.replace('"dmz"', '"*.example"'), load_internal)
        self.assertTrue(problem.startswith("gateway[1].name: expected a node name"), problem)

    def test_same_listener_twice(self) -> None:
        """Lesson 30: the same listener twice is refused, with both services' names."""
        second = SERVICE.replace('"sftp"', '"scp"')
        self.assertEqual(
            self.problems(INTERNAL + second, load_internal),
            [
                (
                    'service "scp".listen: expected one of its own, '
                    'found 0.0.0.0:22, which service "sftp" has already'
                )
            ],
        )

    def test_same_listener_in_other_words(self) -> None:
        """The same listener is seen through another spelling, and in a table with mistakes."""
        first = SERVICE.replace("0.0.0.0:22", "[::1]:22").replace("ssh", "rsh")
        second = SERVICE.replace("0.0.0.0:22", "[0::1]:22").replace('"sftp"', '"scp"')
        problems = self.problems(IDENTITY + GATEWAY + first + second, load_internal)
        self.assertEqual(
            [problem.partition(":")[0] for problem in problems],
            ['service "sftp".protocol', 'service "scp".listen'],
        )

    def test_same_name_twice(self) -> None:
        """Two services of one name are told apart by their numbers."""
        second = SERVICE.replace("0.0.0.0:22", "0.0.0.0:23")
        self.assertEqual(
            self.problems(INTERNAL + second, load_internal),
            [
                (
                    "service[2].name: expected one of its own, "
                    "found sftp, which service[1] has already"
                )
            ],
        )

    def test_same_gateway_twice(self) -> None:
        """The same DMZ node twice would be two uplinks that push each other out."""
        second = GATEWAY.replace('"dmz"', '"dmz-2"').replace("dmz.example", "DMZ.example")
        self.assertEqual(
            self.problems(IDENTITY + GATEWAY + second + SERVICE, load_internal),
            [
                (
                    'gateway "dmz-2".address: expected one of its own, '
                    'found dmz.example:7443, which gateway "dmz" has already'
                )
            ],
        )

    def test_same_gateway_name_twice(self) -> None:
        """Two addresses that lead to one DMZ node would be the same mistake."""
        second = GATEWAY.replace("dmz.example", "dmz-2.example")
        self.assertEqual(
            self.problems(IDENTITY + GATEWAY + second + SERVICE, load_internal),
            ["gateway[2].name: expected one of its own, found dmz, which gateway[1] has already"],
        )

    def test_service_names(self) -> None:
        """A service's name is short, lower case, and safe in logs and on the wire."""
        for name in ["", "SFTP", "-a", "_a", "a b", "a.b", "a" * 64, "a\\n", "\\u00e9"]:
            (problem,) = self.problems(INTERNAL.replace('"sftp"', f'"{name}"'), load_internal)
            self.assertIn(".name: expected a service name (1 to 63 of a-z, 0-9", problem)
        for name in ["a", "0", "a_b-c", "a" * 63]:
            config = load_internal(self.write(INTERNAL.replace('"sftp"', f'"{name}"')))
            self.assertEqual(config.services[0].name, name)

    def test_protocols(self) -> None:
        """A protocol that does not exist is refused with those that do."""
        self.one(
            INTERNAL,
            '"ssh"',
            '"gopher"',
            'service "sftp".protocol: expected one of "ssh", "tcp", "tls", "ftp", "ftps", '
            '"http", "https", found "gopher"',
        )

    def test_backends(self) -> None:
        """There are 1 to 64 backends, all different and all of a kind that can be dialled."""
        many = [f"10.0.0.{number}:22" for number in range(1, 66)]
        self.one(
            INTERNAL,
            '["10.0.0.1:22"]',
            json.dumps(many),
            'service "sftp".backends: expected at most 64 backends, found 65',
        )
        text = INTERNAL.replace('["10.0.0.1:22"]', json.dumps(many[:64]))
        self.assertEqual(len(load_internal(self.write(text)).services[0].backends), 64)
        for old in ["0.0.0.0:22", "[::]:22", "224.0.0.1:22", "255.255.255.255:22"]:
            (problem,) = self.problems(INTERNAL.replace("10.0.0.1:22", old), load_internal)
            self.assertIn("no host can be dialled there", problem)

    def test_too_many_tables(self) -> None:
        """There are at most 64 gateways."""
        gateways = [
            GATEWAY.replace("7443", str(port)).replace('"dmz"', f'"dmz-{port}"')
            for port in range(1, 66)
        ]
        many = "".join(gateways)
        self.assertEqual(
            self.problems(IDENTITY + many + SERVICE, load_internal),
            ["gateway: expected at most 64 [[gateway]], found 65"],
        )
        fewer = "".join(gateways[:64])
        config = load_internal(self.write(IDENTITY + fewer + SERVICE))
        self.assertEqual(len(config.gateways), 64)

    def test_numbers(self) -> None:
        """Numbers have both bounds, and a truth value or a text is none."""
        for value in ["0", "257", "-1", "true", '"8"', "8.0", "nan", "[8]"]:
            text = IDENTITY + GATEWAY + f"pool = {value}\n" + SERVICE
            (problem,) = self.problems(text, load_internal)
            self.assertIn("expected a whole number from 1 to 256, found ", problem)
        for value in ["0", "0.5", "-1", "2592001", "true", "nan", "inf", '"5"', "00:00:05"]:
            (problem,) = self.problems(INTERNAL + f"idle_timeout = {value}\n", load_internal)
            self.assertIn("expected a number of seconds from 1 to 2592000, found ", problem)

    def test_wrong_shapes(self) -> None:
        """A value where a table belongs, and a table where a list belongs, are mistakes."""
        self.assertEqual(
            self.problems('uplink = 1\npolicy = []\nlog = "x"\n' + IDENTITY, load_dmz),
            [
                "uplink: expected a table, found 1",
                "policy: expected a table, found []",
                'log: expected a table, found "x"',
            ],
        )
        self.assertEqual(
            self.problems(IDENTITY + "[gateway]\n[service]\n", load_internal),
            [
                "gateway: expected at least one [[gateway]], found a table",
                "service: expected at least one [[service]], found a table",
            ],
        )
        self.assertEqual(
            self.problems("gateway = [1]\n" + IDENTITY + SERVICE, load_internal),
            ["gateway[1]: expected a table, found 1"],
        )
        self.one(
            DMZ,
            '["node-a", "node-b"]',
            '"node-a"',
            'uplink.nodes: expected a non-empty list of names, found "node-a"',
        )

    def test_forging(self) -> None:
        """Neither keys, values nor the file's name can break a line of the report."""
        hostile = DMZ + '"a\\nb\\u001b[31m" = 1\nmax_sessions = "\\u2028\\u202e\\n"\n'
        problems = self.problems(hostile, load_dmz)
        self.assertEqual(len(problems), 2)
        self.assertIn('policy."a\\nb\\u001b[31m"', problems[0])
        error = self.assertRaises(ConfigError, load_dmz, Path("a\nb\udcff.toml"))
        self.assertTrue(str(error).startswith("a\\nb\\udcff.toml: "), str(error))

    def test_long_values_are_cut(self) -> None:
        """A message stays short, whatever stands in the file."""
        (problem,) = self.problems(DMZ + f'"{"k" * 9_000}" = 1', load_dmz)
        self.assertLess(len(problem), 300)
        (problem,) = self.problems(DMZ + f'max_sessions = "{"v" * 9_000}"', load_dmz)
        self.assertLess(len(problem), 300)


def toml_value(value: object) -> str:
    """Write *value* as inline TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's too, except for the pairs beyond the first plane.
        return json.dumps(value.encode("utf-16", "replace").decode("utf-16", "replace"))
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        pairs = (f"{toml_value(key)} = {toml_value(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    return str(value)


KNOWN = sorted(
    {part for t in (DMZ_FILE, INTERNAL_FILE) for p in paths_of(t) for part in p.split(".")}
)
# Basic multilingual plane without surrogates and DEL: what a TOML basic string can escape.
TEXT = st.text(
    st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"], exclude_characters="\x7f"),
    max_size=12,
)
SCALARS = (
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.dates()
    | TEXT
    | st.sampled_from(["0.0.0.0:22", "[::]:443", "a.example:1", "node-a", "ssh", "auto", "json"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KNOWN) | TEXT, inner, max_size=5)
    ),
    max_leaves=25,
)


class PropertyTests(FileCase):
    """Whatever a file holds, it is a configuration or a ConfigError."""

    @settings(deadline=None)
    @given(st.dictionaries(st.sampled_from(KNOWN) | TEXT, VALUES, max_size=6))
    def test_any_tables(self, values: dict[str, Any]) -> None:
        """Any nested tables raise only ConfigError, whose problems are printable lines."""
        text = "".join(f"{toml_value(k)} = {toml_value(v)}\n" for k, v in values.items())
        self.write(text)
        for loader in (load_dmz, load_internal, load):
            try:
                loader(self.file)
            except ConfigError as error:
                self.assertTrue(error.problems)
                for problem in error.problems:
                    self.assertNotIn("expected TOML", problem.message, text)
                    self.assertTrue(str(problem).isprintable())

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes raise only ConfigError."""
        self.write(data)
        with contextlib.suppress(ConfigError):
            load_dmz(self.file)
