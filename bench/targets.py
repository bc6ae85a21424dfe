"""What relaygate is measured against, and whether a run met it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from bench.measures import AT_ONCE
from bench.results import Results

_US: Final = "relaygate"
_ENDS_TLS: Final = "relaygate-ends-tls"
_FTP: Final = "relaygate-ftp"
_HAPROXY: Final = ("haproxy", "haproxy-threads")
_FRP: Final = ("frp", "frp-plain")
_STREAMS: Final = (1, 8)
_WAYS: Final = ("up", "down")
_IDLE_WANTED: Final = 10_000
_SESSION_BYTES: Final = 8_192


@dataclass(frozen=True)
class Verdict:
    """One target of a run: in words, what was measured, and whether it was met (None: unknown)."""

    target: str
    measured: str
    met: bool | None


def verdicts(results: Results) -> list[Verdict]:
    """All targets, in the report's order."""
    return [
        *_streams(results),
        *_cpu(results),
        *_tls(results),
        *_ftp(results),
        *_http(results),
        *_sessions(results),
        *_idle(results),
        *_outward(results),
    ]


def _at_least(target: str, ours: float | None, other: float | None, factor: float) -> Verdict:
    """Whether *ours* is at least *factor* times *other*."""
    if not ours or not other:
        return Verdict(target, "not measured", None)
    return Verdict(target, f"{ours / other:.2f}", ours / other >= factor)


def _below(target: str, value: float | None, limit: float, unit: str, scale: float = 1) -> Verdict:
    if value is None:
        return Verdict(target, "not measured", None)
    return Verdict(target, f"{value / scale:,.2f} {unit}".strip(), value < limit)


def _best(
    results: Results, peers: Iterable[str], figure: str, pick: Callable[[list[float]], float] = max
) -> float | None:
    """The best median of *figure* among *peers*."""
    values = [value for peer in peers if (value := results.median(peer, figure)) is not None]
    return pick(values) if values else None


def _streams(results: Results) -> Iterator[Verdict]:
    rivals = (
        ("no relay", ("direct",), 0.6),
        ("HAProxy, two hops", _HAPROXY, 2.0),
        ("the best of rathole and frp", ("rathole", *_FRP), 2.0),
    )
    for title, peers, factor in rivals:
        for streams in _STREAMS:
            for way in _WAYS:
                figure = f"streams_{streams}_{way}_gb_s"
                target = f"{_count(streams)} {way}: at least {factor} times {title}"
                other = _best(results, peers, figure)
                yield _at_least(target, results.median(_US, figure), other, factor)


def _cpu(results: Results) -> Iterator[Verdict]:
    for title, peers in (("HAProxy, two hops", _HAPROXY), ("rathole", ("rathole",))):
        for streams in _STREAMS:
            for way in _WAYS:
                figure = f"streams_{streams}_{way}_cpu_s_per_gb"
                target = f"{_count(streams)} {way}: CPU per GB at most half of {title}"
                other = _best(results, peers, figure, min)
                ours = results.median(_US, figure)
                if not ours or not other:
                    yield Verdict(target, "not measured", None)
                else:
                    yield Verdict(target, f"{ours / other:.2f}", ours / other <= 0.5)


def _tls(results: Results) -> Iterator[Verdict]:
    for way in _WAYS:
        figure = f"tls_1_{way}_gb_s"
        ours, other = results.median(_ENDS_TLS, figure), results.median("haproxy-ends-tls", figure)
        target = f"1 stream {way}, TLS ended inside: at least 1.0 times HAProxy ending it"
        yield _at_least(target, ours, other, 1.0)


def _ftp(results: Results) -> Iterator[Verdict]:
    figures = [
        (f"{title}, a file of 256 MiB {way}", f"ftp_{name}_{way}_gb_s", 1.0)
        for title, name in (("FTP", "plain"), ("FTPS", "tls"))
        for way in _WAYS
    ]
    figures += [(f"FTP, files of 4 KiB {way}", f"ftp_files_{way}_per_s", 0.7) for way in _WAYS]
    for title, figure, factor in figures:
        ours, other = results.median(_FTP, figure), results.median("mod_proxy", figure)
        yield _at_least(f"{title}: at least {factor} times mod_proxy", ours, other, factor)


def _http(results: Results) -> Iterator[Verdict]:
    for kind, protection in (("http", "plain"), ("https", "tls")):
        for way in _WAYS:
            figure = f"http_{protection}_{way}_gb_s"
            ours = results.median(f"relaygate-{kind}", figure)
            other = results.median(f"haproxy-{kind}", figure)
            target = f"{kind.upper()}, a body of 256 MiB {way}: at least 1.0 times HAProxy"
            yield _at_least(target, ours, other, 1.0)
        for words, name in (("kept", "kept_16"), ("fresh", "fresh_8")):
            figure = f"http_{protection}_{name}_per_s"
            ours = results.median(f"relaygate-{kind}", figure)
            other = results.median(f"nginx-{kind}", figure)
            target = f"{kind.upper()}, small requests, {words}: at least 0.25 times nginx"
            yield _at_least(target, ours, other, 0.25)


def _sessions(results: Results) -> Iterator[Verdict]:
    ours = most_sessions(results, _US)
    for title, peers, factor in (("HAProxy, two hops", _HAPROXY, 0.6), ("frp", _FRP, 1.0)):
        others = [rate for peer in peers if (rate := most_sessions(results, peer))]
        target = f"new sessions a second: at least {factor} times {title}"
        yield _at_least(target, ours, max(others) if others else None, factor)
    for percentile, limit_us in (("p50", 1_000.0), ("p99", 5_000.0)):
        # An idle machine's direct connection is the hardest to stand beside.
        base = results.median("direct", f"sessions_1_{percentile}_us")
        value = results.median(_US, f"paced_{percentile}_us")
        added = None if base is None or value is None else value - base
        target = f"set-up at half load: {percentile} less than {limit_us / 1e3:g} ms over no relay"
        yield _below(target, added, limit_us, "ms", 1e3)


def most_sessions(results: Results, peer: str) -> float | None:
    """New sessions a second, at whichever number at once a peer does best."""
    figures = (f"sessions_{at_once}_per_s" for at_once in AT_ONCE)
    rates = [rate for figure in figures if (rate := results.median(peer, figure)) is not None]
    return max(rates) if rates else None


def _idle(results: Results) -> Iterator[Verdict]:
    most = results.most_idle
    held = results.median(_US, f"idle_{most}_held")
    target = f"{_IDLE_WANTED:,} idle sessions held"
    if held is None:
        yield Verdict(target, "not measured", None)
    else:
        words = f"{held:,.0f} of {most:,}"
        if most < _IDLE_WANTED:
            words += " (as many as the limit of descriptors here allows)"
        # Fewer than were wanted prove nothing, if none of them was lost.
        met = None if most < _IDLE_WANTED and held >= most else held >= most
        yield Verdict(target, words, met)
    memory = results.median(_US, f"idle_{most}_session_bytes")
    yield _below("idle: less than 8 KiB a session and node", memory, _SESSION_BYTES, "KiB", 1024)
    for what, figure in (("sessions a second", "sessions_8_per_s"), ("1 stream", "streams_1_gb_s")):
        with_idle = results.median(_US, f"idle_{most}_{figure}")
        empty = results.median(_US, f"idle_0_{figure}")
        yield _at_least(f"idle: {what} within 10 % of empty", with_idle, empty, 0.9)


def _outward(results: Results) -> Iterator[Verdict]:
    """Ways out: ahead of all in throughput, and 0.6 of dante's new connections."""
    for us, title, others in (
        ("relaygate-socks", "dante", ("dante",)),
        ("relaygate-connect", "tinyproxy and squid", ("tinyproxy", "squid")),
    ):
        for streams in _STREAMS:
            for way in _WAYS:
                figure = f"streams_{streams}_{way}_gb_s"
                target = f"outwards, {_count(streams)} {way}: at least 1.0 times {title}"
                other = _best(results, others, figure)
                yield _at_least(target, results.median(us, figure), other, 1.0)
    target = "outwards, new connections a second by SOCKS: at least 0.6 times dante"
    other = most_sessions(results, "dante")
    yield _at_least(target, most_sessions(results, "relaygate-socks"), other, 0.6)


def _count(streams: int) -> str:
    return "1 stream" if streams == 1 else f"{streams} streams"
