"""Alert rules and the Grafana dashboard under ``etc/``, held against metrics and promtool."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import relaygate
from relaygate.metrics import metrics
from relaygate.test.netns import require_program

ETC = Path(relaygate.__file__).parents[1] / "etc"

# As the admin socket answers it, with one of each thing.
COUNTS = {"sessions": 1, "opened": 5, "refused": 1, "bytes_in": 10, "bytes_out": 20}
STATUS = {
    "node": "node-a",
    "software": "relaygate 1",
    "uptime_seconds": 7.5,
    "certificate_ends": "2027-12-28T00:00:00+00:00",
    "services": [
        {
            "name": "sftp",
            **COUNTS,
            "backends": [
                {"address": "b:22", "state": "up", "sessions": 1, "opened": 2, "failed": 0}
            ],
        }
    ],
    "forwards": [{"name": "out", "protocol": "socks5", **COUNTS}],
    "gateways": [
        {
            "name": "dmz",
            "state": "up",
            "refused": {},
            "idle_channels": {"clear": 8, "tls": 0},
            "report": {
                "figures": {"sessions": 1, "turned_away_banned": 3, "proxy_headers_failed": 0},
                "listeners": [{"service": "sftp", "nodes": 1, **COUNTS}],
            },
        }
    ],
}


class MonitoringTests(SynchronousTestCase):
    """What is under ``etc/`` for monitors."""

    def promtool(self, *argv: str, stdin: bytes = b"") -> str:
        """Run it; it must be content."""
        done = subprocess.run(
            [require_program("promtool"), *argv],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        said = (done.stdout + done.stderr).decode()
        self.assertEqual(done.returncode, 0, said)
        return said

    def expressions(self) -> list[str]:
        """Every expression of the dashboard, its variables put in."""
        panels = json.loads((ETC / "grafana-dashboard.json").read_text())["panels"]
        found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
        for variable, value in (("$__rate_interval", "5m"), ("$node", ".*"), ("$service", ".*")):
            found = [text.replace(variable, value) for text in found]
        return found

    def test_metrics(self) -> None:
        """Promtool finds nothing to say against the metrics' names and texts."""
        self.promtool("check", "metrics", stdin=metrics(STATUS, 1, 2))

    def test_alerts(self) -> None:
        """The rules are sound, and fire when they should and not before."""
        self.promtool("check", "rules", str(ETC / "prometheus-alerts.yml"))
        self.promtool("test", "rules", str(ETC / "prometheus-tests.yml"))

    def test_dashboard(self) -> None:
        """Every expression of the dashboard is one that Prometheus understands."""
        rules = [
            {"record": f"dashboard:{number}", "expr": text}
            for number, text in enumerate(self.expressions())
        ]
        self.assertGreater(len(rules), 8)
        file = Path(self.mktemp()).absolute()
        # JSON is YAML.
        file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
        self.promtool("check", "rules", str(file))

    def test_every_metric_is_there(self) -> None:
        """Rules and dashboard ask for nothing that a node does not tell."""
        told = set(re.findall(rb"^# TYPE (\S+) ", metrics(STATUS, 1, 2), re.MULTILINE))
        texts = (ETC / "prometheus-alerts.yml").read_text() + "\n".join(self.expressions())
        rules = re.findall(r"\brelaygate_[a-z_]+", texts)
        self.assertEqual({name for name in rules if name.encode() not in told}, set())
