An FTP client has 300 seconds to log in, whatever it says meanwhile.
