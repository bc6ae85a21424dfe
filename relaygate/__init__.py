"""relaygate: a DMZ gateway for file transfer."""

from __future__ import annotations

__version__ = "26.11.0"
