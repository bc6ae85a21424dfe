"""Tests for :mod:`relaygate.cli.main` and :mod:`relaygate.cli.check`."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

import relaygate
from relaygate.cli import check, node, sessions
from relaygate.cli.main import main, make_parser
from relaygate.cli.shown import coloured, lasting, print_table
from relaygate.identity import Role
from relaygate.pki import issue, make_ca
from relaygate.test.netns import require_program

ROOT = Path(relaygate.__file__).parent.parent
DMZ = ROOT / "etc" / "dmz.toml"
INTERNAL = ROOT / "etc" / "internal.toml"


def call(*argv: str) -> tuple[int, str, str]:
    """Run the command here; returns exit status, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(argv)
    return status, out.getvalue(), err.getvalue()


class MainTests(SynchronousTestCase):
    """The command as such."""

    def test_version(self) -> None:
        """The version is that of the package."""
        self.assertEqual(call("--version"), (0, f"relaygate {relaygate.__version__}\n", ""))

    def test_help(self) -> None:
        """Help goes to standard output, names the subcommands and is a success."""
        status, out, err = call("--help")
        self.assertEqual((status, err), (0, ""))
        for command in ("pki", "check"):
            self.assertIn(command, out)

    def test_usage_errors(self) -> None:
        """What cannot be understood is told on standard error, with status 2."""
        for argv in [(), ("no-such",), ("check",), ("check", "--kind", "x", "f"), ("--nope",)]:
            status, out, err = call(*argv)
            self.assertEqual((status, out), (2, ""), argv)
            self.assertIn("usage: relaygate", err)

    def test_interrupted(self) -> None:
        """An interrupt ends the command without a traceback, as a shell expects it."""
        with mock.patch.object(check, "load", side_effect=KeyboardInterrupt):
            self.assertEqual(call("check", str(DMZ)), (130, "", ""))

    def test_broken_pipe(self) -> None:
        """A reader that went away ends the command quietly."""
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "from relaygate.cli.main import run; run()",
                    *("check", "--no-identity", str(DMZ)),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
        finally:
            os.close(writing)
        self.assertEqual((done.returncode, done.stderr), (141, b""))

    def test_poor_terminal(self) -> None:
        """A partner's name for a file does not end the command where its letters are not known."""
        log = Path(self.mktemp())
        log.write_text(
            "2026-11-26T18:50:34.319Z INFO  [relaygate.ftprelay.FTPRelay] session a8ebf3aab2dfa7e6"
            " transfer: entry=out client=192.0.2.9:40112 gateway=dmz destination=192.0.2.1:21"
            " verb=RETR path=/\u20ac.pdf direction=download bytes=7 seconds=0.1 result=226"
            " mode=passive client_tls=False backend_tls=False\n",
            encoding="utf-8",
        )
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from relaygate.cli.main import run; run()",
                *("transfers", str(log.absolute())),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
            capture_output=True,
            timeout=60,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertIn(rb"/\u20ac.pdf", done.stdout)


class CheckTests(SynchronousTestCase):
    """``relaygate check``."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    def copy(self, example: Path, name: str, role: Role) -> str:
        """Put an example and an identity for it into the folder; returns the file's path."""
        now = datetime.now(UTC)
        ca = make_ca("test CA", now, 10)
        pair = issue(ca, name, role, now, 5)
        (self.folder / f"{name}.pem").write_bytes(pair.certificate_pem)
        key = self.folder / f"{name}.key"
        key.touch(mode=0o600)
        key.write_bytes(pair.key_pem)
        (self.folder / "ca.pem").write_bytes(ca.certificate_pem)
        file = self.folder / example.name
        file.write_bytes(example.read_bytes())
        return str(file)

    def test_dmz(self) -> None:
        """A good DMZ file is summed up with the name in its certificate."""
        file = self.copy(DMZ, "dmz", Role.DMZ)
        expected = f'{file}: ok (dmz node "dmz", 2 nodes, 4 listen rules)\n'
        self.assertEqual(call("check", file), (0, expected, ""))

    def test_internal(self) -> None:
        """A good internal file likewise, and one of a thing is not spoken of as many."""
        file = self.copy(INTERNAL, "node-a", Role.INTERNAL)
        self.service_files()
        expected = f'{file}: ok (internal node "node-a", 1 gateway, 5 services, 3 entries)\n'
        self.assertEqual(call("check", file), (0, expected, ""))

    def test_files_of_services(self) -> None:
        """What a service's clients are shown is read as well, and its mistakes name the service."""
        file = self.copy(INTERNAL, "node-a", Role.INTERNAL)
        self.service_files()
        (self.folder / "ftp.key").chmod(0o644)
        status, said, complaint = call("check", file)
        self.assertEqual((status, said), (2, ""))
        self.assertIn(f'{file}: service: service "ftp": key', complaint)

    def service_files(self) -> None:
        """Put the files of the example's services into the folder."""
        now = datetime.now(UTC)
        ca = make_ca("service CA", now, 10)
        for name in ("ftp", "web", "as2"):
            pair = issue(ca, name, Role.DMZ, now, 5)
            (self.folder / f"{name}.pem").write_bytes(pair.certificate_pem)
            key = self.folder / f"{name}.key"
            key.touch(mode=0o600)
            key.write_bytes(pair.key_pem)
        (self.folder / "private-ca.pem").write_bytes(ca.certificate_pem)

    def test_wrong_role(self) -> None:
        """A certificate of the other role is found before the node is started."""
        file = self.copy(DMZ, "dmz", Role.INTERNAL)
        status, out, err = call("check", file)
        self.assertEqual((status, out), (2, ""))
        self.assertTrue(err.startswith(f"{file}: identity: "), err)
        self.assertIn("this is a DMZ node", err)
        self.assertEqual(err.count("\n"), 1)

    def test_key_for_all_to_read(self) -> None:
        """A key file that others may read is found, too."""
        file = self.copy(DMZ, "dmz", Role.DMZ)
        (self.folder / "dmz.key").chmod(0o644)
        status, _, err = call("check", file)
        self.assertEqual(status, 2)
        self.assertIn("chmod", err)

    def test_without_identity(self) -> None:
        """The identity can be left out, for a file that will run elsewhere."""
        status, out, err = call("check", "--no-identity", str(DMZ), str(INTERNAL))
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(
            out,
            f"{DMZ}: ok (dmz node, 2 nodes, 4 listen rules)\n"
            f"{INTERNAL}: ok (internal node, 1 gateway, 5 services, 3 entries)\n",
        )

    def test_all_files_and_problems(self) -> None:
        """Every problem of every file is told, good files stay good, and the status is 2."""
        broken = self.folder / "broken.toml"
        broken.write_text("[uplink]\nnodes = []\n[policy]\nmax_session = 1\n")
        absent = self.folder / "absent.toml"
        status, out, err = call("check", "--no-identity", str(broken), str(absent), str(DMZ))
        self.assertEqual(status, 2)
        self.assertEqual(out.count("\n"), 1)
        self.assertIn(f"{DMZ}: ok", out)
        lines = err.splitlines()
        self.assertIn(
            f"{broken}: uplink.nodes: expected a non-empty list of names, found []", lines
        )
        self.assertIn(
            f"{broken}: policy.max_session: unknown key (did you mean max_sessions?)", lines
        )
        self.assertEqual(len(lines), 8)
        self.assertTrue(lines[-1].startswith(f"{absent}: "), lines[-1])

    def test_kind(self) -> None:
        """A kind that is given overrules what the sections show."""
        self.assertEqual(call("check", "--no-identity", "--kind", "dmz", str(DMZ))[0], 0)
        status, _, err = call("check", "--no-identity", "--kind", "internal", str(DMZ))
        self.assertEqual(status, 2)
        self.assertIn(f"{DMZ}: expected the file of an internal node", err)


class CompletionTests(SynchronousTestCase):
    """What shells are told."""

    def complete(self, line: str) -> list[str]:
        """What bash offers for *line*, whose last word is begun."""
        status, script, _ = call("completion", "bash")
        self.assertEqual(status, 0)
        code = (
            f"{script}\nCOMP_WORDS=({line}); COMP_CWORD=$(({len(line.split())} - 1));"
            '_relaygate; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", code], capture_output=True, text=True, timeout=30, check=True
        )
        return sorted(done.stdout.split())

    def test_bash(self) -> None:
        """Subcommands, their subcommands, and options, each where they belong."""
        self.assertIn("doctor", self.complete("relaygate do"))
        self.assertEqual(self.complete("relaygate pki is"), ["issue"])
        self.assertEqual(self.complete("relaygate pki issue --ro"), ["--role"])
        self.assertEqual(self.complete("relaygate transfers --js"), ["--json"])

    def test_others(self) -> None:
        """The scripts of zsh and fish know the same commands."""
        for shell in ("zsh", "fish"):
            status, out, _ = call("completion", shell)
            self.assertEqual(status, 0)
            for word in ("doctor", "transfers", "passphrase-file"):
                self.assertIn(word, out)

    def test_fish(self) -> None:
        """Fish itself offers what there is, with its help."""
        offered = self.in_shell("fish", "complete --do-complete 'relaygate do'")
        self.assertRegex(offered, r"(?m)^doctor\t.*what is wrong")
        self.assertIn("--role", self.in_shell("fish", "complete -C 'relaygate pki issue --ro'"))

    def test_zsh(self) -> None:
        """Zsh calls it for the command, as bash's (bashcompinit), and understands it."""
        words = "COMP_WORDS=(relaygate pki issue --ro); COMP_CWORD=3"
        code = f"ask() {{ emulate -L sh; setopt kshglob noshglob; {words}; _relaygate; }}; ask"
        known = self.in_shell("zsh", f"print $_comps[relaygate]; {code}; print -- $COMPREPLY")
        first, offered = known.splitlines()
        self.assertEqual(first, "_bash_complete -F _relaygate")
        self.assertIn("--role", offered.split())

    def in_shell(self, shell: str, code: str) -> str:
        """What *code* prints in *shell*, which has the script of completion."""
        script = Path(self.mktemp()).absolute()
        script.write_text(call("completion", shell)[1])
        before = {"fish": "", "zsh": "autoload -U compinit; compinit -D -u\n"}[shell]
        home = script.with_name("home")
        home.mkdir()
        done = subprocess.run(
            [require_program(shell), {"fish": "--no-config", "zsh": "-f"}[shell]],
            input=f"{before}source {script}\n{code}\n",
            env={**os.environ, "HOME": str(home)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.stderr, "")
        return done.stdout


class StatusTests(SynchronousTestCase):
    """What ``relaygate status`` prints."""

    def test_gateway_that_is_down(self) -> None:
        """Why it is down stands in a line of its own, and not under a heading of something else."""
        gateway: dict[str, object] = {
            "name": "dmz",
            "address": "a:1",
            "state": "down",
            "last_failure": "no route",
        }
        gateway |= {"idle_channels": {"clear": 0, "tls": 0}, "refused": {}, "report": None}
        answer: dict[str, object] = {
            "node": "n",
            "state": "running",
            "software": "relaygate 1",
            "sessions": 0,
        }
        answer |= {"uptime_seconds": 1.0, "gateways": [gateway], "services": [], "forwards": []}
        with mock.patch.object(node, "ask", return_value=answer):
            status, out, err = call("status")
        self.assertEqual((status, err), (0, ""))
        lines = [" ".join(line.split()) for line in out.splitlines()]
        self.assertIn("dmz a:1 down 0 0 - -", lines)
        self.assertEqual(lines[-1], "dmz is down: no route")

    def test_sessions_there(self) -> None:
        """A gateway has the sessions of both kinds: those that come in, and those that go out."""
        self.assertEqual(node._sessions_there({"figures": {"sessions": 2, "outwards": 3}}), 5)
        # A DMZ node that is too old to know of the way out does not speak of it.
        self.assertEqual(node._sessions_there({"figures": {"sessions": 2}}), 2)


class SessionsTests(SynchronousTestCase):
    """The table of sessions."""

    def table(self, *found: Mapping[str, object], argv: Sequence[str] = ()) -> list[str]:
        """Its lines, for what a node says."""
        common = {"gateway": "dmz", "seconds": 1.0, "bytes_in": 5, "bytes_out": 6}
        page = {"sessions": [{**common, **each} for each in found], "more": False}
        with mock.patch.object(sessions, "ask", return_value=page):
            status, out, err = call("sessions", *argv)
        self.assertEqual((status, err), (0, ""))
        return [" ".join(line.split()) for line in out.splitlines()]

    def test_users(self) -> None:
        """Who has logged in has a column, where somebody has; an entry's program never has."""
        ftp = {"session": "1", "service": "ftp", "client": "c:1", "backend": "b:21", "user": "jo"}
        ssh = {"session": "2", "service": "ssh", "client": "c:2", "backend": "b:22", "user": ""}
        out = {"session": "3", "service": "", "entry": "out", "client": "c:3"}
        out |= {"backend": "", "destination": "d:22"}
        self.assertEqual(
            self.table(ftp, ssh, out),
            [
                "session service client user gateway backend seconds in out",
                "1 ftp c:1 jo dmz b:21 1.0 5 6",
                "2 ssh c:2 - dmz b:22 1.0 5 6",
                "3 out c:3 - dmz d:22 1.0 5 6",
            ],
        )
        self.assertNotIn("user", self.table(ssh)[0])

    def test_choosing(self) -> None:
        """Those of a network or of a user are chosen, and the longest or largest come first."""
        rows: list[dict[str, object]] = [
            {"session": "1", "client": "203.0.113.9:1", "user": "jo", "seconds": 5.0},
            {"session": "2", "client": "[2001:db8::9]:1", "user": "", "bytes_in": 30},
            {"session": "3", "client": "[::ffff:203.0.113.200]:1", "user": "al", "bytes_out": 9},
            {"session": "4", "client": "no address:1"},
        ]
        rows = [{"service": "s", "backend": "b:1", **each} for each in rows]
        for argv, expected in (
            ("", "1234"),
            ("--client 203.0.113.9", "1"),
            ("--client 203.0.113.0/24", "13"),
            ("--client ::/0", "2"),
            ("--client 203.0.113.0/24 --user al", "3"),
            ("--user JO", ""),
            ("--sort seconds", "1234"),
            ("--sort in", "2134"),
            ("--sort out", "3124"),
        ):
            told = self.table(*rows, argv=argv.split())
            self.assertEqual("".join(line[0] for line in told[1:]), expected, argv)

    def test_more_of_the_same(self) -> None:
        """A node that tells of more sessions without end, and shows none, ends the command."""
        row = {"session": "1"}
        for shown in ([], [row]):
            with mock.patch.object(
                sessions, "ask", side_effect=[{"sessions": shown, "more": True}] * 3
            ):
                status, out, err = call("sessions")
            self.assertEqual((status, out, err.count("\n")), (1, "", 1))

    def test_wrong_network(self) -> None:
        """Words that are no network are refused before anybody is asked."""
        status, _, err = call("sessions", "--client", "203.0.113.9/24")
        self.assertEqual(status, 2)
        self.assertIn("expected a network or an address", err)


class MannersTests(SynchronousTestCase):
    """How the commands speak to people, and to programs."""

    def leaves(self, parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
        """The parsers that have no commands below them."""
        below = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
        if not below:
            yield parser
        for action in below:
            for name in action.choices.values():
                yield from self.leaves(name)

    def test_every_help(self) -> None:
        """Each command shows by examples how it is used, and tells its exit status."""
        found = list(self.leaves(make_parser()))
        self.assertGreater(len(found), 15)
        for parser in found:
            text = parser.format_help()
            self.assertIn("examples:\n", text, parser.prog)
            self.assertIn(parser.prog, text.partition("examples:")[2], parser.prog)
            self.assertIn("Exit status: 0", text, parser.prog)
            for line in (parser.description or "").splitlines():
                self.assertLess(len(line), 80, parser.prog)

    def printed(self, columns: int, *, terminal: bool = True) -> list[str]:
        """A table on a terminal of so many *columns*."""
        out = io.StringIO()
        with (
            mock.patch("sys.stdout", out),
            mock.patch.object(out, "isatty", lambda: terminal),
            mock.patch.dict(os.environ, {"COLUMNS": str(columns)}),
        ):
            print_table(("name", "sessions"), [("x" * 30, 7), ("y", 10)])
        return out.getvalue().splitlines()

    def test_tables(self) -> None:
        """A table that does not fit becomes blocks, of which nothing is cut off; a file gets it."""
        wide = self.printed(80)
        self.assertEqual(wide[0].split(), ["name", "sessions"])
        self.assertEqual({len(line) for line in wide[1:]}, {40})
        self.assertEqual(self.printed(20, terminal=False), wide)
        narrow = self.printed(30)
        self.assertEqual(narrow[0], "- name      " + "x" * 30)
        self.assertEqual(narrow[1], "  sessions  7")
        self.assertEqual(len(narrow), 4)

    def test_lasting(self) -> None:
        """How long something lasts is told in the unit that fits."""
        for seconds, words in (
            *((0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h")),
            *((86_400, "24 h"), (172_800, "2 days"), (86_400 * 400, "400 days")),
        ):
            self.assertEqual(lasting(seconds), words)

    def test_colours(self) -> None:
        """Colours are for a terminal, and not where NO_COLOR or TERM=dumb says so."""
        for terminal, environ, wanted in (
            (True, {"TERM": "xterm"}, True),
            (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
            (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
            (True, {"TERM": "dumb"}, False),
            (False, {"TERM": "xterm"}, False),
        ):
            out = io.StringIO()
            with (
                mock.patch("sys.stdout", out),
                mock.patch.object(out, "isatty", lambda terminal=terminal: terminal),
                mock.patch.dict(os.environ, environ, clear=True),
            ):
                self.assertEqual(coloured(), wanted, environ)

    def test_answers_of_another_shape(self) -> None:
        """What no node says, or one of another version, is told in a line."""
        commands = ("status", "sessions", "bans", "unban --all", "end a", "reload", "drain node")
        for answer in (
            *(b"[]", b"3", b"null", b"{}", b"[" * 100_000, b'{"ok": false}', b'{"ok": true}'),
            *(b'{"ok": true, "result": []}', b'{"ok": true, "result": {"more": false}}'),
        ):
            for command in commands:
                connection = mock.MagicMock()
                stream = connection.__enter__.return_value.makefile
                stream.return_value = io.BytesIO(answer + b"\n")
                with mock.patch("relaygate.cli.node.socket.socket", return_value=connection):
                    status, out, err = call(*command.split())
                self.assertEqual((status, out, err.count("\n")), (1, "", 1), (command, answer))
                self.assertIn("not as expected", err)

    def test_exit_status(self) -> None:
        """1 is a node that does not answer, and 2 a file or a flag that is wrong."""
        missing = Path(self.mktemp()).absolute()
        status, _, err = call("status", "--socket", str(missing))
        self.assertEqual(status, 1)
        self.assertIn("does the node run", err)
        wrong = missing.with_name("wrong.toml")
        wrong.write_text("[service]\n[admin]\n")
        status, _, err = call("sessions", "--config", str(wrong))
        self.assertEqual(status, 2)
        self.assertGreater(err.count("\n"), 2)
        self.assertIn("identity.key", err)
        status, _, err = call("status", "--config", str(missing))
        self.assertEqual((status, err.count("\n")), (2, 1))
        self.assertEqual(call("status", "--colour")[0], 2)
        self.assertEqual(call("nonsense")[0], 2)
