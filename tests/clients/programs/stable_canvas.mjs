// @stable-canvas/comfyui-client, as its README shows it: the prompts of the test as workflows of its own making.

import { drive, installed, url } from "./exchange.mjs";

const { Client, Workflow } = installed("@stable-canvas/comfyui-client");

const client = new Client({ api_host: url.host, WebSocket: installed("ws") });
await client.connect();

/** The same nodes, made by its functions, each after those that it needs. */
function workflow(prompt) {
  const made = new Workflow();
  const outputs = {};
  const node = (id) => {
    if (outputs[id]) return outputs[id];
    const inputs = Object.entries(prompt[id].inputs).map(([name, value]) => [
      name,
      Array.isArray(value) ? node(value[0])[value[1]] : value,
    ]);
    outputs[id] = made.node(prompt[id].class_type, Object.fromEntries(inputs));
    return outputs[id];
  };
  Object.keys(prompt).forEach(node);
  return made;
}

await drive(async (prompt) => {
  const result = await workflow(prompt).invoke(client);
  return Promise.all(
    result.images.map(async (image) =>
      image.type === "buff" ? image.data : (await fetch(image.data)).arrayBuffer(),
    ),
  );
});
client.close();
