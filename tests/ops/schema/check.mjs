// Prints what Grafana's types say against dashboards, a line each: `node check.mjs DASHBOARD...`, beside panels.ts.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import Ajv from 'ajv';
import { createGenerator } from 'ts-json-schema-generator';

const ajv = new Ajv({ strict: false, allErrors: true });
const validators = {};

// Each type by itself: the types of different kinds of panels have the same names.
function validator(type) {
  const path = fileURLToPath(new URL('panels.ts', import.meta.url));
  return (validators[type] ??= ajv.compile(createGenerator({ path, type, skipTypeCheck: true }).createSchema(type)));
}

function complain(name, type, value) {
  const validate = validator(type);
  for (const error of validate(value) ? [] : validate.errors) {
    console.log(`${name}${error.instancePath}: ${error.message} ${JSON.stringify(error.params)}`);
  }
}

for (const path of process.argv.slice(2)) {
  const { panels, ...around } = JSON.parse(readFileSync(path, 'utf8'));
  complain(around.title, 'dashboard', around);
  for (const panel of panels) {
    complain(panel.title, `panel_${panel.type.replace('-', '_')}`, panel);
  }
}
