"""The catalog: what the shop sells. Python's standard library only.

GET /items, /items/ID     the goods
GET /healthz              200 when the database answers, else 503
GET /busy?ms=N            burns a CPU for N ms, for drills
"""

import argparse
import json
import signal
import socket
import sqlite3
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BUSY_MS_MAX = 60_000


class Catalog(ThreadingHTTPServer):
    daemon_threads = False  # an answer that has begun is finished before the program ends
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], path: str) -> None:
        super().__init__(address, Handler)
        self.path = path
        self.idle: set[socket.socket] = set()
        self.lock = threading.Lock()
        self.stopping = False

    def stop(self) -> None:
        """Takes no more connections, and ends those that wait for a next request."""
        with self.lock:
            self.stopping = True
            for connection in self.idle:
                try:
                    connection.shutdown(socket.SHUT_RD)
                except OSError:
                    pass  # closed by the other side meanwhile
        self.shutdown()

    def rows(self, query: str, values: tuple = ()) -> list[dict]:
        db = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=2)
        try:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(query, values)]
        finally:
            db.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one packet
    server: Catalog

    def handle_one_request(self) -> None:
        with self.server.lock:
            if self.server.stopping:
                self.close_connection = True
                return
            self.server.idle.add(self.connection)
        try:
            super().handle_one_request()
        finally:
            with self.server.lock:
                self.server.idle.discard(self.connection)

    def parse_request(self) -> bool:
        with self.server.lock:
            self.server.idle.discard(self.connection)
        return super().parse_request()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        try:
            status, answer = self.route(url.path, parse_qs(url.query))
        except sqlite3.Error as error:
            status, answer = 503, {"error": f"the database does not answer: {error}"}
        body = json.dumps(answer).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if self.server.stopping:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def route(self, path: str, query: dict[str, list[str]]) -> tuple[int, dict]:
        if path == "/items":
            return 200, {"items": self.server.rows("SELECT id, name, price_cents FROM item ORDER BY price_cents")}
        if path.startswith("/items/"):
            found = self.server.rows("SELECT id, name, price_cents FROM item WHERE id = ?", (path[len("/items/"):],))
            return (200, found[0]) if found else (404, {"error": "no such item"})
        if path == "/healthz":
            self.server.rows("SELECT 1 FROM item LIMIT 1")
            return 200, {"ready": True}
        if path == "/busy":
            return 200, {"burned_ms": burn(query)}
        return 404, {"error": "no such page"}

    def log_message(self, text: str, *values: object) -> None:
        """Holdfast's access log has each request; here only what went wrong."""

    def log_error(self, text: str, *values: object) -> None:
        print(text % values, file=sys.stderr, flush=True)


def burn(query: dict[str, list[str]]) -> int:
    wanted = min(int(query.get("ms", ["1000"])[0]), BUSY_MS_MAX)
    until = time.monotonic() + wanted / 1000
    while time.monotonic() < until:
        sum(range(1000))
    return wanted


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--db", required=True)
    chosen = arguments.parse_args()
    server = Catalog(("127.0.0.1", chosen.port), chosen.db)
    # `shutdown` waits for the loop below, so that it must not run on the loop's own thread.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.stop).start())
    print(f"catalog on port {chosen.port}", flush=True)
    server.serve_forever(poll_interval=0.05)
    server.server_close()
    print("catalog stopped", flush=True)


if __name__ == "__main__":
    main()
