`relaygate sessions` takes `--client NETWORK` and `--user NAME`, and with `--sort seconds`, `in` or `out` shows the longest sessions, or those with most bytes, first.
