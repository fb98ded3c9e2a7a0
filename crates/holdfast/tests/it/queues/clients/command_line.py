"""Calls every action that this AWS CLI has for SQS, in one process: the start of `aws` costs a second. Usage: command_line.py URL"""

import contextlib
import io
import json
import os
import sys

URL, REGION, ACCOUNT = sys.argv[1], "eu-west-1", "000000000000"
os.environ.update(AWS_ACCESS_KEY_ID="any", AWS_SECRET_ACCESS_KEY="any", AWS_DEFAULT_REGION=REGION, AWS_PAGER="")
os.environ.update(AWS_MAX_ATTEMPTS="1", AWS_CONFIG_FILE="/dev/null", AWS_SHARED_CREDENTIALS_FILE="/dev/null")

import awscli
from awscli.clidriver import create_clidriver

driver = create_clidriver()
model = driver.session.get_service_model("sqs")
called = set()


def same(found, wanted):
    assert found == wanted, f"found {found!r}, wanted {wanted!r}"


def run(command, *words):
    """Exit code, answer and what is said on standard error."""
    called.add(command)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = driver.main(["sqs", command, "--endpoint-url", URL, "--output", "json", *words])
    return code, out.getvalue(), err.getvalue()


def aws(command, *words):
    code, out, err = run(command, *words)
    assert code == 0, f"aws sqs {command} {words}: {code}: {err}"
    return json.loads(out) if out.strip() else None


def fails(says, command, *words):
    code, out, err = run(command, *words)
    assert code != 0 and says in err, f"aws sqs {command} {words}: {code}: {out}{err}"


def arn(name):
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"


def create(name, *words):
    return aws("create-queue", "--queue-name", name, *words)["QueueUrl"]


def receive(url, *words):
    answer = aws("receive-message", "--queue-url", url, "--max-number-of-messages", "10", *words)
    return (answer or {}).get("Messages", [])


def queues():
    url = create("plain", "--attributes", "VisibilityTimeout=40", "--tags", "team=a,kind=b")
    same(url, f"{URL}/{ACCOUNT}/plain")
    same(aws("get-queue-url", "--queue-name", "plain")["QueueUrl"], url)
    aws("set-queue-attributes", "--queue-url", url, "--attributes", '{"VisibilityTimeout": "7"}')
    found = aws("get-queue-attributes", "--queue-url", url, "--attribute-names", "All")["Attributes"]
    same((found["VisibilityTimeout"], found["QueueArn"]), ("7", arn("plain")))
    for n in range(3):
        create(f"page-{n}")
    # The command asks for page after page by itself.
    pages = aws("list-queues", "--queue-name-prefix", "page-", "--page-size", "2")
    same(pages["QueueUrls"], [f"{URL}/{ACCOUNT}/page-{n}" for n in range(3)])
    aws("tag-queue", "--queue-url", url, "--tags", "team=b c")
    aws("untag-queue", "--queue-url", url, "--tag-keys", "kind")
    same(aws("list-queue-tags", "--queue-url", url)["Tags"], {"team": "b c"})
    label = ["--queue-url", url, "--label", "one"]
    aws("add-permission", *label, "--aws-account-ids", "111111111111", "--actions", "SendMessage")
    aws("remove-permission", *label)
    aws("purge-queue", "--queue-url", url)
    fails("PurgeQueueInProgress", "purge-queue", "--queue-url", url)
    aws("delete-queue", "--queue-url", f"{URL}/{ACCOUNT}/page-0")
    fails("NonExistentQueue", "get-queue-url", "--queue-name", "page-0")
    fails("InvalidAttributeValue", "create-queue", "--queue-name", "x", "--attributes", "VisibilityTimeout=43201")


def messages():
    url = create("messages")
    attributes = '{"kind": {"DataType": "String", "StringValue": "a & b"}}'
    sent = aws("send-message", "--queue-url", url, "--message-body", "ä <b>", "--message-attributes", attributes)
    same(len(sent["MD5OfMessageAttributes"]), 32)
    [message] = receive(url, "--attribute-names", "All", "--message-attribute-names", "All")
    same((message["Body"], message["MessageId"]), ("ä <b>", sent["MessageId"]))
    same(message["MessageAttributes"]["kind"]["StringValue"], "a & b")
    handle = ["--queue-url", url, "--receipt-handle", message["ReceiptHandle"]]
    aws("change-message-visibility", *handle, "--visibility-timeout", "0")
    [message] = receive(url)
    aws("delete-message", "--queue-url", url, "--receipt-handle", message["ReceiptHandle"])
    same(receive(url, "--wait-time-seconds", "1"), [])
    fails("ReceiptHandleIsInvalid", "delete-message", "--queue-url", url, "--receipt-handle", "nonsense")

    sent = aws("send-message-batch", "--queue-url", url, "--entries", "Id=a,MessageBody=one", "Id=b,MessageBody=two")
    same([e["Id"] for e in sent["Successful"]], ["a", "b"])
    got = receive(url)
    same([m["Body"] for m in got], ["one", "two"])
    hidden = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 60} for n, m in enumerate(got)]
    hidden = aws("change-message-visibility-batch", "--queue-url", url, "--entries", json.dumps(hidden))
    same(len(hidden["Successful"]), 2)
    deleted = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(got)]
    same(len(aws("delete-message-batch", "--queue-url", url, "--entries", json.dumps(deleted))["Successful"]), 2)

    url = create("orders.fifo", "--attributes", "FifoQueue=true,ContentBasedDeduplication=true")
    group = ["--queue-url", url, "--message-group-id", "g", "--message-body"]
    first = aws("send-message", *group, "a")
    same(aws("send-message", *group, "a")["MessageId"], first["MessageId"])
    aws("send-message", *group, "b", "--message-deduplication-id", "d")
    same([m["Body"] for m in receive(url)], ["a", "b"])


def dead_letters():
    dead = create("dead")
    policy = json.dumps({"deadLetterTargetArn": arn("dead"), "maxReceiveCount": 1})
    source = create("source", "--attributes", json.dumps({"RedrivePolicy": policy}))
    same(aws("list-dead-letter-source-queues", "--queue-url", dead)["queueUrls"], [source])
    if "StartMessageMoveTask" not in model.operation_names:
        return
    aws("send-message", "--queue-url", source, "--message-body", "poison")
    same(len(receive(source, "--visibility-timeout", "0")), 1)
    same(receive(source), [])
    handle = aws("start-message-move-task", "--source-arn", arn("dead"), "--max-number-of-messages-per-second", "1")
    aws("list-message-move-tasks", "--source-arn", arn("dead"))
    # It may have moved the only one already.
    code, _, err = run("cancel-message-move-task", "--task-handle", handle["TaskHandle"])
    assert code == 0 or "ResourceNotFound" in err, err


for part in [queues, messages, dead_letters]:
    part()
    print(part.__name__, "ok")
same(len(called), len(model.operation_names))
print(f"all {len(called)} actions of aws-cli {awscli.__version__}")
