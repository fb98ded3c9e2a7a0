"""A participant of sagas whose barrier is the SQL of the how-to page, with PostgreSQL or MariaDB. What it does is counted in the
database alone. Usage: participant.py postgresql|mariadb DATABASE-PORT PAGE PORT"""

import os
import re
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KIND, DATABASE, PAGE, PORT = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
LIMIT_S = 30

if KIND == "postgresql":
    import psycopg2 as driver

    def connect():
        return driver.connect(host="127.0.0.1", port=DATABASE, user="test", dbname="postgres", connect_timeout=LIMIT_S)
else:
    import pymysql as driver

    def connect():
        where = {"host": "127.0.0.1", "port": DATABASE, "user": "test", "database": "test"}
        # Otherwise every connection reads all root certificates.
        return driver.connect(**where, read_timeout=LIMIT_S, ssl_disabled=True)


def statements():
    """Those of each block that the page has for this database: the table, do, undo."""
    title = {"postgresql": "PostgreSQL", "mariadb": "MariaDB"}[KIND]
    section = open(PAGE, encoding="utf-8").read().split(f"\n### {title}\n")[1].split("\n#")[0]
    for block in re.findall(r"```sql\n(.*?)```", section, re.DOTALL):
        plain = re.sub(r"--.*", "", block)
        yield [re.sub(r":(\w+)", r"%(\1)s", s.strip()) for s in plain.split(";") if s.strip()]


TABLE, DO, UNDO = statements()
assert (len(TABLE), len(DO), len(UNDO)) == (1, 2, 3), (TABLE, DO, UNDO)


def prepare():
    connection = connect()
    cursor = connection.cursor()
    cursor.execute(TABLE[0])
    cursor.execute("CREATE TABLE stock (item VARCHAR(40) PRIMARY KEY, reserved INTEGER NOT NULL)")
    cursor.executemany("INSERT INTO stock VALUES (%s, 0)", [("lamp",), ("table",)])
    connection.commit()
    connection.close()


class Transaction:
    def __init__(self, die_after):
        self.die_after = die_after
        self.connection = connect()
        self.cursor = self.connection.cursor()
        self.reach("begin")

    def reach(self, point):
        if point == self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def run(self, number, statement, words):
        """Whether it wrote a row."""
        self.cursor.execute(statement, words)
        self.reach(str(number))
        return self.cursor.rowcount == 1

    def commit(self):
        self.connection.commit()
        self.reach("commit")


def perform(key, item, die_after):
    branch, operation = key.rsplit("/", 1)
    words = {"branch": branch, "item": item}
    transaction = Transaction(die_after)
    try:
        if operation == "do":
            if transaction.run(1, DO[0], words):
                assert transaction.run(2, DO[1], words), item
        else:
            never, first = transaction.run(1, UNDO[0], words), transaction.run(2, UNDO[1], words)
            if first and not never:
                assert transaction.run(3, UNDO[2], words), item
        transaction.commit()
    finally:
        transaction.connection.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        item = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if item == "refused" and self.path == "/pay":
            return self.answer(409, "no money")
        if self.path in ("/pay", "/ship"):
            return self.answer(200, "")
        try:
            perform(self.headers["Idempotency-Key"], item.replace("refused", "lamp"), self.headers.get("X-Die-After"))
        except driver.Error as error:
            return self.answer(503, str(error))
        self.answer(200, "")

    def do_GET(self):
        connection = connect()
        cursor = connection.cursor()
        cursor.execute("SELECT reserved FROM stock WHERE item = 'lamp'")
        [(reserved,)] = cursor.fetchall()
        connection.close()
        self.answer(200, str(reserved))

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if os.environ.get("PREPARE"):
    prepare()
Server(("127.0.0.1", PORT), Handler).serve_forever()
