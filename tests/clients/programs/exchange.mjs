// What a test and a program that drives a client tell each other: prompts in, images out, as JSON.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

/** Where the clients are installed. */
export const installed = createRequire(join(process.env.COMFYGATE_CLIENTS, "package.json"));

/** The port's address: `node program URL RESULT < task`. */
export const url = new URL(process.argv[2]);

/** Have each prompt run, all at once if so told, and hand over its images (anything that Buffer.from takes). */
export async function drive(run) {
  const { prompts, together } = JSON.parse(readFileSync(0));
  const images = [];
  if (together) {
    images.push(...(await Promise.all(prompts.map(run))));
  } else {
    for (const prompt of prompts) images.push(await run(prompt));
  }
  const texts = images.map((each) => each.map((one) => Buffer.from(one).toString("base64")));
  writeFileSync(process.argv[3], JSON.stringify(texts));
}
