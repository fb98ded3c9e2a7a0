// graphile-worker as the peer of a benchmark: its own workers take job by job and delete each in a transaction of its own
// (local queue and batched completion are off: both confirm nothing). A life ends when that deletion is committed.

import pg from "pg";
import { Logger, makeWorkerUtils, run } from "graphile-worker";

import { batch, connections, payload, payloads, serve } from "./drive.mjs";

const TASK = "bench";

// No worker knows it: what is only sent stays.
const KEPT = "kept";

// Deletions that were committed before the sender knew the job's number, and senders that wait for one.
const ended = new Set();
const waiting = new Map();

function end(id) {
  const resolve = waiting.get(id);
  if (resolve === undefined) {
    ended.add(id);
  } else {
    waiting.delete(id);
    resolve();
  }
}

const until_ended = (id) => (ended.delete(id) ? undefined : new Promise((resolve) => waiting.set(id, resolve)));

// The worker does not wait for the deletion; this connection tells when it is confirmed.
class Client extends pg.Client {
  query(config, ...rest) {
    const result = super.query(config, ...rest);
    if (typeof config?.name === "string" && config.name.startsWith("complete_job/")) {
      return result.then((value) => {
        end(String(config.values[0]));
        return value;
      });
    }
    return result;
  }
}

const quiet = new Logger(() => (level, message) => {
  if (level === "error") {
    console.error(message);
  }
});

function pool(max) {
  const made = new pg.Pool({ Client, max });
  made.on("error", (error) => console.error(error));
  made.on("connect", (client) => client.on("error", (error) => console.error(error)));
  return made;
}

const settings = (max) => ({
  pgPool: pool(max),
  logger: quiet,
  preset: { worker: { localQueue: { size: -1 }, completeJobBatchDelay: -1, failJobBatchDelay: -1 } },
});

const utils = await makeWorkerUtils(settings(connections));
await utils.migrate();
await run({
  ...settings(connections + 1),
  concurrency: connections,
  noHandleSignals: true,
  taskList: { [TASK]: async () => {} },
});

async function send(task, size) {
  if (batch === 1) {
    return [await utils.addJob(task, payload())];
  }
  return await utils.addJobs(payloads(size).map((data) => ({ identifier: task, payload: data })));
}

await serve({
  async prepare() {
    ended.clear();
    await utils.withPgClient((client) => client.query("truncate graphile_worker._private_jobs"));
  },

  async sends(size) {
    await send(KEPT, size);
  },

  async life(size) {
    const jobs = await send(TASK, size);
    await Promise.all(jobs.map((job) => until_ended(String(job.id))));
  },
});
