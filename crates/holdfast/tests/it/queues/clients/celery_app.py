"""Celery with its SQS transport: an app, and a driver that starts real workers of it. Usage: celery_app.py URL FOLDER"""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from celery import Celery, group

if __name__ == "__main__":
    os.environ.update(PLANE=sys.argv[1], FOLDER=sys.argv[2])
URL, FOLDER = os.environ["PLANE"], Path(os.environ["FOLDER"])
VISIBILITY_S = 4
LIMIT_S = 60
"""Longer than a message stays hidden, so that others get it while the first worker keeps it for its time."""
LATER_S = VISIBILITY_S + 3
SLOW_S = 1

app = Celery("app", broker=URL.replace("http://", "sqs://any:any@"), backend=f"file://{FOLDER}")
options = {"region": "eu-west-1", "visibility_timeout": VISIBILITY_S, "wait_time_seconds": 1, "polling_interval": 0.1}
if os.environ.get("PREDEFINED"):
    predefined = {"url": f"{URL}/000000000000/predefined", "access_key_id": "any", "secret_access_key": "any"}
    options["predefined_queues"] = {"predefined": predefined}
app.conf.update(broker_transport_options=options, task_default_queue="work", worker_prefetch_multiplier=4)
app.conf.update(broker_connection_retry_on_startup=True, worker_enable_remote_control=False)


def note(*words):
    with open(FOLDER / "notes", "a", encoding="utf-8") as file:
        file.write(json.dumps(words) + "\n")


def notes(kind):
    lines = (FOLDER / "notes").read_text().splitlines() if (FOLDER / "notes").exists() else []
    return [words[1:] for words in map(json.loads, lines) if words[0] == kind]


@app.task(name="double")
def double(n):
    note("double", n)
    return 2 * n


@app.task(name="flaky", bind=True, max_retries=5)
def flaky(self):
    if self.request.retries < 2:
        raise self.retry(countdown=1)
    return self.request.retries


@app.task(name="later")
def later():
    note("later", time.time())


@app.task(name="ordered")
def ordered(n):
    note("ordered", n)


@app.task(name="held", acks_late=True)
def held():
    """Whoever has it first is killed."""
    note("held", os.getpid())
    if len(notes("held")) == 1:
        time.sleep(LIMIT_S)
    return "done"


@app.task(name="slow")
def slow(n):
    note("slow", n)
    time.sleep(SLOW_S)
    note("slept", n)


class Worker:
    def __init__(self, queues, concurrency, **environment):
        # It goes when this driver dies.
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "celery", "-A", "celery_app", "worker"]
        command += ["-Q", queues, "-c", str(concurrency)]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO"]
        here = Path(__file__).parent
        self.log = open(FOLDER / "worker.log", "a")
        self.process = subprocess.Popen(
            command, cwd=here, env=os.environ | environment, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def interrupt(self):
        """As Ctrl-C does: what runs is finished. Celery's exit code for it is 1."""
        self.process.send_signal(signal.SIGINT)
        same(self.process.wait(LIMIT_S), 1)

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def wait_until(what, condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} never comes\n{(FOLDER / 'worker.log').read_text()}"
        time.sleep(0.05)


def is_empty(*queues):
    """Nothing is kept, not even hidden."""
    client = app.connection().default_channel.sqs()
    for queue in queues:
        url = client.get_queue_url(QueueName=queue)["QueueUrl"]
        counts = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        if any(counts[name] != "0" for name in counts if name.startswith("ApproximateNumberOfMessages")):
            return False
    return True


def same(found, wanted):
    assert found == wanted, f"found {found!r}, wanted {wanted!r}\n{(FOLDER / 'worker.log').read_text()}"


def results_retries_and_order():
    """Both queues are made by Celery."""
    due = time.time() + LATER_S
    with Worker("work", 2), Worker("orders.fifo", 1) as orders:
        later.apply_async(countdown=LATER_S)
        for n in range(10):
            ordered.apply_async([n], queue="orders.fifo")
        same(group(double.s(n) for n in range(40))().get(timeout=LIMIT_S), [2 * n for n in range(40)])
        same(sorted(n for [n] in notes("double") if n < 100), list(range(40)))
        same(flaky.delay().get(timeout=LIMIT_S), 2)
        wait_until("what was for later", lambda: notes("later"))
        # It was received more than once, and every receipt must be good for nothing in the end.
        wait_until("the end", lambda: is_empty("work", "orders.fifo"))
        same(notes("ordered"), [[n] for n in range(10)])
        assert all(at >= due - 0.5 for [at] in notes("later")), (notes("later"), due)
        orders.interrupt()


def a_worker_that_is_killed():
    with Worker("killed", 1) as worker:
        result = held.apply_async(queue="killed")
        wait_until("the task", lambda: notes("held"))
        worker.kill()
    with Worker("killed", 1):
        same(result.get(timeout=LIMIT_S), "done")
        same(len(notes("held")), 2)
        wait_until("the end", lambda: is_empty("killed"))


def a_worker_that_is_interrupted():
    """What it had taken and not begun is for the next one."""
    with Worker("interrupted", 1) as worker:
        for n in range(6):
            slow.apply_async([n], queue="interrupted")
        wait_until("the first", lambda: notes("slow"))
        worker.interrupt()
    same(notes("slow"), notes("slept"))
    assert len(notes("slow")) < 6, notes("slow")
    with Worker("interrupted", 2):
        wait_until("the others", lambda: len(notes("slept")) >= 6 and is_empty("interrupted"))
    same(sorted(notes("slept")), [[n] for n in range(6)])


def a_queue_of_the_file():
    """With predefined queues Celery neither lists nor makes any."""
    with Worker("predefined", 2, PREDEFINED="yes"):
        results = [double.apply_async([n], queue="predefined") for n in range(100, 110)]
        same([result.get(timeout=LIMIT_S) for result in results], [2 * n for n in range(100, 110)])
        wait_until("the end", lambda: is_empty("predefined"))


def timed(part):
    begun = time.monotonic()
    part()
    print(part.__name__, "ok", f"{time.monotonic() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    # Each has queues of its own; all at once, because most of the time they wait.
    parts = [results_retries_and_order, a_worker_that_is_killed, a_worker_that_is_interrupted, a_queue_of_the_file]
    with ThreadPoolExecutor(len(parts)) as threads:
        list(threads.map(timed, parts))
    print("all of Celery")
