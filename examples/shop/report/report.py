"""The steps of the workflow `nightly`. What a step prints last, as JSON, is its output for the next.

report.py items DB                what the shop sells
report.py count ITEM ORDERS       how often it was ordered, and for how much
report.py write FILE COUNTS       all of it into a file, which is there as a whole or not at all
"""

import json
import os
import sqlite3
import sys


def items(path: str) -> list[str]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as db:
        return [row[0] for row in db.execute("SELECT id FROM item ORDER BY id")]


def count(item: str, path: str) -> dict:
    orders = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                order = json.loads(line)
                if order["item"] == item:
                    orders.setdefault(order["key"], order["cents"])
    return {"item": item, "orders": len(orders), "cents": sum(orders.values())}


def write(path: str, counts: str) -> dict:
    rows = json.loads(counts)
    report = {"orders": sum(r["orders"] for r in rows), "cents": sum(r["cents"] for r in rows), "items": rows}
    with open(f"{path}.new", "w", encoding="utf-8") as out:
        json.dump(report, out, indent=2)
        out.flush()
        os.fsync(out.fileno())
    os.replace(f"{path}.new", path)
    return {"file": path, "orders": report["orders"]}


if __name__ == "__main__":
    step, *rest = sys.argv[1:]
    print(json.dumps({"items": items, "count": count, "write": write}[step](*rest)))
