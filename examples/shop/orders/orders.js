// Orders. Node's standard library only; one thread, so that a long report blocks it as real ones do.
//
// GET  /orders          how many, and their sum
// POST /orders          { "item": "lamp", "count": 1 }; the same Idempotency-Key gives the same order;
//                       201 once the queue has it, from where it is paid and shipped
// GET  /report?ms=N     a report that takes N ms (10,000) on the only thread
// GET  /busy?ms=N       burns a CPU for N ms, for drills
// GET  /healthz         200 when stock answers, else 503: without it no order can be taken

'use strict';
const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');

const PORT = process.argv[2];
const { CATALOG, STOCK, QUEUE, ORDERS_FILE } = process.env;
const CALL_TIMEOUT_MS = 400; // less than the probe's, so that the answer is ours: 503, not silence
const QUEUE_TIMEOUT_MS = 5_000; // a plane of tasks that was killed is back by then, its callers wait
const BODY_BYTES_MAX = 64 * 1024;
const BUSY_MS_MAX = 60_000;

const agent = new http.Agent({ keepAlive: true, maxSockets: 32 });

// GETs JSON from another service.
function ask(url) {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { agent, timeout: CALL_TIMEOUT_MS }, (answer) => {
      let text = '';
      answer.setEncoding('utf8');
      answer.on('data', (part) => { text += part; });
      answer.on('error', reject);
      answer.on('end', () => {
        if (answer.statusCode !== 200) return reject(new Error(`${url}: ${answer.statusCode}`));
        try { return resolve(JSON.parse(text)); } catch (error) { return reject(error); }
      });
    });
    request.on('timeout', () => request.destroy(new Error(`${url}: no answer in ${CALL_TIMEOUT_MS} ms`)));
    request.on('error', reject);
  });
}

// Into the queue, spoken to as AWS SQS: confirmed is on the disk. The same key twice is one message.
function enqueue(order) {
  const name = crypto.createHash('sha256').update(order.key).digest('hex');
  const body = JSON.stringify({
    QueueUrl: `${QUEUE}/000000000000/orders.fifo`,
    MessageBody: JSON.stringify(order),
    MessageGroupId: name,
    MessageDeduplicationId: name,
  });
  const options = {
    method: 'POST',
    timeout: QUEUE_TIMEOUT_MS,
    headers: {
      'content-type': 'application/x-amz-json-1.0',
      'content-length': Buffer.byteLength(body),
      'x-amz-target': 'AmazonSQS.SendMessage',
    },
  };
  return new Promise((resolve, reject) => {
    const request = http.request(QUEUE, options, (answer) => {
      answer.resume();
      answer.on('error', reject);
      answer.on('end', () => {
        if (answer.statusCode === 200) return resolve();
        return reject(new Error(`the queue answers ${answer.statusCode}`));
      });
    });
    request.on('timeout', () => request.destroy(new Error(`the queue did not answer in ${QUEUE_TIMEOUT_MS} ms`)));
    request.on('error', reject);
    request.end(body);
  });
}

// A send without an answer is sent again: its key makes that safe, and a plane that was killed is back within a second.
async function keep(order) {
  try {
    await enqueue(order);
  } catch {
    await enqueue(order);
  }
}

// All orders of all instances: one line each, appended in one write, read on from where we stopped.
const book = { byKey: new Map(), cents: 0, offset: 0, rest: '' };

function catchUp() {
  const file = fs.openSync(ORDERS_FILE, 'a+');
  try {
    const size = fs.fstatSync(file).size;
    const part = Buffer.alloc(Math.max(0, size - book.offset));
    const got = fs.readSync(file, part, 0, part.length, book.offset);
    book.offset += got;
    const lines = (book.rest + part.toString('utf8', 0, got)).split('\n');
    book.rest = lines.pop();
    for (const line of lines) enter(JSON.parse(line));
  } finally {
    fs.closeSync(file);
  }
}

function enter(order) {
  if (book.byKey.has(order.key)) return; // two instances took the same key at once: the first line counts
  book.byKey.set(order.key, order);
  book.cents += order.cents;
}

async function place(body, key) {
  const { item, count } = JSON.parse(body);
  if (typeof item !== 'string' || !Number.isInteger(count) || count < 1) return [400, { error: 'item and count are needed' }];
  catchUp();
  if (book.byKey.has(key)) return [200, book.byKey.get(key)];
  const { price_cents: price } = await ask(`${CATALOG}/items/${encodeURIComponent(item)}`);
  const stock = await ask(`${STOCK}/stock/${encodeURIComponent(item)}`);
  if (stock.left < count) return [409, { error: 'sold out' }];
  const order = { key, item, count, cents: price * count };
  // First the queue: whoever dies after it has an order that is paid for, and a buyer who asks again with the same key.
  await keep(order);
  order.id = crypto.randomUUID();
  fs.appendFileSync(ORDERS_FILE, `${JSON.stringify(order)}\n`);
  catchUp();
  return [201, book.byKey.get(key)];
}

function burn(ms) {
  const wanted = Math.min(Number(ms) || 1000, BUSY_MS_MAX);
  const until = performance.now() + wanted;
  while (performance.now() < until) crypto.createHash('sha256').update('busy').digest();
  return wanted;
}

async function answer(request, body) {
  const url = new URL(request.url, 'http://orders');
  if (url.pathname === '/orders' && request.method === 'POST') {
    return place(body, request.headers['idempotency-key'] || crypto.randomUUID());
  }
  if (url.pathname === '/orders') {
    catchUp();
    return [200, { orders: book.byKey.size, total_cents: book.cents }];
  }
  if (url.pathname === '/healthz') {
    await ask(`${STOCK}/stock/lamp`);
    return [200, { ready: true }];
  }
  if (url.pathname === '/busy') return [200, { burned_ms: burn(url.searchParams.get('ms')) }];
  if (url.pathname === '/report') {
    catchUp();
    return [200, { burned_ms: burn(url.searchParams.get('ms') || 10_000), orders: book.byKey.size }];
  }
  return [404, { error: 'no such page' }];
}

const server = http.createServer((request, response) => {
  let body = '';
  request.setEncoding('utf8');
  request.on('data', (part) => {
    body += part;
    if (body.length > BODY_BYTES_MAX) request.destroy();
  });
  request.on('end', async () => {
    let status;
    let value;
    try {
      [status, value] = await answer(request, body);
    } catch (error) {
      // A body that is no JSON is the caller's fault; all else is a neighbour that does not answer.
      [status, value] = error instanceof SyntaxError ? [400, { error: 'not JSON' }] : [503, { error: error.message }];
    }
    const text = `${JSON.stringify(value)}\n`;
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    if (stopping) headers.connection = 'close';
    response.writeHead(status, headers);
    response.end(text);
  });
});

let stopping = false;
process.on('SIGTERM', () => {
  stopping = true;
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});

server.keepAliveTimeout = 30_000; // longer than a balancer keeps an idle connection
server.listen(Number(PORT), '127.0.0.1', () => console.log(`orders on port ${PORT}`));
