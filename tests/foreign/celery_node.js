// Calls gpner.extract from Node: `node celery_node.js URL NAMESPACE PROTOCOL CALLS`, where CALLS is JSON, a list of
// [documents, options]. Prints what came of each, as JSON.
const { createClient } = require("celery-node");

const [url, namespace, protocol, calls] = process.argv.slice(2);
const client = createClient(url, url, "tasks");
client.conf.TASK_PROTOCOL = Number(protocol);
// Every key of the service begins with its namespace; celery-node itself knows no such thing, its Redis client does.
client.conf.CELERY_BROKER_OPTIONS = client.conf.CELERY_BACKEND_OPTIONS = { keyPrefix: namespace };

const extract = client.createTask("gpner.extract");
const results = JSON.parse(calls).map(([documents, options]) => extract.applyAsync([documents], options));
Promise.allSettled(results.map((result) => result.get(30000, 50))).then(async (ended) => {
  console.log(JSON.stringify(ended.map((end) => (end.status === "fulfilled" ? end.value : { ...end.reason }))));
  await client.disconnect();
});
