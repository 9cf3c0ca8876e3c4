// Enqueues one document from Node without any library of ours, and prints its result:
// `node redis_stream.js URL NAMESPACE ID TEXT`.
const { createClient } = require("redis");

const [url, namespace, id, text] = process.argv.slice(2);

async function main() {
  const client = await createClient({ url }).connect();
  await client.xAdd(`${namespace}documents`, "*", { id, text, meta: JSON.stringify({ from: "node" }) });
  let result = null;
  while (result === null) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    result = await client.get(`${namespace}result:${id}`);
  }
  console.log(result);
  await client.close();
}

main();
