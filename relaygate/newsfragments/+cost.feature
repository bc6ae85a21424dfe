A connection outwards takes a quarter less CPU time, and an FTP file a tenth less.
