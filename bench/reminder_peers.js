// The peers of bench/reminder_peers.  Modules come from NODE_PATH.
//
//   node reminder_peers.js work PEER TUNING   says "ready", then works until SIGTERM
//   node reminder_peers.js enqueue PEER       gives the peer the rows of peer.reminder
//
// The effect is the same for all: one row in peer.event for each reminder.
'use strict';
const { Pool } = require('pg');

const [, , command, peer, tuning] = process.argv;
const tuned = tuning === 'tuned';
const pool = new Pool({ max: 25 });
const insert = `INSERT INTO peer.event (reminder_id, member_id, due_at, fired_at, title)
  SELECT id, member_id, due_at, clock_timestamp(), title
  FROM json_to_recordset($1) AS r (id bigint, member_id bigint, due_at timestamptz, title text)`;

const peers = {
  graphile: {
    async work() {
      const { run } = require('graphile-worker');
      const taskList = { remind: (payload, helpers) => helpers.query(insert, [JSON.stringify([payload])]) };
      const { Logger } = require('graphile-worker');
      const logger = new Logger(() => () => {});
      // The fastest settings of its documentation; polling was tried down to 10 ms.
      const fast = { preset: { worker: {
        concurrentJobs: 20, maxPoolSize: 24, pollInterval: Number(process.env.GRAPHILE_POLL || 20), localQueue: { size: 200 }, completeJobBatchDelay: 5, failJobBatchDelay: 5,
      } } };
      const runner = await run({ taskList, logger, noHandleSignals: true, connectionString: 'postgres:///', ...(tuned ? fast : {}) });
      return () => runner.stop();
    },
    async enqueue(rows) {
      const { makeWorkerUtils } = require('graphile-worker');
      const utils = await makeWorkerUtils({ connectionString: 'postgres:///' });
      await utils.migrate();
      await utils.addJobs(rows.map((row) => ({ identifier: 'remind', payload: row, runAt: new Date(row.due_at) })));
      await utils.release();
    },
  },
  pgboss: {
    async boss() {
      const Boss = require('pg-boss');
      const boss = new Boss({ connectionString: 'postgres:///', max: 12 });
      boss.on('error', (error) => console.error(error.message));
      await boss.start();
      await boss.createQueue('remind');
      return boss;
    },
    async work() {
      const boss = await this.boss();
      const handle = (jobs) => pool.query(insert, [JSON.stringify(jobs.map((job) => job.data))]);
      // Half a second is the shortest poll it allows.
      if (tuned) for (let i = 0; i < 4; i++) await boss.work('remind', { pollingIntervalSeconds: 0.5, batchSize: 1000 }, handle);
      else await boss.work('remind', handle);
      return () => boss.stop({ graceful: false, wait: false });
    },
    async enqueue(rows) {
      const boss = await this.boss();
      await boss.insert(rows.map((row) => ({ name: 'remind', data: row, startAfter: new Date(row.due_at).toISOString() })));
      await boss.stop({ graceful: false, wait: false });
    },
  },
  bullmq: {
    options: { connection: { max: 24, migrate: true } },
    async work() {
      const { Worker, createPostgresBackend } = require('bullmq');
      const worker = new Worker('remind', (job) => pool.query(insert, [JSON.stringify([job.data])]),
        { ...this.options, ...(tuned ? { concurrency: 24 } : {}) }, createPostgresBackend);
      worker.on('error', (error) => console.error(error.message));
      await worker.waitUntilReady();
      return () => worker.close(true);
    },
    async enqueue(rows) {
      const { Queue, createPostgresBackend } = require('bullmq');
      const queue = new Queue('remind', this.options, createPostgresBackend);
      await queue.addBulk(rows.map((row) => ({
        name: 'remind', data: row, opts: { delay: Math.max(new Date(row.due_at) - Date.now(), 0), removeOnComplete: true },
      })));
      await queue.close();
    },
  },
};

async function main() {
  if (command === 'enqueue') {
    const { rows } = await pool.query('SELECT to_json(r) AS r FROM peer.reminder AS r ORDER BY due_at');
    for (let i = 0; i < rows.length; i += 1000) await peers[peer].enqueue(rows.slice(i, i + 1000).map((row) => row.r));
  } else {
    const stop = await peers[peer].work();
    process.on('SIGTERM', async () => { await Promise.race([stop(), new Promise((r) => setTimeout(r, 2000))]); process.exit(0); });
    console.log('ready');
    return;
  }
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
