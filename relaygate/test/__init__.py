"""Tests of relaygate, run with trial."""
