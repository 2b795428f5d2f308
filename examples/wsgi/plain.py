"""The same site on the standard library's http.server, with connections that are kept alive.

    python3 plain.py [PORT]

    curl -N -b session=let-me-in 'http://127.0.0.1:8000/chat?prompt=hello'
"""

import json
import sys
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from handover import hand_over

# In place of your own: who is logged in.
SESSIONS = {"let-me-in": "ada"}
BODY_BYTES_MAX = 1 << 20


class Site(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            # http.server does not read chunks: they would stay in the socket.
            self.close_connection = True
            return self.answer(411, "a body needs its length")
        length = int(length)
        if length > BODY_BYTES_MAX:
            self.close_connection = True
            return self.answer(413, "too long a question")
        # The whole body is read, also for the next request on this connection.
        fields = parse_qs(self.rfile.read(length).decode("utf-8", "replace") or url.query)
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("session")
        user = SESSIONS.get(cookie.value) if cookie else None
        if url.path != "/chat":
            return self.answer(404, "there is only /chat")
        if user is None:
            return self.answer(401, "log in first")
        if not fields.get("prompt"):
            return self.answer(400, "prompt is missing")
        try:
            hand_over(self.connection, {"prompt": fields["prompt"][0], "user_id": user}, self.request_seen())
        except OSError as error:
            self.log_error("handoffd does not take handoffs: %s", error)
            return self.answer(503, "please try again", {"Retry-After": "1"})
        # No further request comes from here.
        self.close_connection = True

    do_HEAD = do_POST = do_GET

    def request_seen(self):
        """What handoffd shall know of the request: with the method, HEAD gets no body."""
        last = self.headers.get("Last-Event-ID")
        return {
            "method": self.command,
            "uri": self.path,
            "proto": self.request_version,
            "client": self.client_address[0],
            "headers": [("last-event-id", last)] if last else [],
        }

    def answer(self, status, text, headers={}):
        body = json.dumps({"error": {"message": text}}).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with ThreadingHTTPServer(("127.0.0.1", port), Site) as server:
        print(f"http://127.0.0.1:{server.server_port}/chat?prompt=hello", flush=True)
        server.serve_forever()
