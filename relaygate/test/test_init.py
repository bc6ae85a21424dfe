"""
``relaygate init``: what it writes, and what it leaves alone.

That a gateway runs from it is shown by :mod:`relaygate.test.test_quickstart`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from relaygate.cli.units import unit_name
from relaygate.config import load_dmz, load_internal
from relaygate.identity import Role, load_identity
from relaygate.test.netns import Network, missing, require, require_program
from relaygate.test.test_cli import call

SFTP = ("--service", "sftp=ssh,22,sftp.private.example:22")
FIRST = ("--gateway", "192.0.2.10:7443", "--node", "node-a=10.0.0.5", *SFTP)
FTPS = ("--service", "ftps=ftps,990,ftp.private.example:21", "--public-address", "203.0.113.7")
OUT = (
    *("--entry", "out=socks5,0.0.0.0:1080,sftp.partner.example:22"),
    *("--entry-allow", "10.0.0.0/24"),
)
UNIT = unit_name(Role.INTERNAL)

# The script changes /etc: a copy of it, that only this process sees, is laid over the real one.
_OWN_ETC = """
set -eu
mount -t tmpfs none "$1"
mkdir "$1/up" "$1/work" "$1/bin"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/up,workdir=$1/work" /etc
printf '#!/bin/sh\\necho systemctl "$@"\\n' >"$1/bin/systemctl"
chmod 755 "$1/bin/systemctl"
export PATH="$1/bin:$PATH"
shift
{ eval "$1"; } 2>&1
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below *folder*."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class InitTests(SynchronousTestCase):
    """The command, in a folder of its own."""

    def setUp(self) -> None:
        self.site = Path(self.mktemp()).absolute() / "site"

    def init(self, *flags: str) -> str:
        """Run it; it must have done its work, and its words are returned."""
        status, out, err = call("init", str(self.site), *flags)
        self.assertEqual((status, err), (0, ""))
        return out

    def refused(self, *flags: str) -> str:
        """Run it; it must have changed nothing, and says why in one line."""
        before = contents(self.site)
        status, out, err = call("init", str(self.site), *flags)
        self.assertEqual((status, out, contents(self.site)), (2, "", before), err)
        self.assertEqual(err.count("\n"), 1, err)
        return err

    def test_two_folders(self) -> None:
        """Each machine's folder starts a node as it is; the CA's key is in neither."""
        out = self.init(*FIRST, *FTPS)
        dmz, node = self.site / "dmz", self.site / "node-a"
        for folder, file in ((dmz, "dmz.toml"), (node, "internal.toml")):
            status, _, err = call("check", str(folder / file))
            self.assertEqual((status, err), (0, ""))
            self.assertTrue((folder / "install.sh").stat().st_mode & 0o100)
        ca_key = (self.site / "ca" / "ca.key").read_bytes()
        for folder in (dmz, node):
            self.assertNotIn(ca_key, contents(folder).values())
            for key in folder.glob("*.key"):
                self.assertEqual(key.stat().st_mode & 0o777, 0o600)
        self.assertEqual(
            [str(rule) for rule in load_dmz(dmz / "dmz.toml").listen],
            ["0.0.0.0:22", "0.0.0.0:990", "0.0.0.0:30000-30099"],
        )
        services = load_internal(node / "internal.toml").services
        self.assertEqual([each.name for each in services], ["sftp", "ftps"])
        self.assertIn("install.sh", out)
        self.assertIn("/opt/relaygate/bin/relaygate doctor", out)
        # Requirement of the trust model: nothing of the inside is known in the DMZ.
        for name, content in contents(dmz).items():
            if name != "FIREWALL.txt":
                self.assertNotIn(b"private.example", content, name)

    def test_again(self) -> None:
        """A second run without anything new does nothing; one with more adds it, keys stay."""
        self.init(*FIRST)
        before = contents(self.site)
        self.assertIn("nothing to do", self.init())
        self.assertIn("nothing to do", self.init(*FIRST))
        self.assertEqual(contents(self.site), before)
        out = self.init("--node", "node-b=10.0.0.6", *FTPS)
        after = contents(self.site)
        for name in before:
            if name.endswith((".pem", ".key")):
                self.assertEqual(before[name], after[name], name)
        self.assertEqual(load_dmz(self.site / "dmz" / "dmz.toml").nodes, ("node-a", "node-b"))
        for node in ("node-a", "node-b"):
            config = load_internal(self.site / node / "internal.toml")
            self.assertEqual([each.name for each in config.services], ["sftp", "ftps"])
            files = (config.identity.certificate, config.identity.key, config.identity.ca)
            found = load_identity(*files, role=Role.INTERNAL, now=datetime.now(UTC))
            self.assertEqual(found.name, node)
        # Several nodes show partners one certificate.
        self.assertEqual(after["node-a/service-ftps.key"], after["node-b/service-ftps.key"])
        self.assertIn("made", out)

    def test_changed_by_hand(self) -> None:
        """A file that somebody has changed stays, and what it would be lies beside it."""
        self.init(*FIRST)
        file = self.site / "dmz" / "dmz.toml"
        mine = file.read_text() + "# mine\n"
        file.write_text(mine)
        self.assertIn("kept", self.init("--node", "node-b"))
        self.assertEqual(file.read_text(), mine)
        self.assertIn("node-b", (self.site / "dmz" / "dmz.toml.new").read_text())

    def test_refusals(self) -> None:
        """What cannot be is told in a line, and nothing is written."""
        self.assertIn("--gateway", self.refused())
        self.assertIn("--service", self.refused("--gateway", "192.0.2.10:7443", "--node", "a"))
        for flags, word in (
            (("--gateway", "here"), "--gateway"),
            (("--gateway", "192.0.2.10:7443", "--node", "NODE A"), "--node"),
            ((*FIRST, "--node", "dmz"), "dmz"),
            ((*FIRST, "--node", "ca"), "ca"),
            ((*FIRST, "--service", "x=ssh,22"), "--service"),
            ((*FIRST, "--service", "x=gopher,70,h.example:70"), "protocol"),
            ((*FIRST, "--service", "x=ssh,22,h.example:22"), "listen"),
            ((*FIRST, "--service", 'x"=ssh,23,h.example:22'), "--service"),
            ((*FIRST, *FTPS, "--passive-ports", "9-8"), "--passive-ports"),
            ((*FIRST, *FTPS, "--public-address", '"'), "--public-address"),
            ((*FIRST, "--entry", "x=tcp,22"), "--entry"),
            ((*FIRST, "--entry", "x=tcp,22,a.example:22,b.example:22"), "one server"),
            ((*FIRST, "--entry", "x=gopher,70,a.example:70"), "protocol"),
            ((*FIRST, "--entry", "x=socks5,0.0.0.0:1080,a.example:22"), "--entry-allow"),
            ((*FIRST, *OUT, "--entry-allow", "10.0.0.1/8"), "allow"),
        ):
            self.assertIn(word, self.refused(*flags), flags)
        self.assertFalse(self.site.exists())
        self.init(*FIRST, *OUT)
        for flags in (
            ("--service", "sftp=ssh,22,other.private.example:22"),
            ("--gateway", "192.0.2.99:7443"),
            ("--node", "node-a=10.0.0.99"),
            ("--entry", "out=socks5,1080,other.example:22"),
        ):
            self.assertIn("already", self.refused(*flags))

    def test_only_a_way_out(self) -> None:
        """A deployment without a service, through which programs go out, is a whole one."""
        self.assertIn("--entry", self.refused(*FIRST[:4]))
        self.init(*FIRST[:4], *OUT)
        rules = (self.site / "dmz" / "firewall.nft").read_text()
        self.assertIn("Partners reach nothing here", rules)
        self.assertEqual(load_dmz(self.site / "dmz" / "dmz.toml").listen, ())
        self.assertEqual(load_internal(self.site / "node-a" / "internal.toml").services, ())

    def test_foreign_folder(self) -> None:
        """A folder with other things in it is not written into, nor is a broken plan followed."""
        self.site.mkdir(parents=True)
        (self.site / "x").write_text("mine")
        self.assertIn("neither empty", self.refused(*FIRST))
        for text in ("", "[]", "{}", '{"format": 2}', '{"format": 1, "gateways": [{}]}'):
            (self.site / "deployment.json").write_text(text)
            self.assertIn("deployment.json", self.refused(*FIRST))

    def test_questions(self) -> None:
        """On a terminal it asks, and what it is told leads to the same files."""
        told = self.asked(
            *("here", ""),  # what cannot be understood is told, and asked for again
            "node-a=10.0.0.5",
            *("sftp=ssh,22", "sftp=ssh,22,sftp.private.example:22"),
            *("ftps=ftps,990,ftp.private.example:21", ""),
            "203.0.113.7",
            *("out=socks5,0.0.0.0:1080,sftp.partner.example:22", ""),
            *("10.0.0.1/24", "10.0.0.0/24"),
        )
        for word in ("--gateway", "--service", "10.0.0.1/24"):
            self.assertIn(word, told)
        asked = json.loads((self.site / "deployment.json").read_text())
        shutil.rmtree(self.site)
        self.init(*FIRST, *FTPS, *OUT)
        self.assertEqual(asked, json.loads((self.site / "deployment.json").read_text()))

    def asked(self, *words: str) -> str:
        """Run it on a terminal where *words* are typed; what it says."""
        answers = iter(words)
        with (
            mock.patch("sys.stdin.isatty", return_value=True),
            mock.patch("builtins.input", lambda _prompt: next(answers)),
        ):
            return self.init()

    def test_questions_cut_short(self) -> None:
        """The end of the input (Ctrl-D) makes nothing, and is told in a line."""
        with (
            mock.patch("sys.stdin.isatty", return_value=True),
            mock.patch("builtins.input", side_effect=EOFError),
        ):
            self.assertIn("nothing was made", self.refused())
        self.assertFalse(self.site.exists())

    def test_way_out(self) -> None:
        """Entries stand in the internal file, their destinations in the DMZ's; more come later."""
        self.init(*FIRST, "--entry", "bank=tcp,2200,sftp.bank.example:22")
        dmz, node = self.site / "dmz", self.site / "node-a"
        keys = (node / "node-a.key").read_bytes()
        self.assertIn("CapabilityBoundingSet=\n", (node / UNIT).read_text())
        ftp = ("--entry", "ftp=ftp,127.0.0.1:21,ftp.partner.example:21")
        self.init(*OUT, *ftp)
        self.assertEqual((node / "node-a.key").read_bytes(), keys)
        config = load_internal(node / "internal.toml")
        self.assertEqual(
            [(each.name, each.protocol, str(each.listen), each.allow) for each in config.forwards],
            [
                ("bank", "tcp", "127.0.0.1:2200", ()),
                ("out", "socks5", "0.0.0.0:1080", ("10.0.0.0/24",)),
                ("ftp", "ftp", "127.0.0.1:21", ()),
            ],
        )
        rules = [str(rule) for rule in load_dmz(dmz / "dmz.toml").connect]
        self.assertEqual(
            rules, ["sftp.bank.example:22", "sftp.partner.example:22", "ftp.partner.example:21"]
        )
        # Port 21 of the node takes the one capability.
        self.assertIn("CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n", (node / UNIT).read_text())
        words = (dmz / "FIREWALL.txt").read_text()
        for part in (*rules, "10.0.0.0/24", "port 1080", "port 1024 and up there"):
            self.assertIn(part, words)
        self.assertIn("0.0.0.0:1080", (node / "firewall.nft").read_text())

    def test_web(self) -> None:
        """HTTPS is opened inside, with a certificate for a first try; "tls" passes unopened."""
        web = ("--service", "web=https,443,web.private.example:80")
        self.init(*FIRST, *web, "--service", "raw=tls,8443,raw.private.example:443")
        node = self.site / "node-a"
        opened, raw = load_internal(node / "internal.toml").services[1:]
        assert opened.tls is not None
        self.assertEqual(opened.tls.certificate.name, "service-web.pem")
        self.assertIsNone(raw.tls)
        self.assertEqual(call("check", str(node / "internal.toml"))[0], 0)
        self.assertFalse((node / "service-raw.pem").exists())
        # Neither has data connections.
        rules = [str(rule) for rule in load_dmz(self.site / "dmz" / "dmz.toml").listen]
        self.assertEqual(rules, ["0.0.0.0:22", "0.0.0.0:443", "0.0.0.0:8443"])
        self.assertIn("service-web.key", (node / "install.sh").read_text())

    def test_firewall_rules(self) -> None:
        """The program nft takes both machines' rules, twice, in a network of their own."""
        require()
        self.init(*FIRST, *FTPS, "--gateway", "dmz-2=dmz-2.example:7443", "--node", "node-b")
        network = Network()
        self.addCleanup(network.destroy)
        network.create()
        for folder in ("dmz", "node-a"):
            for _ in range(2):
                network.run("dmz", ["nft", "-f", str(self.site / folder / "firewall.nft")])
        words = (self.site / "dmz" / "FIREWALL.txt").read_text()
        for part in ("192.0.2.10:7443", "port 22", "30000-30099", "nothing, ever"):
            self.assertIn(part, words)


class InstallTests(SynchronousTestCase):
    """The script in each folder, over a copy of /etc that nobody else sees."""

    def test_install_twice(self) -> None:
        """It installs what the unit names; again, it leaves own changes and certificates alone."""
        if os.geteuid():
            missing("only root can mount")
        unshare = require_program("unshare")
        site = Path(self.mktemp()).absolute()
        status, _, err = call("init", str(site), *FIRST, *FTPS, "--prefix", sys.prefix)
        self.assertEqual((status, err), (0, ""))
        scratch = Path(self.mktemp()).absolute()
        scratch.mkdir()
        script = site / "node-a" / "install.sh"
        steps = f"""
            sh {script}
            echo "== installed"; stat -c '%U %a %n' /etc/relaygate/*
            cat /etc/systemd/system/relaygate-internal.service
            cp /etc/relaygate/ca.pem /etc/relaygate/service-ftps.key
            sh {script} || echo "== refused"
            cmp /etc/relaygate/ca.pem /etc/relaygate/service-ftps.key && echo "== own key stays"
            cp {site}/node-a/service-ftps.key /etc/relaygate/service-ftps.key
            echo '# mine' >>/etc/relaygate/internal.toml
            sh {script}
            tail -n 1 /etc/relaygate/internal.toml; ls /etc/relaygate/internal.toml.new
        """
        done = subprocess.run(
            [unshare, "--mount", "sh", "-c", _OWN_ETC, "sh", str(scratch), steps],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        said = done.stdout
        self.assertEqual(done.returncode, 0, said + done.stderr)
        self.assertIn("relaygate 600 /etc/relaygate/node-a.key\n", said)
        self.assertIn("relaygate 640 /etc/relaygate/internal.toml\n", said)
        self.assertIn(f"ExecStart={sys.prefix}/bin/twistd", said)
        self.assertIn("systemctl reload-or-restart relaygate-internal.service\n", said)
        self.assertIn("== refused\n", said)  # by "relaygate check": a certificate is no key
        self.assertIn("== own key stays\n", said)
        self.assertIn("was changed here and stays", said)
        self.assertTrue(said.endswith("# mine\n/etc/relaygate/internal.toml.new\n"), said)
        self.assertFalse(Path("/etc/relaygate/node-a.key").exists())
