`relaygate end SESSION` ends one session of a running node; `relaygate sessions` shows who has logged in, where FTP knows.
