// An app on the official SDK for Node that sends every call with an Idempotency-Key. Reads where to from standard input, and tells what it
// got as one JSON object.
//
//     node keyed.mjs FOLDER      the folder that the SDK is installed in

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const { OpenAI } = createRequire(join(process.argv[2], "app.js"))("openai");
const plan = JSON.parse(readFileSync(0, "utf8"));
const app = new OpenAI({ baseURL: plan.base_url, apiKey: plan.key, maxRetries: 0, timeout: 30000 });
const keyed = (key) => ({ headers: { "Idempotency-Key": `${plan.name}-${key}` } });

async function whole() {
  const answer = await app.chat.completions.create(plan.asked, keyed("whole")).asResponse();
  return { text: await answer.text(), replayed: answer.headers.get("idempotent-replayed") !== null };
}

const stream = () => app.chat.completions.create({ ...plan.asked, stream: true }, keyed("stream"));

async function all(items) {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}

const answers = await Promise.all([whole(), whole()]);
answers.push(await whole());

const cut = await stream();
const { value: first } = await cut[Symbol.asyncIterator]().next();
cut.controller.abort();
const retried = await all(await stream());
const replayed = await all(await stream());

process.stdout.write(JSON.stringify({ answers, first, retried, replayed }));
