// An app on the official SDK for Node. Reads its cases from standard input, and tells of each what came of it, as one JSON array.
//
//     node app.mjs FOLDER      the folder that the SDK is installed in
//
// The rule a reader could break: an app that gets no exception says so (error: null), whatever it got.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const { OpenAI } = createRequire(join(process.argv[2], "app.js"))("openai");
const plan = JSON.parse(readFileSync(0, "utf8"));
const app = new OpenAI({ baseURL: plan.base_url, apiKey: plan.key, maxRetries: 0, timeout: 30000 });

async function live(one) {
  const items = [];
  const surface = one.surface === "chat" ? app.chat.completions : app.responses;
  try {
    const answer = await surface.create(one.asked, { headers: { "x-request-id": one.id } });
    if (one.stream) for await (const item of answer) items.push(item);
    else items.push(answer);
    return { id: one.id, items, error: null, code: null };
  } catch (error) {
    return { id: one.id, items, error: error.constructor.name, code: error.code ?? null };
  }
}

const left = [...plan.cases];
const told = [];
await Promise.all(
  Array.from({ length: plan.at_once }, async () => {
    for (let one = left.shift(); one !== undefined; one = left.shift()) told.push(await live(one));
  }),
);
process.stdout.write(JSON.stringify(told));
