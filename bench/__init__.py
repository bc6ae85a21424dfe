"""The benchmark: relaygate beside other relays, in one run on one machine."""
