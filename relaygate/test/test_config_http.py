"""Tests of what an HTTP service's configuration may say, and of its mistakes."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relaygate.addresses import HostPort
from relaygate.config import ConfigError, HTTPConfig, RouteConfig, ServiceConfig, load_internal

_BASE = """
[identity]
certificate = "a.pem"
key = "a.key"
ca = "ca.pem"
[[gateway]]
address = "192.0.2.1:7443"
name = "dmz"
[[service]]
name = "web"
listen = "0.0.0.0:443"
backends = ["10.0.0.5:80"]
"""
_TLS = '[service.tls]\ncertificate = "w.pem"\nkey = "w.key"\n'


class HTTPConfigTests(SynchronousTestCase):
    """Services of http and https."""

    def load(self, text: str) -> ServiceConfig:
        """The service that *text* describes."""
        file = Path(self.mktemp())
        file.write_text(_BASE + text)
        return load_internal(file).services[0]

    def mistake(self, text: str) -> str:
        """The one mistake in *text*."""
        with self.assertRaises(ConfigError) as caught:
            self.load(text)
        (problem,) = caught.exception.problems
        return f"{problem.key}: {problem.message}"

    def test_plain(self) -> None:
        """Without more a service has all defaults; what is in clear gets channels under TLS."""
        clear = self.load('protocol = "http"\n')
        self.assertEqual((clear.http, clear.tls_channel), (HTTPConfig(), True))
        passed = self.load('protocol = "https"\n')
        self.assertEqual((passed.http, passed.tls_channel), (HTTPConfig(), False))
        opened = self.load('protocol = "https"\n' + _TLS)
        self.assertFalse(opened.tls_channel)

    def test_routes(self) -> None:
        """Routes with hosts, wildcards and paths."""
        service = self.load(
            'protocol = "http"\n[[service.http.route]]\nhosts = ["A.example", "*.b.example"]\n'
            'path = "/as2"\nbackends = ["10.0.0.6:80"]\n'
        )
        route = RouteConfig((HostPort("10.0.0.6", 80),), ("a.example", "*.b.example"), "/as2")
        self.assertEqual(service.http, HTTPConfig(routes=(route,)))

    def test_more_certificates(self) -> None:
        """Certificates for other names count from the file's folder."""
        more = '[[service.tls.more]]\ncertificate = "m.pem"\nkey = "m.key"\n'
        tls = self.load('protocol = "https"\n' + _TLS + more).tls
        assert tls is not None
        self.assertEqual([each.certificate.name for each in tls.more], ["m.pem"])

    def test_mistakes(self) -> None:
        """What does not go together is said where it stands."""
        route = '[[service.http.route]]\nbackends = ["10.0.0.6:80"]\n'
        for text, words in (
            ('protocol = "http"\n' + _TLS, ".tls: expected none with"),
            ('protocol = "https"\nchannel = "always"\n' + _TLS, ".channel: expected"),
            ('protocol = "https"\nhttp = {max_body = 5}\n', ".http.max_body: only"),
            ('protocol = "https"\nhttp = {header_timeout = 5}\n', ".http.header_timeout: only"),
            ('protocol = "http"\nhttp = {minimum_tls = "1.2"}\n', ".http.minimum_tls: only"),
            ('protocol = "https"\n' + route, ".hosts: missing"),
            ('protocol = "tcp"\nhttp = {max_body = 5}\n', ".http: only a service of"),
            ('protocol = "http"\nproxy_protocol = "v2"\n', '.proxy_protocol: expected "none"'),
            ('protocol = "http"\npersistence = {by = "cookie"}\n', ".cookie_key: missing"),
            ('protocol = "https"\npersistence = {by = "cookie"}\n', ".persistence.by: expected"),
            ('protocol = "ssh"\npersistence = {by = "cookie"}\n', ".persistence.by: expected"),
            ('protocol = "http"\nbackend_tls = {mode = "on"}\n', ".backend_tls.ca: missing"),
            (
                'protocol = "http"\nbackend_tls = {mode = "explicit", ca = "x"}\n',
                '.mode: expected "off" or "on"',
            ),
            ('protocol = "http"\nhttp = {via = "two words"}\n', ".via: expected"),
            (
                'protocol = "http"\n[[service.http.route]]\npath = "as2"\nbackends = ["a:1"]\n',
                ".path: expected",
            ),
        ):
            self.assertIn(words, self.mistake(text), text)
