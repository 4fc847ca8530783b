// comfy-ui-client, as its README shows it.

import { randomUUID } from "node:crypto";
import { drive, installed, url } from "./exchange.mjs";

const { ComfyUIClient } = installed("comfy-ui-client");

const client = new ComfyUIClient(url.host, randomUUID());
await client.connect();
await drive(async (prompt) => {
  const outputs = await client.getImages(prompt);
  return Promise.all(Object.values(outputs).flat().map((image) => image.blob.arrayBuffer()));
});
await client.disconnect();
