// Mails the events of a crm workspace to the members they are for.
//
// Settings from the environment: PGHOST, PGDATABASE, PGUSER … as for any client;
// SMTP_URL, MAIL_FROM, CRM_WORKSPACE (sales), CRM_CONSUMER (mail).
'use strict';
const { Client } = require('pg');
const nodemailer = require('nodemailer');

const workspace = process.env.CRM_WORKSPACE || 'sales';
const consumer = process.env.CRM_CONSUMER || 'mail';
const schema = Client.prototype.escapeIdentifier(workspace);
const transport = nodemailer.createTransport(process.env.SMTP_URL || 'smtp://localhost:25');

let stopping = false;
let wake = () => {};
const pause = (ms) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  wake = () => { clearTimeout(timer); resolve(); };
});

async function send(event, member) {
  const digest = event.payload && event.payload.crm_digest;
  // It only released others, which came before it.
  if (digest && !event.payload.items) return;
  const items = digest ? event.payload.items.map((item) => `* ${item.title}\n`).join('') : '';
  // What fired late, because nothing was running, says so.
  const minutes = Math.round((event.fired_at - event.due_at) / 60000);
  const late = (minutes > 0 ? `Told ${minutes} minutes late.\n` : '') + (event.missed > 0 ? `${event.missed} more were missed.\n` : '');
  await transport.sendMail({
    from: process.env.MAIL_FROM || 'crm@localhost',
    to: { name: member.name, address: member.email },
    subject: event.title,
    text: `${event.title}\n\n${items}Due ${event.due_at.toISOString()}.\n${late}`,
    // The same for every attempt, so that whoever gets a mail twice can tell.
    messageId: `<event-${event.id}@${encodeURIComponent(workspace)}.crm.invalid>`,
  });
}

// One batch; how many events it had.
async function work(db) {
  const { rows: events } = await db.query(`SELECT * FROM ${schema}.read_events($1, 50)`, [consumer]);
  if (events.length === 0) return 0;
  const { rows } = await db.query(`SELECT id, name, email FROM ${schema}.member WHERE id = ANY ($1)`,
    [events.map((event) => event.member_id)]);
  const members = new Map(rows.map((row) => [row.id, row]));
  for (const event of events) {
    if (stopping) break;
    const member = members.get(event.member_id);
    try {
      if (!member || !member.email) throw Object.assign(new Error('The member has no e-mail address.'), { responseCode: 550 });
      await send(event, member);
    } catch (error) {
      // What the server refuses for good is set aside; all else is tried again later.
      if (!(error.responseCode >= 500)) throw error;
      await db.query(`SELECT ${schema}.fail_event($1, $2, $3)`, [consumer, event.id, error.message]);
    }
    // After each mail: a crash then repeats one mail, not fifty.
    await db.query(`SELECT ${schema}.ack_events($1, $2)`, [consumer, event.id]);
  }
  return events.length;
}

async function run() {
  const db = new Client();
  let lost = null;
  db.on('error', (error) => { lost = error; wake(); });
  db.on('notification', () => wake());
  await db.connect();
  try {
    await db.query('LISTEN crm');
    while (!stopping && !lost) {
      // The notification is a hint and may be missed: look once a minute all the same.
      if (await work(db) === 0) await pause(60000);
    }
    if (lost) throw lost;
  } finally {
    await db.end().catch(() => {});
  }
}

async function main() {
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => { stopping = true; wake(); });
  while (!stopping) {
    try {
      await run();
    } catch (error) {
      console.error(error.message || error);
      if (!stopping) await pause(Number(process.env.RETRY_MS || 5000));
    }
  }
}

main();
