"""Calls every action of SQS, and the errors that clients act on, through boto3. Usage: check.py URL json|query"""

import base64
import hashlib
import json
import struct
import sys
import time
import urllib.error
import urllib.request

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

URL, PROTOCOL = sys.argv[1:3]
REGION, ACCOUNT = "eu-west-1", "000000000000"
EVERYTHING = ("AKIDEVERYTHING", "everything-secret")
SENDER = ("AKIDSENDER", "sender-secret")
MANAGER = ("AKIDMANAGER", "manager-secret")
MIB = 1_048_576
called = set()


def client(key, secret):
    made = boto3.client(
        "sqs",
        endpoint_url=URL,
        region_name=REGION,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"max_attempts": 0}, read_timeout=30),
    )
    made.meta.events.register("before-call.sqs", lambda model, **_: called.add(model.name))
    return made


sqs = client(*EVERYTHING)


def same(found, wanted):
    assert found == wanted, f"found {found!r}, wanted {wanted!r}"


def fails(code, call, status=None, says="", **arguments):
    try:
        answer = call(**arguments)
    except ClientError as error:
        same(error.response["Error"]["Code"], code)
        assert says in error.response["Error"]["Message"], error
        assert error.response["ResponseMetadata"]["RequestId"], error.response
        if status is not None:
            same(error.response["ResponseMetadata"]["HTTPStatusCode"], status)
        return error
    raise AssertionError(f"{code} was expected, and there was the answer {answer}")


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


def attributes_md5(attributes):
    digest = hashlib.md5()

    def put(data):
        digest.update(struct.pack(">I", len(data)) + data)

    for name in sorted(attributes):
        value = attributes[name]
        put(name.encode())
        put(value["DataType"].encode())
        if value["DataType"].startswith("Binary"):
            digest.update(b"\x02")
            put(value["BinaryValue"])
        else:
            digest.update(b"\x01")
            put(value["StringValue"].encode())
    return digest.hexdigest()


def create(name, **attributes):
    return sqs.create_queue(QueueName=name, Attributes={k: str(v) for k, v in attributes.items()})["QueueUrl"]


def arn(name):
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"


def receive(queue, **arguments):
    return sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, **arguments).get("Messages", [])


def queues():
    url = create("plain", VisibilityTimeout=40)
    same(url, f"{URL}/{ACCOUNT}/plain")
    same(create("plain", VisibilityTimeout=40), url)
    fails("QueueAlreadyExists", create, name="plain", VisibilityTimeout=41)
    same(sqs.get_queue_url(QueueName="plain")["QueueUrl"], url)
    fails("AWS.SimpleQueueService.NonExistentQueue", sqs.get_queue_url, status=400, QueueName="absent")
    fails("InvalidParameterValue", create, name="not a name")
    fails("InvalidParameterValue", create, name="plain.fifo")
    fails("InvalidAttributeName", create, name="other", Nonsense=1)
    fails("InvalidAttributeValue", create, name="other", VisibilityTimeout=43201)

    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    same((found["VisibilityTimeout"], found["QueueArn"], found["MaximumMessageSize"]), ("40", arn("plain"), str(MIB)))
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "7", "DelaySeconds": "0"})
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout", "DelaySeconds"])["Attributes"]
    same(found, {"VisibilityTimeout": "7", "DelaySeconds": "0"})
    assert "Attributes" not in sqs.get_queue_attributes(QueueUrl=url) or PROTOCOL == "json"
    fails("InvalidAttributeName", sqs.get_queue_attributes, QueueUrl=url, AttributeNames=["Nonsense"])
    fails("InvalidAttributeName", sqs.set_queue_attributes, QueueUrl=url, Attributes={"FifoQueue": "true"})
    fails("InvalidAddress", sqs.get_queue_attributes, QueueUrl="no-address")

    for n in range(5):
        create(f"list-{n}")
    urls, token = [], {}
    while True:
        page = sqs.list_queues(QueueNamePrefix="list-", MaxResults=2, **token)
        urls += page["QueueUrls"]
        if "NextToken" not in page:
            break
        token = {"NextToken": page["NextToken"]}
    same(urls, [f"{URL}/{ACCOUNT}/list-{n}" for n in range(5)])
    assert "QueueUrls" not in sqs.list_queues(QueueNamePrefix="absent")
    fails("InvalidParameterValue", sqs.list_queues, MaxResults=1001)
    fails("InvalidParameterValue", sqs.list_queues, NextToken="***")

    sqs.delete_queue(QueueUrl=urls[0])
    fails("AWS.SimpleQueueService.NonExistentQueue", sqs.delete_queue, QueueUrl=urls[0])
    error = fails("AWS.SimpleQueueService.QueueDeletedRecently", create, name="list-0")
    assert isinstance(error, sqs.exceptions.QueueDeletedRecently)
    sqs.purge_queue(QueueUrl=urls[1])
    fails("AWS.SimpleQueueService.PurgeQueueInProgress", sqs.purge_queue, status=403, QueueUrl=urls[1])


def tags_and_permissions():
    url = sqs.create_queue(QueueName="tagged", tags={"team": "a", "empty": ""})["QueueUrl"]
    sqs.tag_queue(QueueUrl=url, Tags={"team": "b & c", "ä": "ö"})
    same(sqs.list_queue_tags(QueueUrl=url)["Tags"], {"team": "b & c", "empty": "", "ä": "ö"})
    sqs.untag_queue(QueueUrl=url, TagKeys=["empty", "ä"])
    same(sqs.list_queue_tags(QueueUrl=url)["Tags"], {"team": "b & c"})
    fails("InvalidParameterValue", sqs.tag_queue, QueueUrl=url, Tags={"aws:x": "y"})

    allow = dict(QueueUrl=url, Label="one", AWSAccountIds=["111111111111"], Actions=["SendMessage"])
    sqs.add_permission(**allow)
    fails("InvalidParameterValue", sqs.add_permission, says="Already exists", **allow)
    policy = json.loads(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"]["Policy"])
    same(policy["Statement"][0]["Principal"], {"AWS": "arn:aws:iam::111111111111:root"})
    sqs.remove_permission(QueueUrl=url, Label="one")
    assert not sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"]).get("Attributes")
    fails("InvalidParameterValue", sqs.remove_permission, says="can't find", QueueUrl=url, Label="one")


def messages():
    url = create("messages")
    attributes = {
        "kind": {"DataType": "String.label", "StringValue": "<ä & ö>\r\n"},
        "count": {"DataType": "Number", "StringValue": "-1.5e3"},
        "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    }
    trace = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-5759e988-bd862e3fe1be46a994272793"}}
    body = "<b>& \"quoted\"\\ ä \U0001f600\r\n\t]]> &amp;"
    sent = sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes, MessageSystemAttributes=trace)
    same(sent["MD5OfMessageBody"], md5(body))
    same(sent["MD5OfMessageAttributes"], attributes_md5(attributes))
    same(sent["MD5OfMessageSystemAttributes"], attributes_md5(trace))
    assert "SequenceNumber" not in sent

    [message] = receive(url, AttributeNames=["All"], MessageAttributeNames=["All"], VisibilityTimeout=30)
    same((message["Body"], message["MD5OfBody"], message["MessageId"]), (body, md5(body), sent["MessageId"]))
    same(message["MessageAttributes"], attributes)
    same(message["MD5OfMessageAttributes"], attributes_md5(attributes))
    same(message["Attributes"]["SenderId"], EVERYTHING[0])
    same(message["Attributes"]["ApproximateReceiveCount"], "1")
    same(message["Attributes"]["AWSTraceHeader"], trace["AWSTraceHeader"]["StringValue"])
    handle = message["ReceiptHandle"]
    assert "Messages" not in sqs.receive_message(QueueUrl=url)

    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
    [message] = receive(url, MessageAttributeNames=["k.*", "co*"], AttributeNames=["SentTimestamp"])
    same(list(message["MessageAttributes"]), ["kind"])
    same(message["MD5OfMessageAttributes"], attributes_md5({"kind": attributes["kind"]}))
    same(list(message["Attributes"]), ["SentTimestamp"])
    handle = message["ReceiptHandle"]
    far = dict(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=43201)
    fails("InvalidParameterValue", sqs.change_message_visibility, **far)
    sqs.delete_message(QueueUrl=url, ReceiptHandle=handle)
    sqs.delete_message(QueueUrl=url, ReceiptHandle=handle)
    fails("ReceiptHandleIsInvalid", sqs.delete_message, QueueUrl=url, ReceiptHandle="nonsense")
    late = dict(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=1)
    error = fails("AWS.SimpleQueueService.MessageNotInflight", sqs.change_message_visibility, **late)
    assert isinstance(error, sqs.exceptions.MessageNotInflight)

    fails("InvalidParameterValue", sqs.receive_message, QueueUrl=url, MaxNumberOfMessages=11)
    fails("InvalidParameterValue", sqs.receive_message, QueueUrl=url, WaitTimeSeconds=21)
    fails("InvalidMessageContents", sqs.send_message, QueueUrl=url, MessageBody="\x01")
    fails("MissingParameter", sqs.send_message, QueueUrl=url, MessageBody="")
    fails("InvalidParameterValue", sqs.send_message, QueueUrl=url, MessageBody="x", DelaySeconds=901)
    empty = {"a": {"DataType": "String", "StringValue": ""}}
    empty = dict(QueueUrl=url, MessageBody="x", MessageAttributes=empty)
    fails("InvalidParameterValue", sqs.send_message, says="non-empty", **empty)
    absent = f"{URL}/{ACCOUNT}/absent"
    error = fails("AWS.SimpleQueueService.NonExistentQueue", sqs.send_message, QueueUrl=absent, MessageBody="x")
    assert isinstance(error, sqs.exceptions.QueueDoesNotExist)

    longest = "ä" * (MIB // 2)
    same(sqs.send_message(QueueUrl=url, MessageBody=longest)["MD5OfMessageBody"], md5(longest))
    same(receive(url)[0]["Body"], longest)
    fails("InvalidParameterValue", sqs.send_message, QueueUrl=url, MessageBody=longest + "x")


def batches():
    url = create("batches")
    entries = [{"Id": f"id-{n}", "MessageBody": f"body {n}"} for n in range(10)]
    entries[3]["MessageBody"] = "\x01"
    entries[4]["MessageAttributes"] = {"a": {"DataType": "Binary", "BinaryValue": b"z"}}
    answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)
    same([e["Id"] for e in answer["Successful"]], [f"id-{n}" for n in range(10) if n != 3])
    same([(e["Id"], e["Code"], e["SenderFault"]) for e in answer["Failed"]], [("id-3", "InvalidMessageContents", True)])
    same(answer["Successful"][0]["MD5OfMessageBody"], md5("body 0"))
    same(answer["Successful"][3]["MD5OfMessageAttributes"], attributes_md5(entries[4]["MessageAttributes"]))

    got = receive(url, VisibilityTimeout=30)
    same([m["Body"] for m in got], [f"body {n}" for n in range(10) if n != 3])
    changes = [{"Id": "a", "ReceiptHandle": got[0]["ReceiptHandle"], "VisibilityTimeout": 0}]
    changes.append({"Id": "b", "ReceiptHandle": "nonsense", "VisibilityTimeout": 0})
    changes.append({"Id": "c", "ReceiptHandle": got[1]["ReceiptHandle"], "VisibilityTimeout": -1})
    answer = sqs.change_message_visibility_batch(QueueUrl=url, Entries=changes)
    same([e["Id"] for e in answer["Successful"]], ["a"])
    same({e["Id"]: e["Code"] for e in answer["Failed"]}, {"b": "ReceiptHandleIsInvalid", "c": "InvalidParameterValue"})
    deletes = [{"Id": f"d{n}", "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(got)]
    same(len(sqs.delete_message_batch(QueueUrl=url, Entries=deletes)["Successful"]), 9)
    same(receive(url), [])

    def batch(*ids):
        return dict(QueueUrl=url, Entries=[{"Id": i, "MessageBody": "x"} for i in ids])

    prefix = "AWS.SimpleQueueService."
    fails(prefix + "EmptyBatchRequest", sqs.send_message_batch, **batch())
    fails(prefix + "TooManyEntriesInBatchRequest", sqs.send_message_batch, **batch(*map(str, range(11))))
    fails(prefix + "BatchEntryIdsNotDistinct", sqs.send_message_batch, **batch("a", "a"))
    fails(prefix + "InvalidBatchEntryId", sqs.send_message_batch, **batch("a b"))
    large = [{"Id": str(n), "MessageBody": "x" * (MIB // 2)} for n in range(2)] + [{"Id": "2", "MessageBody": "x"}]
    fails(prefix + "BatchRequestTooLong", sqs.send_message_batch, says="1048577", QueueUrl=url, Entries=large)


def fifo():
    url = create("orders.fifo", FifoQueue="true", ContentBasedDeduplication="true")
    first = sqs.send_message(QueueUrl=url, MessageBody="a", MessageGroupId="g")
    same(len(first["SequenceNumber"]), 20)
    same(sqs.send_message(QueueUrl=url, MessageBody="a", MessageGroupId="g")["MessageId"], first["MessageId"])
    sqs.send_message(QueueUrl=url, MessageBody="b", MessageGroupId="g", MessageDeduplicationId="d")
    got = receive(url, AttributeNames=["All"], ReceiveRequestAttemptId="attempt")
    same([m["Body"] for m in got], ["a", "b"])
    same((got[1]["Attributes"]["MessageGroupId"], got[1]["Attributes"]["MessageDeduplicationId"]), ("g", "d"))
    fails("MissingParameter", sqs.send_message, says="MessageGroupId", QueueUrl=url, MessageBody="a")
    fails("InvalidParameterValue", sqs.send_message, QueueUrl=url, MessageBody="a", MessageGroupId="g", DelaySeconds=2)
    entries = [{"Id": "1", "MessageBody": "a"}]
    fails("InvalidParameterValue", sqs.send_message_batch, says="MessageGroupId", QueueUrl=url, Entries=entries)


def dead_letters():
    dead = create("dead")
    policy = json.dumps({"deadLetterTargetArn": arn("dead"), "maxReceiveCount": "1"})
    source = create("source", RedrivePolicy=policy)
    same(sqs.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"], [source])
    found = sqs.get_queue_attributes(QueueUrl=source, AttributeNames=["RedrivePolicy"])["Attributes"]["RedrivePolicy"]
    same(json.loads(found), {"deadLetterTargetArn": arn("dead"), "maxReceiveCount": 1})
    for target, says in [("dummy", "deadLetterTargetArn"), (arn("absent"), "does not exist")]:
        wrong = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": 42})}
        fails("InvalidParameterValue", sqs.set_queue_attributes, says=says, QueueUrl=source, Attributes=wrong)

    sqs.send_message(QueueUrl=source, MessageBody="poison")
    same(len(receive(source, VisibilityTimeout=0)), 1)
    same(receive(source), [])
    [message] = receive(dead, AttributeNames=["All"], VisibilityTimeout=0)
    same(message["Attributes"]["DeadLetterQueueSourceArn"], arn("source"))

    fails("InvalidParameterValue", sqs.start_message_move_task, SourceArn=arn("source"))
    fails("ResourceNotFoundException", sqs.start_message_move_task, status=404, SourceArn=arn("absent"))
    fails("InvalidParameterValue", sqs.start_message_move_task, SourceArn="dead")
    handle = sqs.start_message_move_task(SourceArn=arn("dead"), MaxNumberOfMessagesPerSecond=1)["TaskHandle"]
    [task] = sqs.list_message_move_tasks(SourceArn=arn("dead"))["Results"]
    same((task["Status"], task["TaskHandle"], task["MaxNumberOfMessagesPerSecond"]), ("RUNNING", handle, 1))
    # One a second: a backend that moves for real may have moved the one that there is.
    moved = sqs.cancel_message_move_task(TaskHandle=handle)["ApproximateNumberOfMessagesMoved"]
    assert moved in (0, 1), moved
    fails("ResourceNotFoundException", sqs.cancel_message_move_task, status=404, TaskHandle=handle)
    fails("InvalidParameterValue", sqs.cancel_message_move_task, TaskHandle="foobar")
    sqs.start_message_move_task(SourceArn=arn("dead"), DestinationArn=arn("source"))
    deadline = time.monotonic() + 30
    while True:
        tasks = sqs.list_message_move_tasks(SourceArn=arn("dead"), MaxResults=10)["Results"]
        if tasks[0]["Status"] != "RUNNING":
            break
        assert time.monotonic() < deadline, tasks
        time.sleep(0.02)
    same([t["Status"] for t in tasks], ["COMPLETED", "CANCELLED"])
    assert "TaskHandle" not in tasks[1]
    same((tasks[0]["DestinationArn"], tasks[0]["ApproximateNumberOfMessagesMoved"]), (arn("source"), 1 - moved))
    same([m["Body"] for m in receive(source)], ["poison"])


def keys():
    public, private = create("public-1"), create("private-1")
    sender = client(*SENDER)
    sender.send_message(QueueUrl=public, MessageBody="x")
    same(sender.get_queue_url(QueueName="public-1")["QueueUrl"], public)
    same(sender.list_queues()["QueueUrls"], [public])
    same(receive(public, AttributeNames=["SenderId"])[0]["Attributes"], {"SenderId": SENDER[0]})
    denied = dict(status=403, says="not authorized to perform: sqs:")
    fails("AccessDenied", sender.receive_message, **denied, QueueUrl=public)
    fails("AccessDenied", sender.send_message, **denied, QueueUrl=private, MessageBody="x")
    fails("AccessDenied", sender.create_queue, **denied, QueueName="public-2")
    manager = client(*MANAGER)
    mine = manager.create_queue(QueueName="team-a")["QueueUrl"]
    page = manager.list_queues(MaxResults=5)
    same((page["QueueUrls"], "NextToken" in page), ([mine], False))
    steal = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn("private-1"), "maxReceiveCount": 1})}
    fails("AccessDenied", manager.set_queue_attributes, status=403, QueueUrl=mine, Attributes=steal)
    fails("AccessDenied", manager.create_queue, status=403, QueueName="team-b", Attributes=steal)
    handle = sqs.start_message_move_task(SourceArn=arn("dead"), MaxNumberOfMessagesPerSecond=1)["TaskHandle"]
    fails("AccessDenied", manager.cancel_message_move_task, status=403, TaskHandle=handle)
    number = base64.urlsafe_b64decode(handle + "==").split(b"/", 1)[1]
    forged = base64.urlsafe_b64encode(b"team-a/" + number).rstrip(b"=").decode()
    fails("ResourceNotFoundException", manager.cancel_message_move_task, TaskHandle=forged)
    # With nothing to move it may be over; it was not cancelled.
    assert sqs.list_message_move_tasks(SourceArn=arn("dead"))["Results"][0]["Status"] in ("RUNNING", "COMPLETED")
    fails("SignatureDoesNotMatch", client(SENDER[0], "wrong").list_queues, status=403)
    fails("InvalidClientTokenId", client("AKIDNOBODY", "wrong").list_queues, status=403)


def raw(method, path, body=None, signed=True, headers=None):
    request = AWSRequest(method, URL + path, data=body, headers=headers or {})
    if signed:
        SigV4Auth(Credentials(*EVERYTHING), "sqs", REGION).add_auth(request)
    plain = urllib.request.Request(URL + path, data=body, method=method, headers=dict(request.headers))
    try:
        with urllib.request.urlopen(plain, timeout=30) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def by_hand():
    """What SDKs do not do, but shell scripts and old tools."""
    create("by-hand")
    path = f"/{ACCOUNT}/by-hand?Action=SendMessage&Version=2012-11-05&MessageBody=a%20b%2Bc"
    status, headers, body = raw("GET", path)
    assert status == 200 and headers["x-amzn-RequestId"] in body, body
    assert 'xmlns="http://queue.amazonaws.com/doc/2012-11-05/"' in body, body
    assert "<SendMessageResult><MessageId>" in body and md5("a b+c") in body, body
    status, _, body = raw("GET", path, signed=False)
    assert status == 403 and "<Code>AccessDenied</Code>" in body, body
    json_type = {"X-Amz-Target": "AmazonSQS.ReceiveMessage", "Content-Type": "application/x-amz-json-1.0"}
    text = json.dumps({"QueueUrl": f"{URL}/{ACCOUNT}/by-hand", "MaxNumberOfMessages": 10}).encode()
    status, headers, body = raw("POST", "/", text, headers=json_type)
    same((status, headers["Content-Type"]), (200, "application/x-amz-json-1.0"))
    same(json.loads(body)["Messages"][0]["Body"], "a b+c")
    status, headers, body = raw("POST", "/", b"{", headers=json_type)
    same((status, headers["x-amzn-query-error"]), (400, "MalformedInput;Sender"))
    # Written whole before the answer is read, so that a reset cannot hide it: one byte more than is read.
    status, headers, _ = raw("POST", "/", b"x" * (8 * MIB + 1), headers=json_type)
    same((status, headers["x-amzn-query-error"]), (413, "RequestEntityTooLarge;Sender"))
    if PROTOCOL == "query":
        url = sqs.generate_presigned_url("get_queue_url", Params={"QueueName": "by-hand"}, HttpMethod="GET")
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert "/by-hand</QueueUrl>" in answer.read().decode()


def waiting():
    url = create("waiting", ReceiveMessageWaitTimeSeconds=1)
    same(receive(url), [])
    sqs.send_message(QueueUrl=url, MessageBody="there")
    same(len(receive(url, WaitTimeSeconds=20)), 1)


for part in [queues, tags_and_permissions, messages, batches, fifo, dead_letters, keys, by_hand, waiting]:
    part()
    print(part.__name__, "ok")
same(sqs.meta.service_model.metadata["protocol"], PROTOCOL)
print(f"all {len(called)} actions")
