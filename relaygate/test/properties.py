"""
Hypothesis, as tests of properties have it: imported from here alone.

To import it takes a quarter of a second, which programs of this package have no use for that tests
start by the hundred; so the package itself does not.
"""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

__all__: Final = ["example", "given", "settings", "st"]

# A machine that is busy is slow for a moment; what takes long for good has its own test.
settings.register_profile("relaygate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("relaygate")
