"""
A small site that one has to log in to, and that keeps its sessions in its own memory.

``python -m relaygate.test.login_site NAME ADDRESS PORT``: each page says NAME.  Who comes with a
cookie of another process is asked to log in again, as with most sites that are balanced.
"""

from __future__ import annotations

import email.policy
import hashlib
import secrets
import sys
from email.parser import BytesParser
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qs

PASSWORD: Final = "open sesame"
COOKIE: Final = "site_session"
_LOGIN: Final = """
<form method="post" action="/login">
  <input name="user"><input name="password" type="password"><button>Log in</button>
</form>"""
_UPLOAD: Final = """
<form method="post" action="/upload" enctype="multipart/form-data">
  <input name="file" type="file"><button>Send</button>
</form>"""
_sessions: dict[str, str] = {}


class Handler(BaseHTTPRequestHandler):
    """Answers."""

    protocol_version = "HTTP/1.1"
    name = "site"

    @property
    def user(self) -> str | None:
        """Who is logged in."""
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        return _sessions.get(cookie.value) if cookie else None

    def page(self, text: str, *fields: tuple[str, str], status: int = 200) -> None:
        """Answer with a page."""
        body = f"<!doctype html><title>{self.name}</title><p id=said>{text}</p>".encode()
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """Show what there is for who asks."""
        if self.path != "/":
            self.page("nothing here", status=404)
        elif self.user is None:
            self.page(f"{self.name} asks who you are{_LOGIN}")
        else:
            self.page(f"{self.name} knows {self.user}{_UPLOAD}")

    def do_POST(self) -> None:
        """Log in, or take a file."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/login":
            form = parse_qs(body.decode())
            if form.get("password") != [PASSWORD]:
                self.page(f"{self.name} does not believe you", status=403)
                return
            session = secrets.token_urlsafe()
            _sessions[session] = form["user"][0]
            cookie = f"{COOKIE}={session}; Path=/; Secure; HttpOnly"
            self.page("", ("Location", "/"), ("Set-Cookie", cookie), status=303)
        elif self.user is None:
            self.page(f"{self.name} asks who you are{_LOGIN}", status=403)
        else:
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            form_data = BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
            (part,) = form_data.iter_parts()
            data: bytes = part.get_content()
            digest = hashlib.sha256(data).hexdigest()
            name = part.get_filename()
            self.page(f"{self.name} got {name} of {self.user}: {len(data)} bytes, {digest}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


if __name__ == "__main__":
    Handler.name = sys.argv[1]
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer((sys.argv[2], int(sys.argv[3])), Handler).serve_forever()
