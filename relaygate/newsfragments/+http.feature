Services of the protocols `http` and `https`: web file transfer, REST, WebDAV and AS2, opened on the
internal node or passed through by the name that TLS asks for. See docs/http.md.
