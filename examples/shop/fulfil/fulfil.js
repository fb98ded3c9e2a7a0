// The worker of the queue `orders`: begins the saga `order` for the order on standard input. The buyer's key is the key of
// the run, so that an order that comes twice is the same run. Exit code 0 is done, 65 never, any other is tried again.

'use strict';
const fs = require('node:fs');
const http = require('node:http');

const WAIT_MS = 5_000;
const AGAIN = 75;

const text = fs.readFileSync(0, 'utf8');
let key;
try {
  ({ key } = JSON.parse(text));
} catch {
  console.log('this is no order');
  process.exit(65);
}

const body = JSON.stringify({ workflow: 'order', parameters: { order: text }, key });
const request = http.request({
  socketPath: process.env.HOLDFAST_API,
  path: '/v1/tasks/runs',
  method: 'POST',
  timeout: WAIT_MS,
  headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
}, (answer) => {
  let said = '';
  answer.on('data', (part) => { said += part; });
  answer.on('end', () => {
    console.log(said);
    process.exitCode = answer.statusCode === 200 ? 0 : AGAIN;
  });
});
request.on('timeout', () => request.destroy(new Error(`no answer in ${WAIT_MS} ms`)));
request.on('error', (error) => {
  console.log(error.message);
  process.exitCode = AGAIN;
});
request.end(body);
