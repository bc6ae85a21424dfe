FTP clients may name a file before its data port, where the server waits for that.
