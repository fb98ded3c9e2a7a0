// What every peer on Node has in common. A line of JSON on stdin is one measurement, a line on stdout its count:
// {"work": "life", "in_flight": 64, "seconds": 5}  ->  {"messages": 12345, "seconds": 5.01}

import { performance } from "node:perf_hooks";
import { createInterface } from "node:readline";

// Messages in one call of the peer, where it has such calls; else 1.
export const batch = Number(process.env.BATCH);

// Connections to PostgreSQL.
export const connections = Number(process.env.CONNECTIONS);

const pattern = "0123456789abcdef";

let number = 0;

// A message that is no other's: its JSON has the bytes of a body.
export function payload() {
  const room = Number(process.env.BODY_BYTES) - '{"body":""}'.length;
  number += 1;
  const text = number.toString(16).padStart(16, "0");
  return { body: text.padEnd(room, pattern) };
}

export const payloads = (many) => Array.from({ length: many }, payload);

// `peer` has `prepare`, which leaves it empty, and `life` and `sends`, which bring so many messages through.
export async function serve(peer) {
  answer({ ready: true });
  for await (const line of createInterface({ input: process.stdin })) {
    answer(await measure(peer, JSON.parse(line)));
  }
  process.exit(0);
}

// A closed loop: as soon as a batch is through, the next one begins in its place.
async function measure(peer, { work, in_flight, seconds }) {
  await peer.prepare();
  const began = performance.now();
  const until = began + seconds * 1000;
  let messages = 0;
  const cycle = async (size) => {
    while (performance.now() < until) {
      await peer[work](size);
      messages += size;
    }
  };
  await Promise.all(sizes(in_flight).map(cycle));
  return { messages, seconds: (performance.now() - began) / 1000 };
}

function sizes(in_flight) {
  const whole = Array(Math.floor(in_flight / batch)).fill(batch);
  const rest = in_flight % batch;
  return rest > 0 ? [...whole, rest] : whole;
}

const answer = (value) => process.stdout.write(JSON.stringify(value) + "\n");
