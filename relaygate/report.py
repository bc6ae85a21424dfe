"""What a DMZ node says of itself, asked for over an uplink."""

from __future__ import annotations

from typing import Any

from relaygate import commands
from relaygate.uplink import Uplink

# Seconds for each page: an operator waits for it.
REPORT_LIMIT_S = 5.0


async def fetch_report(uplink: Uplink) -> dict[str, Any]:
    """
    All pages of the DMZ node's report, as operators see it.

    Raises :class:`relaygate.uplink.UplinkFailed`, also where the DMZ node is too old to know it.
    """
    listeners: list[dict[str, Any]] = []
    page, pages = 0, 1
    while page < pages:
        answer = await uplink.ask(commands.Report, page=page, deadline_s=REPORT_LIMIT_S)
        listeners += answer["listeners"]
        page, pages = page + 1, answer["pages"]
    return {
        "software": answer["software"],
        "draining": answer["draining"],
        "figures": {each["name"]: each["value"] for each in answer["figures"]},
        "listeners": listeners,
    }
