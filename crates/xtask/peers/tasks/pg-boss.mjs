// pg-boss as the peer of a benchmark: sent, fetched and completed through its public interface, without its polling
// worker, whose half second between fetches would be all that is measured.

import { setTimeout as nap } from "node:timers/promises";

import { PgBoss } from "pg-boss";

import { batch, connections, payload, payloads, serve } from "./drive.mjs";

const boss = new PgBoss({
  host: process.env.PGHOST,
  port: Number(process.env.PGPORT),
  user: process.env.PGUSER,
  database: process.env.PGDATABASE,
  max: connections,
  schedule: false,
  supervise: false,
});
boss.on("error", (error) => console.error(error));
await boss.start();

let queues = 0;
let queue;

async function send(size) {
  if (batch === 1) {
    await boss.send(queue, payload());
    return;
  }
  await boss.insert(queue, payloads(size).map((data) => ({ data })));
}

await serve({
  async prepare() {
    await boss.getDb().executeSql("truncate pgboss.job");
    queues += 1;
    queue = `bench-${queues}`;
    await boss.createQueue(queue);
  },

  sends: send,

  async life(size) {
    await send(size);
    const held = [];
    while (held.length < size) {
      const jobs = await boss.fetch(queue, { batchSize: size - held.length });
      held.push(...jobs.map((job) => job.id));
      // Others hold what was sent; the next look costs the server something.
      if (jobs.length === 0) {
        await nap(1);
      }
    }
    const { affected } = await boss.complete(queue, held);
    if (affected !== size) {
      throw new Error(`${affected} of ${size} jobs were completed`);
    }
  },
});
