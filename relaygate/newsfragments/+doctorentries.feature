`relaygate doctor` asks SOCKS and HTTP entries for the single hosts that they may lead to, as each of their users.
