// Calls every action of SQS through the JavaScript SDK, which checks the MD5 of bodies by itself. Usage: javascript.cjs URL
"use strict";
const assert = require("node:assert/strict");
const { createHash } = require("node:crypto");
const sdk = require("@aws-sdk/client-sqs");
const { Consumer } = require("sqs-consumer");

const [URL_OF_PLANE, REGION, ACCOUNT] = [process.argv[2], "eu-west-1", "000000000000"];
const LIMIT_MS = 30_000;
const ACTIONS = 23;
const called = new Set();
const client = new sdk.SQSClient({
  endpoint: URL_OF_PLANE,
  region: REGION,
  credentials: { accessKeyId: "any", secretAccessKey: "any" },
  maxAttempts: 1,
});

function call(action, input) {
  called.add(action);
  return client.send(new sdk[`${action}Command`](input));
}

async function fails(name, action, input) {
  const error = await call(action, input).then(
    () => assert.fail(`${action}: ${name} was expected`),
    (error) => error,
  );
  assert.equal(error.name, name);
  if (sdk[name] !== undefined) assert.ok(error instanceof sdk[name], "its own class");
  assert.ok(error.$metadata.requestId, "it has the id of the request");
}

const md5 = (text) => createHash("md5").update(text).digest("hex");
const arn = (name) => `arn:aws:sqs:${REGION}:${ACCOUNT}:${name}`;

async function create(QueueName, Attributes = {}, tags = {}) {
  return (await call("CreateQueue", { QueueName, Attributes, tags })).QueueUrl;
}

async function receive(QueueUrl, rest = {}) {
  return (await call("ReceiveMessage", { QueueUrl, MaxNumberOfMessages: 10, ...rest })).Messages ?? [];
}

async function queues() {
  const QueueUrl = await create("plain", { VisibilityTimeout: "40" }, { team: "a", kind: "b" });
  assert.equal(QueueUrl, `${URL_OF_PLANE}/${ACCOUNT}/plain`);
  assert.equal((await call("GetQueueUrl", { QueueName: "plain" })).QueueUrl, QueueUrl);
  await call("SetQueueAttributes", { QueueUrl, Attributes: { VisibilityTimeout: "7" } });
  const { Attributes } = await call("GetQueueAttributes", { QueueUrl, AttributeNames: ["All"] });
  assert.equal(Attributes.VisibilityTimeout, "7");
  await call("TagQueue", { QueueUrl, Tags: { team: "ä & ö" } });
  await call("UntagQueue", { QueueUrl, TagKeys: ["kind"] });
  assert.deepEqual((await call("ListQueueTags", { QueueUrl })).Tags, { team: "ä & ö" });
  await call("AddPermission", { QueueUrl, Label: "l", AWSAccountIds: ["111111111111"], Actions: ["SendMessage"] });
  await call("RemovePermission", { QueueUrl, Label: "l" });
  for (let n = 0; n < 3; n++) await create(`page-${n}`);
  const found = [];
  for await (const page of sdk.paginateListQueues({ client, pageSize: 2 }, { QueueNamePrefix: "page-" })) {
    called.add("ListQueues");
    found.push(...page.QueueUrls);
  }
  assert.deepEqual(found, [0, 1, 2].map((n) => `${URL_OF_PLANE}/${ACCOUNT}/page-${n}`));
  await call("PurgeQueue", { QueueUrl });
  await fails("PurgeQueueInProgress", "PurgeQueue", { QueueUrl });
  await call("DeleteQueue", { QueueUrl: found[0] });
  await fails("QueueDoesNotExist", "GetQueueUrl", { QueueName: "page-0" });
  await fails("QueueNameExists", "CreateQueue", { QueueName: "plain", Attributes: { DelaySeconds: "9" } });
}

async function messages() {
  const QueueUrl = await create("messages");
  const MessageBody = '<b>& "quoted"\\ ä \u{1f600}\r\n\t]]>';
  const MessageAttributes = {
    kind: { DataType: "String.label", StringValue: "ä & ö" },
    count: { DataType: "Number", StringValue: "-1.5e3" },
    bytes: { DataType: "Binary", BinaryValue: new Uint8Array([0, 255]) },
  };
  const sent = await call("SendMessage", { QueueUrl, MessageBody, MessageAttributes });
  assert.equal(sent.MD5OfMessageBody, md5(MessageBody));
  const [message] = await receive(QueueUrl, { MessageAttributeNames: ["All"], MessageSystemAttributeNames: ["All"] });
  assert.deepEqual([message.Body, message.MessageId], [MessageBody, sent.MessageId]);
  assert.deepEqual([...message.MessageAttributes.bytes.BinaryValue], [0, 255]);
  assert.equal(message.MD5OfMessageAttributes, sent.MD5OfMessageAttributes);
  assert.equal(message.Attributes.ApproximateReceiveCount, "1");
  await call("ChangeMessageVisibility", { QueueUrl, ReceiptHandle: message.ReceiptHandle, VisibilityTimeout: 0 });
  const [{ ReceiptHandle }] = await receive(QueueUrl);
  await call("DeleteMessage", { QueueUrl, ReceiptHandle });
  const gone = { QueueUrl, ReceiptHandle, VisibilityTimeout: 1 };
  await fails("MessageNotInflight", "ChangeMessageVisibility", gone);
  await fails("ReceiptHandleIsInvalid", "DeleteMessage", { QueueUrl, ReceiptHandle: "nonsense" });

  const Entries = ["one", "two", "\u0001"].map((MessageBody, n) => ({ Id: `${n}`, MessageBody }));
  const batch = await call("SendMessageBatch", { QueueUrl, Entries });
  assert.deepEqual(batch.Successful.map((entry) => entry.Id), ["0", "1"]);
  assert.deepEqual(batch.Failed.map((entry) => [entry.Id, entry.SenderFault]), [["2", true]]);
  const entries = (await receive(QueueUrl)).map(({ ReceiptHandle }, n) => ({ Id: `${n}`, ReceiptHandle }));
  const hidden = entries.map((entry) => ({ ...entry, VisibilityTimeout: 60 }));
  const changed = await call("ChangeMessageVisibilityBatch", { QueueUrl, Entries: hidden });
  assert.equal(changed.Successful.length, 2);
  assert.equal((await call("DeleteMessageBatch", { QueueUrl, Entries: entries })).Successful.length, 2);
  await fails("EmptyBatchRequest", "SendMessageBatch", { QueueUrl, Entries: [] });

  const fifo = await create("orders.fifo", { FifoQueue: "true", ContentBasedDeduplication: "true" });
  for (const MessageBody of ["a", "a", "b"]) {
    await call("SendMessage", { QueueUrl: fifo, MessageBody, MessageGroupId: "g" });
  }
  assert.deepEqual((await receive(fifo)).map((message) => message.Body), ["a", "b"]);
}

async function deadLetters() {
  const dead = await create("dead");
  const RedrivePolicy = JSON.stringify({ deadLetterTargetArn: arn("dead"), maxReceiveCount: 1 });
  const source = await create("source", { RedrivePolicy });
  const sources = await call("ListDeadLetterSourceQueues", { QueueUrl: dead });
  assert.deepEqual(sources.queueUrls, [source]);
  for (let n = 0; n < 3; n++) await call("SendMessage", { QueueUrl: source, MessageBody: "poison" });
  assert.equal((await receive(source, { VisibilityTimeout: 0 })).length, 3);
  assert.deepEqual(await receive(source), []);
  const SourceArn = arn("dead");
  const { TaskHandle } = await call("StartMessageMoveTask", { SourceArn, MaxNumberOfMessagesPerSecond: 1 });
  assert.equal((await call("ListMessageMoveTasks", { SourceArn })).Results[0].Status, "RUNNING");
  await call("CancelMessageMoveTask", { TaskHandle });
  assert.equal((await call("ListMessageMoveTasks", { SourceArn })).Results[0].Status, "CANCELLED");
}

// A library that many programs use: it polls, deletes what was handled, and gives back what was not.
async function consumer() {
  const queueUrl = await create("consumed", { VisibilityTimeout: "1" });
  for (let n = 0; n < 20; n++) await call("SendMessage", { QueueUrl: queueUrl, MessageBody: `${n}` });
  const [seen, tries] = [[], new Map()];
  const worker = Consumer.create({
    queueUrl,
    sqs: client,
    batchSize: 10,
    waitTimeSeconds: 1,
    terminateVisibilityTimeout: true,
    handleMessage: async (message) => {
      tries.set(message.Body, (tries.get(message.Body) ?? 0) + 1);
      if (message.Body === "7" && tries.get("7") === 1) throw new Error("once");
      seen.push(Number(message.Body));
      return message;
    },
  });
  const errors = [];
  worker.on("error", (error) => errors.push(error));
  await new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`only ${seen.length} were handled`)), LIMIT_MS);
    worker.on("message_processed", () => {
      if (seen.length < 20) return;
      clearTimeout(late);
      resolve();
    });
    worker.start();
  });
  const stopped = new Promise((resolve) => worker.on("stopped", resolve));
  worker.stop();
  await stopped;
  assert.deepEqual(errors, []);
  assert.deepEqual(seen.sort((a, b) => a - b), [...Array(20).keys()]);
  assert.equal(tries.get("7"), 2);
}

async function main() {
  for (const part of [queues, messages, deadLetters, consumer]) {
    await part();
    console.log(part.name, "ok");
  }
  assert.equal(called.size, ACTIONS);
  console.log(`all ${called.size} actions`);
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
