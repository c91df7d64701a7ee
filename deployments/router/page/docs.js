"use strict";
const main = document.getElementById("api");
let schemas = {};

// Only text nodes are made: nothing in the description can become markup.
function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

// Every schema that a schema refers to, itself included where it is a reference.
function referred(value, found = new Set()) {
  if (value && typeof value === "object") {
    for (const [key, part] of Object.entries(value)) {
      if (key === "$ref" && typeof part === "string") {
        const name = part.split("/").pop();
        if (!found.has(name)) { found.add(name); referred(schemas[name], found); }
      } else referred(part, found);
    }
  }
  return found;
}

function code(value) {
  return element("pre", "", JSON.stringify(value, null, 2));
}

function body(title, content) {
  const section = element("section", "", element("h4", "", title));
  for (const [media, { schema }] of Object.entries(content || {})) {
    section.append(element("p", "", element("code", "", media)), code(schema));
    for (const name of referred(schema)) {
      section.append(element("details", "", element("summary", "", name), code(schemas[name])));
    }
  }
  return section;
}

function operation(path, method, spec) {
  const head = element("summary", "", element("span", "method", method.toUpperCase()),
    element("code", "", path), element("span", "about", spec.summary || ""));
  const made = element("details", "", head);
  for (const { label, source } of spec["x-codeSamples"] || []) {
    made.append(element("details", "", element("summary", "", "Example: " + label), element("pre", "", source)));
  }
  if (spec.requestBody) made.append(body("Request", spec.requestBody.content));
  for (const [status, answer] of Object.entries(spec.responses)) {
    if (status === "200") made.append(body("200 " + answer.description, answer.content));
    else made.append(element("p", "", element("code", "", status), " " + answer.description));
  }
  return made;
}

function operations(api) {
  return Object.entries(api.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, spec]) => [spec.tags[0], operation(path, method, spec)]));
}

// A workflow says more of itself, with examples, to whoever wants to see it: that takes the place of what is shown here.
function more(docs, key, shown) {
  const button = element("button", "", docs.description);
  button.addEventListener("click", async () => {
    button.disabled = true;
    const answer = await ask(docs.url, key).catch(() => ({}));
    if (answer.ok) {
      const api = await answer.json();
      Object.assign(schemas, api.components.schemas);
      shown.replaceChildren(...operations(api).map(([, made]) => made));
      button.remove();
    } else {
      button.replaceWith("There is no more of it for you here.");
    }
  });
  return button;
}

function show(api, key) {
  schemas = api.components.schemas;
  main.replaceChildren(element("h1", "", api.info.title + " ", element("small", "", api.info.version)),
    element("p", "", api.info.description));
  const all = operations(api);
  for (const { name, description, externalDocs } of api.tags) {
    const shown = element("section", "", ...all.filter(([tag]) => tag === name).map(([, made]) => made));
    main.append(element("h2", "", name), element("p", "", description), shown);
    if (externalDocs) shown.before(more(externalDocs, key, shown));
  }
}

// Nothing is asked but this server, as its policy for this page says.
function ask(path, key) {
  return fetch(path, { headers: key ? { "x-api-key": key } : {}, credentials: "omit", cache: "no-store" });
}

// The key is in the field and in one request's header, and nowhere else: a reload forgets it.
function askForKey(complaint) {
  const field = Object.assign(element("input", ""), { type: "password", autocomplete: "off", ariaLabel: "API key" });
  const form = element("form", "", element("p", "", complaint), field, " ", element("button", "", "Show"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load(field.value.trim());
  });
  main.replaceChildren(form);
  field.focus();
}

async function load(key) {
  try {
    const answer = await ask("openapi.json", key);
    if (answer.status === 401) askForKey(key ? "This is not a valid API key." : "Which API key?");
    else if (answer.ok) show(await answer.json(), key);
    else main.replaceChildren(element("p", "", "There is no description for you here: " + answer.status));
  } catch {
    main.replaceChildren(element("p", "", "The description could not be fetched."));
  }
}

load("");
