"""Brings the shop's database to the newest layout. Running it again changes nothing."""

import os
import sqlite3
import sys

ITEMS = [("lamp", "Lamp", 4900), ("chair", "Chair", 12900), ("kettle", "Kettle", 3500), ("book", "Book", 1850), ("bicycle", "Bicycle", 89000)]

STEPS = [
    "CREATE TABLE item (id TEXT PRIMARY KEY, name TEXT NOT NULL, price_cents INTEGER NOT NULL CHECK (price_cents > 0))",
    "CREATE INDEX item_by_price ON item (price_cents)",
]


def main(path: str) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    # A journal mode that lets readers go on while another step is applied.
    with sqlite3.connect(path, timeout=10) as db:
        db.execute("PRAGMA journal_mode = WAL")
        (done,) = db.execute("PRAGMA user_version").fetchone()
        for number, step in enumerate(STEPS[done:], start=done + 1):
            db.execute(step)
            db.execute(f"PRAGMA user_version = {number}")
        db.executemany("INSERT OR IGNORE INTO item VALUES (?, ?, ?)", ITEMS)
        (items,) = db.execute("SELECT count(*) FROM item").fetchone()
    print(f"{path}: layout {len(STEPS)}, {items} items, {len(STEPS) - done} steps applied")


if __name__ == "__main__":
    main(sys.argv[1])
