`relaygate completion` prints scripts for bash, zsh and fish.
