"""A site in WSGI that answers by handoffd.

    python3 app.py [PORT]                           # wsgiref, of the standard library
    gunicorn --bind 127.0.0.1:8000 app:application  # gunicorn: worker classes sync and gthread

    curl -N -b session=let-me-in 'http://127.0.0.1:8000/chat?prompt=hello'
"""

import errno
import json
import sys
from http.cookies import SimpleCookie
from socketserver import ThreadingMixIn
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from handover import hand_over

# In place of your framework's: who is logged in.
SESSIONS = {"let-me-in": "ada"}
BODY_BYTES_MAX = 1 << 20


def application(environ, start_response):
    def answer(status, text, *headers):
        body = json.dumps({"error": {"message": text}}).encode()
        length = ("Content-Length", str(len(body)))
        start_response(status, [("Content-Type", "application/json"), length, *headers])
        return [body]

    cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get("session")
    user = SESSIONS.get(cookie.value) if cookie else None
    if environ["PATH_INFO"] != "/chat":
        return answer("404 Not Found", "there is only /chat")
    if user is None:
        return answer("401 Unauthorized", "log in first")
    length = environ.get("CONTENT_LENGTH") or "0"
    if "HTTP_TRANSFER_ENCODING" in environ or not length.isdecimal():
        return answer("411 Length Required", "a body needs its length")
    length = int(length)
    if length > BODY_BYTES_MAX:
        return answer("413 Content Too Large", "too long a question")
    # The whole body is read before the connection is given away.
    fields = parse_qs(environ["wsgi.input"].read(length).decode("utf-8", "replace") or environ["QUERY_STRING"])
    prompt = fields.get("prompt", [""])[0]
    if not prompt:
        return answer("400 Bad Request", "prompt is missing")

    # WSGI itself does not know the connection. gunicorn names it, wsgiref does by the handler below.
    client = environ.get("gunicorn.socket") or environ["handoffd.socket"]
    try:
        hand_over(client, {"prompt": prompt, "user_id": user}, request_of(environ))
    except OSError as error:
        print(f"handoffd does not take handoffs: {error}", file=environ["wsgi.errors"])
        return answer("503 Service Unavailable", "please try again", ("Retry-After", "1"))
    # Servers take this for a client that has gone away, and do and log nothing further.
    raise ConnectionResetError(errno.ECONNRESET, "handed over")


def request_of(environ):
    """What handoffd shall know of the request: with the method, HEAD gets no body."""
    uri = environ["PATH_INFO"] + ("?" if environ["QUERY_STRING"] else "") + environ["QUERY_STRING"]
    headers = [("last-event-id", environ["HTTP_LAST_EVENT_ID"])] if "HTTP_LAST_EVENT_ID" in environ else []
    return {
        "method": environ["REQUEST_METHOD"],
        "uri": uri,
        "proto": environ["SERVER_PROTOCOL"],
        "client": environ.get("REMOTE_ADDR", ""),
        "headers": headers,
    }


class Handler(WSGIRequestHandler):
    def get_environ(self):
        return {**super().get_environ(), "handoffd.socket": self.connection}


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with make_server("127.0.0.1", port, application, Server, Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/chat?prompt=hello", flush=True)
        server.serve_forever()
