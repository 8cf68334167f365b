// The TypeScript SDK as a client of the conformance fixture behind a node: `typescript.mjs PACKAGES legacy|modern URL KEY`,
// where PACKAGES is the folder that holds node_modules. Prints what it saw as one JSON object; the test says what it
// should have been.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [packages, era, url, key] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${packages}/package.json`));
const { Client, StreamableHTTPClientTransport } = await import(
  pathToFileURL(require.resolve('@modelcontextprotocol/client')).href
);
const uri = 'test://static-text';
const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

const seen = { asked: [], progress: [], updated: false };
const options = { capabilities: { elicitation: { form: {} } } };
if (era === 'modern') options.versionNegotiation = { mode: { pin: '2026-07-28' } };
const client = new Client({ name: 'test', version: '1' }, options);
client.setRequestHandler('elicitation/create', async (request) => {
  seen.asked.push(request.params.message);
  return { action: 'accept', content: { username: 'ada', email: 'ada@example.org' } };
});
client.setNotificationHandler('notifications/resources/updated', (notification) => {
  seen.updated ||= notification.params.uri === uri;
});
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { Authorization: `Bearer ${key}` } },
});
await client.connect(transport);

seen.tools = (await client.listTools()).tools.map((tool) => tool.name);
seen.text = (await client.callTool({ name: 'test_simple_text', arguments: {} })).content[0].text;
await client.callTool(
  { name: 'test_tool_with_progress', arguments: {} },
  { onprogress: ({ progress }) => seen.progress.push(progress) },
);
seen.read = (await client.readResource({ uri })).contents[0].text;
const subscription =
  era === 'modern'
    ? await client.listen({ resourceSubscriptions: [uri] })
    : await client.subscribeResource({ uri });
for (let attempt = 0; attempt < 40 && !seen.updated; attempt++) {
  await client.callTool({ name: 'test_trigger_resource_change', arguments: { uri } });
  await sleep(250);
}
seen.elicited = (
  await client.callTool({ name: 'test_elicitation', arguments: { message: 'who are you?' } })
).content[0].text;
await subscription?.close?.();
await client.close();
console.log(JSON.stringify(seen));
process.exit(0);
