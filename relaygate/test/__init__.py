"""Tests of relaygate, run with trial."""

from hypothesis import HealthCheck, settings

# A machine that is busy is slow for a moment; what takes long for good has its own test.
settings.register_profile("relaygate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("relaygate")
