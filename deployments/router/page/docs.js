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
  if (spec.requestBody) made.append(body("Request", spec.requestBody.content));
  for (const [status, answer] of Object.entries(spec.responses)) {
    if (status === "200") made.append(body("200 " + answer.description, answer.content));
    else made.append(element("p", "", element("code", "", status), " " + answer.description));
  }
  return made;
}

function show(api) {
  schemas = api.components.schemas;
  main.replaceChildren(element("h1", "", api.info.title + " ", element("small", "", api.info.version)),
    element("p", "", api.info.description));
  const groups = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const [method, spec] of Object.entries(item)) {
      const tag = spec.tags[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(operation(path, method, spec));
    }
  }
  for (const [tag, operations] of groups) main.append(element("h2", "", tag), ...operations);
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
    const headers = key ? { "x-api-key": key } : {};
    const answer = await fetch("openapi.json", { headers, credentials: "omit", cache: "no-store" });
    if (answer.status === 401) askForKey(key ? "This is not a valid API key." : "Which API key?");
    else if (answer.ok) show(await answer.json());
    else main.replaceChildren(element("p", "", "There is no description for you here: " + answer.status));
  } catch {
    main.replaceChildren(element("p", "", "The description could not be fetched."));
  }
}

load("");
