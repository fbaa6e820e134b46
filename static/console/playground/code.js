// A request as a program would send it: bytes for bytes the body that the playground sends, by curl and by OpenAI's SDK.
const OF_THE_SDK = new Set([
  "model", "messages", "temperature", "top_p", "max_tokens", "seed", "stop", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty",
]);

export function asCurl(body) {
  // A quoted here-document: the shell reads nothing into it, and no line of JSON is the bare word JSON.
  return `# export PILOTHOUSE_KEY=ph_...
curl --silent --show-error ${location.origin}/v1/chat/completions \\
  --header "Authorization: Bearer $PILOTHOUSE_KEY" \\
  --header "Content-Type: application/json" \\
  --data-binary @- <<'JSON'
${JSON.stringify(body, null, 2)}
JSON
`;
}

export function asPython(body) {
  const names = Object.keys(body);
  const beyond = Object.fromEntries(names.filter((name) => !OF_THE_SDK.has(name)).map((name) => [name, body[name]]));
  const lines = names.filter((name) => OF_THE_SDK.has(name)).map((name) => `    ${name}=${literal(body[name], "    ")},`);
  if (Object.keys(beyond).length) lines.push(`    extra_body=${literal(beyond, "    ")},`);
  return `# pip install openai; export PILOTHOUSE_KEY=ph_...
import os

from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key=os.environ["PILOTHOUSE_KEY"])
answer = client.chat.completions.create(
${lines.join("\n")}
)
print(answer.choices[0].message.content)
`;
}

// A JSON value in Python's words. A string of JSON is one of Python's, too.
function literal(value, indent) {
  const deeper = `${indent}    `;
  if (Array.isArray(value)) return `[\n${value.map((one) => `${deeper}${literal(one, deeper)},\n`).join("")}${indent}]`;
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one, indent)}`).join(", ")}}`;
}
