"""The `relaygate` command."""
