"""The report of a run: tables in markdown, everything in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench import plots
from bench.loads import Figures
from bench.measures import AT_ONCE
from bench.peers import Kind, Peer
from bench.results import Results
from bench.targets import verdicts

# Heading, figure, what it is divided by, decimals.
_Column = tuple[str, str, float, int]

_CUTS: Final = ("p50", "p99")
# In front of a figure: how much more it is than without a relay.
_ADDED: Final = "+"
_THROUGHPUT: Final[tuple[_Column, ...]] = tuple(
    (f"{streams} {way}", f"streams_{streams}_{way}_gb_s", 1, 2)
    for streams in (1, 8)
    for way in ("up", "down")
)
_CPU: Final[tuple[_Column, ...]] = tuple(
    (heading, figure.replace("_gb_s", "_cpu_s_per_gb"), 1, 2)
    for heading, figure, _, _ in _THROUGHPUT
)
_CPU_EACH: Final[tuple[_Column, ...]] = tuple(
    (f"{heading}, {process}", figure.replace("_cpu_s", f"_cpu_{process}_s"), 1, 2)
    for heading, figure, _, _ in _CPU
    for process in ("outer", "inner")
)
_TLS: Final[tuple[_Column, ...]] = tuple(
    (f"{what} {way}", f"tls_1_{way}_{figure}", 1, 2)
    for what, figure in (("GB/s", "gb_s"), ("CPU s/GB", "cpu_s_per_gb"))
    for way in ("up", "down")
)
_FTP_BULK: Final[tuple[_Column, ...]] = tuple(
    (f"{words} {way}", f"ftp_{protection}_{way}_{figure}", 1, 2)
    for protection, name in (("plain", "FTP"), ("tls", "FTPS"))
    for words, figure in ((f"{name} GB/s", "gb_s"), (f"{name} CPU s/GB", "cpu_s_per_gb"))
    for way in ("up", "down")
)
_FTP_SMALL: Final[tuple[_Column, ...]] = (
    *((f"files/s {way}", f"ftp_files_{way}_per_s", 1, 0) for way in ("up", "down")),
    *((f"CPU us a file {way}", f"ftp_files_{way}_cpu_us", 1, 0) for way in ("up", "down")),
    *((f"log-in to listing {each} ms", f"ftp_listing_{each}_us", 1e3, 2) for each in _CUTS),
)
_HTTP_BULK, _HTTPS_BULK = (
    tuple(
        (f"{words} {way}", f"http_{protection}_{way}_{figure}", 1, 2)
        for words, figure in (("GB/s", "gb_s"), ("CPU s/GB", "cpu_s_per_gb"))
        for way in ("up", "down")
    )
    for protection in ("plain", "tls")
)
_HTTP_SMALL, _HTTPS_SMALL = (
    tuple(
        (f"{words}, {heading}", f"http_{protection}_{name}_{figure}", scale, places)
        for words, name in (("one kept", "kept_1"), ("16 kept", "kept_16"), ("8 fresh", "fresh_8"))
        for heading, figure, scale, places in (
            ("1/s", "per_s", 1, 0),
            ("p50 ms", "p50_us", 1e3, 2),
            ("p99 ms", "p99_us", 1e3, 2),
        )
    )
    for protection in ("plain", "tls")
)
_HTTP_ADDED: Final[tuple[_Column, ...]] = tuple(
    (f"{words}, {each} ms", f"{_ADDED}http_plain_{name}_{each}_us", 1e3, 2)
    for words, name in (("one kept", "kept_1"), ("16 kept", "kept_16"), ("8 fresh", "fresh_8"))
    for each in _CUTS
)
_SESSIONS: Final[tuple[_Column, ...]] = (
    *((f"{at_once} at once", f"sessions_{at_once}_per_s", 1, 0) for at_once in AT_ONCE),
    ("CPU us a session", "sessions_8_cpu_us", 1, 0),
)
_SETUP: Final[tuple[_Column, ...]] = (
    *(
        (f"{at_once} at once {each}", f"sessions_{at_once}_{each}_us", 1e3, 2)
        for at_once in AT_ONCE
        for each in ("p50", "p99")
    ),
    ("half load p50", "paced_p50_us", 1e3, 2),
    ("half load p99", "paced_p99_us", 1e3, 2),
)
_REPLY: Final[tuple[_Column, ...]] = (
    ("p50", "reply_p50_us", 1, 0),
    ("p99", "reply_p99_us", 1, 0),
)


def one_line(figures: Figures) -> str:
    """The figures that say most, for whoever watches."""
    wanted = {
        "streams_1_down_gb_s": "1 stream {:.2f} GB/s",
        "streams_8_down_gb_s": "8 streams {:.2f} GB/s",
        "tls_1_down_gb_s": "TLS {:.2f} GB/s",
        "ftp_plain_down_gb_s": "FTP {:.2f} GB/s",
        "ftp_tls_down_gb_s": "FTPS {:.2f} GB/s",
        "ftp_files_down_per_s": "{:.0f} files/s",
        "ftp_listing_p50_us": "listing {:.0f} us",
        "sessions_8_per_s": "{:.0f} sessions/s",
        "reply_p50_us": "reply {:.0f} us",
    }
    return ", ".join(text.format(figures[name]) for name, text in wanted.items() if name in figures)


def write(results: Results, folder: Path, name: str) -> list[Path]:
    """Write the run as NAME.md, NAME.json and plots below *folder*; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = plots.draw(results, folder, name)
    table, data = folder / f"{name}.md", folder / f"{name}.json"
    table.write_text("\n".join(_markdown(results, pictures)) + "\n")
    data.write_text(json.dumps(_json(results), indent=1) + "\n")
    return [table, data, *pictures]


def _json(results: Results) -> dict[str, Any]:
    return {
        "machine": results.machine,
        "seconds": round(results.seconds),
        "most_idle": results.most_idle,
        "targets": [vars(verdict) for verdict in verdicts(results)],
        "peers": {
            peer.name: {
                "title": peer.title,
                "version": results.versions.get(peer.name),
                "missing": results.missing.get(peer.name),
                "failures": results.failures.get(peer.name, []),
                "figures": {
                    figure: {
                        "median": results.median(peer.name, figure),
                        "values": results.values(peer.name, figure),
                    }
                    for figure in results.names(peer.name)
                },
            }
            for peer in results.peers
        },
    }


def _markdown(results: Results, pictures: list[Path]) -> Iterator[str]:
    rounds = max((len(each) for each in results.rounds.values()), default=0)
    yield "# What the benchmark measured"
    yield ""
    yield (
        f"Rounds: {rounds}. Figures are medians, and behind ± half the distance between the"
        " extremes. All peers took turns in each round; the run took"
        f" {results.seconds / 60:.0f} minutes."
        " How it is measured: [README](../README.md)."
    )
    yield ""
    yield "| machine | |"
    yield "| --- | --- |"
    yield from (f"| {name} | {value} |" for name, value in results.machine.items())
    yield from _targets(results)
    yield from _peers(results)
    sections: tuple[tuple[str, Kind, tuple[_Column, ...]], ...] = (
        ("Throughput in GB/s, by streams and way", "bytes", _THROUGHPUT),
        ("CPU seconds for a GB, all processes of a peer", "bytes", _CPU),
        ("CPU seconds for a GB, each process", "bytes", _CPU_EACH),
        ("Ending the TLS of one stream", "tls", _TLS),
        ("FTP: a file of 256 MiB, in one session", "ftp", _FTP_BULK),
        ("FTP: files of 4 KiB in one session, and the way to a first listing", "ftp", _FTP_SMALL),
        ("HTTP: a body of 256 MiB on one connection", "http", _HTTP_BULK),
        ("HTTP: small requests", "http", _HTTP_SMALL),
        ("HTTP: what a relay adds to small requests", "http", _HTTP_ADDED),
        ("HTTPS: a body of 256 MiB on one connection", "https", _HTTPS_BULK),
        ("HTTPS: small requests", "https", _HTTPS_SMALL),
        ("New sessions a second", "bytes", _SESSIONS),
        ("Set-up of a session in ms", "bytes", _SETUP),
        (
            "A request of 64 bytes and its answer through an open session, in us",
            "bytes",
            _REPLY,
        ),
        (
            "Idle sessions: resident memory of all processes, and of the larger one for a session",
            "bytes",
            _memory_columns(results),
        ),
        (
            "Idle sessions: what 8 new ones at once and one stream get beside them",
            "bytes",
            _beside_columns(results),
        ),
    )
    for title, kind, columns in sections:
        yield from _table(results, title, kind, columns)
    if pictures:
        yield ""
        yield "## Plots"
        yield ""
        yield from (f"![{path.stem}]({path.name})" for path in pictures)


def _targets(results: Results) -> Iterator[str]:
    yield ""
    yield "## Targets of relaygate"
    yield ""
    yield "| target | measured | |"
    yield "| --- | --- | --- |"
    words = {True: "met", False: "**missed**", None: "unknown"}
    for verdict in verdicts(results):
        yield f"| {verdict.target} | {verdict.measured} | {words[verdict.met]} |"


def _peers(results: Results) -> Iterator[str]:
    yield ""
    yield "## Peers"
    yield ""
    yield "| peer | version | set up |"
    yield "| --- | --- | --- |"
    for peer in results.peers:
        version = results.versions.get(peer.name) or f"**{results.missing[peer.name]}**"
        yield f"| {_title(peer)} | {version} | {peer.note} |"
    for peer in results.peers:
        for reason in results.failures.get(peer.name, []):
            yield ""
            yield f"{peer.title} failed: {reason}"


def _title(peer: Peer) -> str:
    return f"{peer.title} (encrypts)" if peer.encrypted else peer.title


def _memory_columns(results: Results) -> tuple[_Column, ...]:
    counts = tuple(dict.fromkeys((1_000, results.most_idle)))
    return (
        *((f"held of {count:,}", f"idle_{count}_held", 1, 0) for count in counts),
        *((f"MiB with {count:,}", f"idle_{count}_rss_bytes", 2**20, 1) for count in (0, *counts)),
        *(
            (f"KiB a session of {count:,}", f"idle_{count}_session_bytes", 1024, 2)
            for count in counts
        ),
    )


def _beside_columns(results: Results) -> tuple[_Column, ...]:
    counts = tuple(dict.fromkeys((0, 1_000, results.most_idle)))
    kinds: tuple[tuple[str, str, float, int], ...] = (
        ("sessions/s", "sessions_8_per_s", 1, 0),
        ("set-up p50 in ms", "setup_p50_us", 1e3, 2),
        ("GB/s", "streams_1_gb_s", 1, 2),
    )
    return tuple(
        (f"{title} beside {count:,}", f"idle_{count}_{figure}", scale, decimals)
        for title, figure, scale, decimals in kinds
        for count in counts
    )


def _table(results: Results, title: str, kind: Kind, columns: tuple[_Column, ...]) -> Iterator[str]:
    peers = [peer for peer in results.peers if peer.kind == kind]
    if not peers:
        return
    yield ""
    yield f"## {title}"
    yield ""
    yield f"| peer | {' | '.join(heading for heading, *_ in columns)} |"
    yield f"| --- |{' ---: |' * len(columns)}"
    for peer in peers:
        if peer.name in results.missing:
            yield f"| {_title(peer)} | not installed |{' |' * (len(columns) - 1)}"
            continue
        cells = (_cell(results, peer, column) for column in columns)
        yield f"| {_title(peer)} | {' | '.join(cells)} |"


def _cell(results: Results, peer: Peer, column: _Column) -> str:
    _, name, scale, decimals = column
    figure = name.removeprefix(_ADDED)
    added = figure != name
    value = results.median(peer.name, figure)
    if value is None or (peer.name.startswith("direct") and ("cpu" in figure or "bytes" in figure)):
        return "-"
    if added:
        base = results.median(f"direct-{peer.kind}", figure)
        return "-" if base is None else f"{(value - base) / scale:,.{decimals}f}"
    text = f"{value / scale:,.{decimals}f}"
    if len(values := results.values(peer.name, figure)) > 1:
        text += f" ± {(max(values) - min(values)) / 2 / scale:,.{decimals}f}"
    return text
