"use strict";
const $ = (id) => document.getElementById(id);
const SIDES = 100; // pixels, below which a picture is enlarged with its pixels seen
const SHOWN = 6; // classes with a bar
let token = sessionStorage.getItem("token") || "";
let model = null;

async function ask(path, options = {}) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(told.error || `the server answers ${answer.status}`), { status: answer.status });
  return told;
}

function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

const percent = (p) => `${(100 * p).toFixed(p > 0.9995 || p < 0.0005 ? 2 : 1)} %`;

function add(parent, name, text, kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  parent.append(made);
  return made;
}

async function open() {
  try {
    model = await ask("model");
  } catch (error) {
    if (error.status === 401) {
      $("name").textContent = "A token, please";
      $("access").hidden = false;
      if (token) say("this token is not accepted", true);
      token = "";
      sessionStorage.removeItem("token");
      $("token").focus();
    } else if (error.status === 503) {
      say("the network is being loaded");
      setTimeout(open, 1000);
    } else {
      say(error.message, true);
    }
    return;
  }
  $("access").hidden = true;
  $("drop").hidden = false;
  $("name").textContent = model.name;
  document.title = `${model.name}: classify pictures`;
  const many = model.classes.length > 8 ? `${model.classes.length} classes` : model.classes.join(", ");
  const two = model.positive ? `; ${model.positive} is called from ${percent(model.threshold)} on` : "";
  $("about").textContent = `${many}${two}. Version ${model.version}.`;
  $("lines").replaceChildren();
  for (const line of model.card.lines) add($("lines"), "p", line);
  for (const line of model.card.warnings) add($("lines"), "p", line, "warning");
  $("card").hidden = !$("lines").childElementCount;
  say("");
}

function bars(parent, prediction) {
  const found = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  const shown = found.slice(0, SHOWN);
  if (!shown.some(([name]) => name === prediction.predicted)) shown.push([prediction.predicted, prediction.probability]);
  for (const [name, p] of shown) {
    const bar = add(parent, "div", "", name === prediction.predicted ? "bar called" : "bar");
    add(bar, "span", name);
    add(bar, "span", percent(p));
    add(add(bar, "i", ""), "b", "").style.width = `${100 * p}%`;
  }
  if (found.length > shown.length) add(parent, "p", `and ${found.length - shown.length} less probable classes`, "muted");
}

function sureness(prediction) {
  const others = Object.entries(prediction.probabilities).filter(([name]) => name !== prediction.predicted);
  const next = others.reduce((best, entry) => (entry[1] > best[1] ? entry : best), ["", -1]);
  const p = percent(prediction.probability);
  if (prediction.probability < next[1]) return `${p}: called by the threshold, though ${next[0]} is more probable`;
  if (prediction.probability - next[1] < 0.2) return `${p}: hardly more than ${next[0]}`;
  return prediction.probability < 0.9 ? `${p}: fairly sure` : `${p}: sure`;
}

async function look(part, file, button) {
  button.disabled = true;
  try {
    const told = await ask("predict?explain=1", { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } });
    const image = part.querySelector(".places");
    image.src = told.predictions[0].places;
    image.alt = `the places that speak for ${told.predictions[0].predicted}, bright`;
    part.querySelector(".seen").hidden = false;
    button.hidden = true;
  } catch (error) {
    button.disabled = false;
    say(error.message, true);
  }
}

async function classify(file) {
  const part = $("result").content.cloneNode(true).firstElementChild;
  const image = part.querySelector(".own");
  image.alt = file.name;
  image.onload = () => {
    image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < SIDES);
    URL.revokeObjectURL(image.src);
  };
  image.onerror = () => image.remove(); // a format that the browser does not show
  image.src = URL.createObjectURL(file);
  part.querySelector("figcaption").textContent = file.name;
  const title = part.querySelector("h2");
  title.textContent = "...";
  $("results").prepend(part);
  try {
    const told = await ask("predict", { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } });
    const prediction = told.predictions[0];
    title.textContent = prediction.predicted;
    part.querySelector(".sure").textContent = sureness(prediction);
    const warning = part.querySelector(".warning");
    warning.hidden = !prediction.warning;
    warning.textContent = prediction.warning ? "Unlike the images that it was trained on: do not rely on this class." : "";
    bars(part.querySelector(".bars"), prediction);
    const button = part.querySelector(".look");
    button.hidden = !model.shows_places;
    button.onclick = () => look(part, file, button);
    return prediction.predicted;
  } catch (error) {
    title.textContent = "Not classified";
    part.querySelector(".sure").textContent = error.message;
    return "";
  }
}

async function take(files) {
  let done = 0;
  for (const file of files) {
    say(files.length > 1 ? `picture ${done + 1} of ${files.length}` : "looking at it");
    const name = await classify(file);
    done += 1;
    say(files.length > 1 ? `${done} of ${files.length} pictures done` : name ? `it is called ${name}` : "it could not be classified", !name && files.length === 1);
  }
}

$("access").onsubmit = (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  sessionStorage.setItem("token", token);
  open();
};
$("files").onchange = () => {
  take([...$("files").files]);
  $("files").value = "";
};
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && model && event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  });
}
document.addEventListener("paste", (event) => {
  if (model && event.clipboardData.files.length) take([...event.clipboardData.files]);
});
open();
