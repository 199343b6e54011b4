// The page of `kblam serve`. What comes from a knowledge base or a model is put in as text, never as HTML.
"use strict";

const at = (id) => document.getElementById(id);
const MOST_SHOWN = 50;
const LEAST_SHOWN = 0.005; // of the attention, as `kblam ask` draws it
let key = "";
let running = null; // what stops the answer in progress
let looking = 0; // the newest search; older ones come to nothing
let byRag = new Map(); // of each base, the model that answers by RAG, if the server has it

function made(kind, text = "", className = "") {
  const element = document.createElement(kind);
  element.textContent = text;
  element.className = className;
  return element;
}

// A text in a direction of its own: what it says cannot turn the words around it.
function isolated(text) {
  return made("bdi", text);
}

function show(element, isShown = true) {
  element.hidden = !isShown;
}

function say(element, error) {
  element.textContent = error === null ? "" : error.message;
  show(element, error !== null);
}

async function call(method, path, body, signal) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server cannot be reached");
  }
  if (response.ok) return response;
  if (response.status === 401) show(at("key-form"));
  let message = `the server answered ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {}
  throw new Error(message);
}

// The JSON of each server-sent event.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: {")) yield JSON.parse(line.slice(6));
    }
  }
}

async function connect() {
  try {
    const health = await (await call("GET", "/health")).json();
    at("about").textContent = `${health.model}, engine: ${health.engine}, version ${health.version}`;
    const all = (await (await call("GET", "/v1/models")).json()).data;
    const models = all.filter((model) => !model.kblam.rag);
    byRag = new Map(all.filter((model) => model.kblam.rag).map((model) => [model.kblam.knowledge_base, model.id]));
    const chosen = at("base").value;
    at("base").replaceChildren(
      ...models.map((model) => {
        const option = made("option", model.kblam.knowledge_base ?? "none: the model alone");
        option.value = model.id;
        option.dataset.base = model.kblam.knowledge_base ?? "";
        return option;
      }),
    );
    const first = models.find((model) => model.id === chosen) ?? models.find((model) => model.kblam.knowledge_base) ?? models[0];
    at("base").value = first.id;
    show(at("key-form"), false);
    say(at("ask-error"), null);
    await refresh();
  } catch (error) {
    say(at("ask-error"), error);
  }
}

const base = () => at("base").selectedOptions[0]?.dataset.base ?? "";
const triplesPath = () => `/v1/knowledge/${encodeURIComponent(base())}/triples`;

// Where an answer is shown; RAG's beside the other.
const OURS = { prefix: "", refused: "refused: the knowledge base does not say" };
const RAG = { prefix: "rag-", refused: "refused: the facts in the prompt do not say" };

async function ask() {
  running?.abort();
  const mine = (running = new AbortController());
  const rag = at("compare").checked ? byRag.get(base()) : undefined;
  for (const { prefix } of [OURS, RAG]) {
    for (const id of ["verdict", "evidence-title"]) show(at(prefix + id), false);
    for (const id of ["answer", "figures", "evidence"]) at(prefix + id).replaceChildren();
  }
  for (const id of ["rag", "ours-title"]) show(at(id), rag !== undefined);
  say(at("ask-error"), null);
  show(at("result"));
  show(at("stop"));
  at("ask").disabled = true;
  const question = at("question").value;
  let where = OURS;
  try {
    await hear(at("base").value, question, where, mine.signal);
    if (rag !== undefined) {
      // One after the other, so that neither waits for the other and the times are their own.
      where = RAG;
      at("rag-figures").textContent = "asking";
      await hear(rag, question, where, mine.signal);
    }
  } catch (error) {
    if (running === mine) at(`${where.prefix}figures`).textContent = error.name === "AbortError" ? "stopped" : "";
    if (error.name !== "AbortError") say(at("ask-error"), error);
  } finally {
    if (running === mine) {
      running = null;
      show(at("stop"), false);
      at("ask").disabled = false;
    }
  }
}

// Asks one model, and shows what it says as it comes.
async function hear(model, question, where, signal) {
  const began = performance.now();
  let first = null;
  const body = {
    model,
    messages: [{ role: "user", content: question }],
    stream: true,
    stream_options: { include_usage: true },
  };
  const response = await call("POST", "/v1/chat/completions", body, signal);
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    const text = event.choices[0]?.delta.content;
    if (text) {
      first ??= performance.now() - began;
      at(`${where.prefix}answer`).textContent += text;
    }
    if (event.kblam) showBasis(event.kblam, where);
    if (event.usage) showFigures(event.usage, first, performance.now() - began, where);
  }
}

function showBasis(found, { prefix, refused }) {
  if (found.text !== undefined) at(`${prefix}answer`).textContent = found.text;
  at(`${prefix}verdict`).textContent = refused;
  show(at(`${prefix}verdict`), found.refused ?? false);
  const seen = found.retrieved ?? (found.evidence ?? []).filter((one) => one.mass >= LEAST_SHOWN);
  show(at(`${prefix}evidence-title`), seen.length > 0);
  at(`${prefix}evidence`).replaceChildren(
    ...seen.map((one) => {
      const share = one.mass ?? one.cosine;
      const item = made("li");
      const bar = made("div", "", "bar");
      const part = made("span");
      part.style.width = `${Math.round(100 * Math.max(0, share))}%`;
      bar.append(part);
      item.append(isolated(`${share.toFixed(2)} `), "the ", isolated(one.property), " of ", isolated(one.name), ": ");
      item.append(isolated(one.value), one.changed ? " (changed meanwhile)" : "", bar, ...one.sources.map(shownSource));
      return item;
    }),
  );
}

function shownSource(source) {
  const line = made("div", "", "source");
  line.append(isolated(source.document), source.page ? `, page ${source.page}: ` : ": ", "“", isolated(source.quote), "”");
  return line;
}

function showFigures(usage, first, total, { prefix }) {
  const parts = [`${usage.completion_tokens} tokens in ${(total / 1000).toFixed(2)} s`];
  if (first !== null) parts.push(`first after ${Math.round(first)} ms`);
  parts.push(`${(usage.completion_tokens / (total / 1000)).toFixed(1)} tokens/s`);
  at(`${prefix}figures`).textContent = parts.join(", ");
}

async function refresh() {
  const turn = ++looking;
  show(at("facts"), base() !== "");
  show(at("compare-line"), byRag.has(base()));
  if (!base()) return;
  try {
    const query = new URLSearchParams({ search: at("search").value, limit: MOST_SHOWN });
    const found = await (await call("GET", `${triplesPath()}?${query}`)).json();
    if (turn !== looking) return;
    const shown = found.has_more ? `the first ${found.data.length}` : `${found.data.length}`;
    at("count").textContent = `${shown} shown; ${found.triples} in ${base()}, revision ${found.revision}`;
    at("triples").replaceChildren(...found.data.map(shownTriple));
  } catch (error) {
    say(at("fact-error"), error);
  }
}

function shownTriple(triple) {
  const item = made("li");
  const text = made("span", "the ");
  text.append(isolated(triple.property), " of ", isolated(triple.name), ": ", isolated(triple.value));
  const button = made("button", "Remove", "plain");
  button.type = "button";
  button.setAttribute("aria-label", `Remove the ${triple.property} of ${triple.name}`);
  button.addEventListener("click", () => change("DELETE", triple));
  item.append(text, button);
  return item;
}

async function change(method, triple) {
  say(at("fact-error"), null);
  at("fact-done").textContent = "saving";
  try {
    const { name, property } = triple;
    const path = method === "PUT" ? triplesPath() : `${triplesPath()}?${new URLSearchParams({ name, property })}`;
    const done = await (await call(method, path, method === "PUT" ? triple : undefined)).json();
    const what = done.removed ? "removed" : done.added ? "added" : done.updated ? "changed" : "known already";
    at("fact-done").textContent = `${what}; revision ${done.revision}`;
    show(at("again"), at("question").value !== "");
    await refresh();
  } catch (error) {
    at("fact-done").textContent = "";
    say(at("fact-error"), error);
  }
}

function on(id, event, action) {
  at(id).addEventListener(event, (given) => {
    if (event === "submit") given.preventDefault();
    action();
  });
}

on("key-form", "submit", () => {
  key = at("key").value;
  at("key").value = "";
  connect();
});
on("ask-form", "submit", ask);
on("again", "click", ask);
on("stop", "click", () => running?.abort());
on("base", "change", refresh);
on("search", "input", refresh);
on("fact-form", "submit", () =>
  change("PUT", { name: at("fact-name").value, property: at("fact-property").value, value: at("fact-value").value }),
);
connect();
