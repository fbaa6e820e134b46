// What programs do with the official JavaScript SDK: BASE_URL KEY MODEL. Prints the scenario's name -> "ok", or what went wrong.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 120_000 });
const ask = { model, messages: [{ role: "user", content: "Name three colours of the rainbow." }], temperature: 0, max_tokens: 24 };

const scenarios = {
  async plain_and_streamed_text_are_the_same_at_temperature_0() {
    const plain = await client.chat.completions.create(ask);
    let text = "";
    for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
      text += chunk.choices[0]?.delta?.content ?? "";
    }
    assert.ok(text);
    assert.equal(text, plain.choices[0].message.content);
  },
  async usage_comes_in_the_last_chunk() {
    let last;
    const stream = await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) last = chunk;
    assert.deepEqual(last.choices, []);
    assert.ok(last.usage.completion_tokens > 0);
  },
  async helper_that_accumulates_a_stream_understands_every_event() {
    const final = await client.chat.completions.stream(ask).finalChatCompletion();
    assert.ok(final.choices[0].message.content);
  },
  async models_are_listed() {
    const names = [];
    for await (const one of client.models.list()) names.push(one.id);
    assert.ok(names.includes(model));
  },
  async wrong_key_is_an_authentication_error() {
    const stranger = new OpenAI({ baseURL, apiKey: "ph_wrong", maxRetries: 0 });
    await assert.rejects(stranger.chat.completions.create(ask), OpenAI.AuthenticationError);
  },
  async unknown_model_is_a_not_found_error() {
    await assert.rejects(client.chat.completions.create({ ...ask, model: "gpt-none" }), OpenAI.NotFoundError);
  },
  async refused_field_is_a_bad_request_error_that_names_it() {
    await assert.rejects(
      client.chat.completions.create({ ...ask, response_format: { type: "json_object" } }),
      (error) => error instanceof OpenAI.BadRequestError && error.code === "unsupported_parameter" && error.param === "response_format",
    );
  },
  async aborted_stream_ends_without_an_error() {
    const stream = await client.chat.completions.create({ ...ask, max_tokens: 500, stream: true });
    let chunks = 0;
    for await (const _ of stream) {
      if (++chunks === 3) stream.controller.abort();
    }
    assert.ok(chunks < 100);
  },
};

const results = {};
for (const [name, scenario] of Object.entries(scenarios)) {
  try {
    await scenario();
    results[name] = "ok";
  } catch (error) {
    results[name] = String(error.stack ?? error);
  }
}
console.log(JSON.stringify({ results }));
process.exit(0);
