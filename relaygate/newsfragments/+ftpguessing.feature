The fourth password in a row that an FTP client has refused waits before it is tried, and each one behind it longer, up to five seconds, until one is right.
