"""Two services that an order passes: the warehouse, and the payments of somebody else. Python's standard library only.

    books.py warehouse --port N --db FILE              POST /reserve, its undo /release, and /ship
    books.py payments  --port N --db FILE --seed S     POST /charge, its undo /refund; unreliable on purpose
    GET /totals                                        what all of it comes to, for whoever counts
    GET /healthz

A body is an order: {"key": "…", "item": "lamp", "count": 1, "cents": 4900}. The same `Idempotency-Key` never acts twice, an undo
of something that never happened does nothing, and what comes after its own undo does nothing: the table `saga_barrier` of
docs/how-to/workflows.md, in the same transaction as the work.
"""

import argparse
import json
import random
import signal
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STOCK = 1_000_000
SLOW_SECONDS = 2.0
REFUSED_EVERY = 20
BODY_BYTES_MAX = 64 * 1024

LAYOUT = f"""
CREATE TABLE IF NOT EXISTS saga_barrier (
    branch TEXT NOT NULL, operation TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (branch, operation));
CREATE TABLE IF NOT EXISTS book (name TEXT PRIMARY KEY, total INTEGER NOT NULL CHECK (total >= 0));
INSERT OR IGNORE INTO book VALUES ('left', {STOCK}), ('reserved', 0), ('shipped', 0);
INSERT OR IGNORE INTO book VALUES ('charged', 0), ('charged_cents', 0), ('refunded', 0), ('refunded_cents', 0);
"""

# What each path adds to the books: by the count of the order, by its cents, or by one.
MOVES = {
    "warehouse": {
        "/reserve": {"left": ("count", -1), "reserved": ("count", 1)},
        "/release": {"reserved": ("count", -1), "left": ("count", 1)},
        "/ship": {"reserved": ("count", -1), "shipped": ("count", 1)},
    },
    "payments": {
        "/charge": {"charged": ("one", 1), "charged_cents": ("cents", 1)},
        "/refund": {"refunded": ("one", 1), "refunded_cents": ("cents", 1)},
    },
}


class Books(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, port: int, role: str, path: str, seed: int | None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.role, self.path = role, path
        self.luck = None if seed is None else random.Random(seed)
        self.lock = threading.Lock()
        with self.open() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(LAYOUT)

    def open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=10, isolation_level=None)

    def mishap(self) -> str:
        """What goes wrong with the next request."""
        if self.luck is None:
            return "none"
        kinds = ["none", "error", "lost", "slow", "double"]
        with self.lock:
            return self.luck.choices(kinds, weights=[75, 8, 8, 2, 7])[0]

    def act(self, path: str, key: str, order: dict) -> bool:
        """True if it did something now."""
        branch, operation = key.rsplit("/", 1)
        db = self.open()
        try:
            db.execute("BEGIN IMMEDIATE")
            fresh = db.execute("INSERT OR IGNORE INTO saga_barrier VALUES (?, 'do', ?)", (branch, operation)).rowcount == 1
            if operation == "undo":
                # Where the barrier was not there yet, there is nothing to undo, and from now on never will be.
                undone = db.execute("INSERT OR IGNORE INTO saga_barrier VALUES (?, 'undo', 'undo')", (branch,)).rowcount == 0
                fresh = not fresh and not undone
            if fresh:
                for name, (by, sign) in MOVES[self.role][path].items():
                    amount = sign * (1 if by == "one" else int(order[by]))
                    db.execute("UPDATE book SET total = total + ? WHERE name = ?", (amount, name))
            db.execute("COMMIT")
            return fresh
        finally:
            db.close()

    def totals(self) -> dict:
        with self.open() as db:
            return dict(db.execute("SELECT name, total FROM book"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Books

    def do_GET(self) -> None:
        pages = {"/healthz": lambda: {"ready": True}, "/totals": self.server.totals}
        page = pages.get(self.path)
        self.answer(*((200, page()) if page else (404, {"error": "no such page"})))

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(min(int(self.headers.get("content-length", 0)), BODY_BYTES_MAX)))
        key = self.headers.get("idempotency-key", "")
        if self.path not in MOVES[self.server.role] or "/" not in key:
            return self.answer(404, {"error": "no such page, or no key"})
        mishap = self.server.mishap()
        if mishap == "error":
            return self.answer(503, {"error": "not now"})
        # Some cards are refused, and they are however often one asks: so by the order, not by luck.
        if self.path == "/charge" and sum(order["key"].encode()) % REFUSED_EVERY == 0:
            return self.answer(409, {"error": "the card was refused"})
        did = self.server.act(self.path, key, order)
        if mishap == "double":
            self.server.act(self.path, key, order)
        if mishap == "slow":
            time.sleep(SLOW_SECONDS)
        if mishap == "lost":
            self.close_connection = True
            return None
        return self.answer(200, {"did": did})

    def answer(self, status: int, value: dict) -> None:
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, text: str, *values: object) -> None:
        """Its ledger tells more than a line for each request."""


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("role", choices=MOVES)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--db", required=True)
    arguments.add_argument("--seed", type=int)
    chosen = arguments.parse_args()
    server = Books(chosen.port, chosen.role, chosen.db, chosen.seed)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"{chosen.role} on port {chosen.port}", flush=True)
    server.serve_forever(poll_interval=0.05)
    server.server_close()


if __name__ == "__main__":
    main()
