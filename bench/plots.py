"""The plots of a run, as SVG, where matplotlib is installed (the extra "bench")."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from bench.results import Results

# File, title, axis, and the bars of each peer: label, figure, what it is divided by.
_Bars = tuple[tuple[str, str, float], ...]

_PLOTS: Final[tuple[tuple[str, str, str, _Bars], ...]] = (
    (
        "throughput",
        "Throughput",
        "GB/s",
        (
            ("1 stream up", "streams_1_up_gb_s", 1),
            ("1 stream down", "streams_1_down_gb_s", 1),
            ("8 streams up", "streams_8_up_gb_s", 1),
            ("8 streams down", "streams_8_down_gb_s", 1),
        ),
    ),
    (
        "cpu",
        "CPU for a GB, all processes of a peer",
        "s",
        (
            ("1 stream down", "streams_1_down_cpu_s_per_gb", 1),
            ("8 streams down", "streams_8_down_cpu_s_per_gb", 1),
        ),
    ),
    (
        "sessions",
        "New sessions",
        "a second",
        tuple((f"{each} at once", f"sessions_{each}_per_s", 1) for each in (1, 8, 32)),
    ),
    (
        "setup",
        "Set-up of a session at half load",
        "ms (logarithmic)",
        (("p50", "paced_p50_us", 1e3), ("p99", "paced_p99_us", 1e3)),
    ),
)
_LOGARITHMIC: Final = ("setup", "memory")
_BAR: Final = 0.8


def draw(results: Results, folder: Path, name: str) -> list[Path]:
    """Draw all plots that the run has figures for; none where matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return []
    # The same figures make the same file.
    matplotlib.rcParams["svg.hashsalt"] = "relaygate"
    matplotlib.rcParams["svg.fonttype"] = "none"
    paths = []
    for short, title, unit, bars in (*_PLOTS, _memory(results.most_idle)):
        picture = Figure(figsize=(8, 4.5), layout="constrained")
        if not _bars(picture.add_subplot(), results, bars, logarithmic=short in _LOGARITHMIC):
            continue
        axes = picture.axes[0]
        axes.set_title(title)
        axes.set_xlabel(unit)
        path = folder / f"{name}-{short}.svg"
        picture.savefig(path, metadata={"Date": None, "Creator": None})
        paths.append(path)
    return paths


def _memory(most: int) -> tuple[str, str, str, _Bars]:
    bars = tuple((f"{each:,} idle", f"idle_{each}_rss_bytes", 2**20) for each in (0, 1_000, most))
    return "memory", "Resident memory, all processes of a peer", "MiB (logarithmic)", bars


def _bars(axes: Any, results: Results, bars: _Bars, *, logarithmic: bool) -> bool:
    """Draw the bars of all peers that have them; whether any has."""
    figure_of_first = bars[0][1]
    peers = [peer for peer in results.peers if results.median(peer.name, figure_of_first)]
    if not peers:
        return False
    height = _BAR / len(bars)
    for row, (label, figure, scale) in enumerate(bars):
        values = [(results.median(peer.name, figure) or 0) / scale for peer in peers]
        places = [place + row * height for place in range(len(peers))]
        axes.barh(places, values, height=height, label=label)
    middle = height * (len(bars) - 1) / 2
    axes.set_yticks([place + middle for place in range(len(peers))])
    axes.set_yticklabels([peer.title for peer in peers])
    axes.invert_yaxis()
    if logarithmic:
        axes.set_xscale("log")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small")
    return True
