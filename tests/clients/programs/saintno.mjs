// @saintno/comfyui-sdk, as its README shows it.

import { drive, installed, url } from "./exchange.mjs";

const { CallWrapper, ComfyApi, PromptBuilder } = installed("@saintno/comfyui-sdk");

const api = new ComfyApi(url.origin).init();
const connected = new Promise((resolve) => api.on("connected", resolve));
await api.waitForReady();
await connected;

const run = (prompt) =>
  new Promise((resolve, reject) => {
    const builder = new PromptBuilder(prompt, ["seed"], ["images"])
      .setInputNode("seed", "3.inputs.seed")
      .setOutputNode("images", "9")
      .input("seed", prompt["3"].inputs.seed);
    new CallWrapper(api, builder)
      .onFinished((data) => resolve(data.images.images))
      .onFailed((error) => reject(error))
      .run();
  });

await drive(async (prompt) => {
  const images = await run(prompt);
  return Promise.all(images.map(async (image) => (await api.getImage(image)).arrayBuffer()));
});
api.destroy();
