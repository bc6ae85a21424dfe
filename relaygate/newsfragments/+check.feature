``relaygate check`` validates configuration files and names every mistake with its file and key.
