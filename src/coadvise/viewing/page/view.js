// The page of `coadvise view`: shows what one or two runs say of an image. Texts of others are never read as HTML.
"use strict";

const HEAD = { "X-Coadvise-View": "1" };
const WAIT = 140; // ms after which a slider that rests is asked about
const SHOWN = 24; // validation images at once
const get = (id) => document.getElementById(id);

const state = { about: null, source: null, choice: 0, asked: 0, abort: null, first: 0, listed: 0, replies: null, timer: 0, spoken: 0 };

function make(tag, text = "", classes = "") {
  const element = document.createElement(tag);
  if (text !== "") element.textContent = text;
  if (classes) element.className = classes;
  return element;
}

// One decimal; what rounds to all or nothing without being it keeps a sign.
function percent(p) {
  const shown = (100 * p).toFixed(1);
  if (shown === "0.0") return p > 0 ? "<0.1 %" : "0.0 %";
  return shown === "100.0" && p < 1 ? ">99.9 %" : `${shown} %`;
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("coadvise view does not answer any more; start it again in the terminal");
  }
  const told = await response.json();
  if (!response.ok) {
    const error = new Error(told.error);
    error.status = response.status;
    throw error;
  }
  return told;
}

function fail(error) {
  if (error.name === "AbortError") return;
  get("error").textContent = error.message;
  get("error").hidden = false;
  for (const run of document.querySelectorAll(".run")) run.classList.remove("waiting");
}

// --- choosing an image

// Choices are counted: what has been read counts only if nothing else was chosen since.
async function takeFile(file, again = 0) {
  if (!file || (again && again !== state.choice)) return;
  get("error").hidden = true;
  const limit = state.about.limits.bytes;
  if (file.size > limit) {
    fail(new Error(`${file.name || "the image"} has ${Math.ceil(file.size / 2 ** 20)} MiB, at most ${limit / 2 ** 20} are taken; shrink it`));
    return;
  }
  const choice = again || ++state.choice;
  get("chosen").textContent = `Reading ${file.name || "the image"} …`;
  try {
    const { image } = await ask("image", { method: "POST", headers: HEAD, body: file });
    if (choice !== state.choice) return;
    state.source = { image, file, name: file.name || "pasted image", choice };
    await question();
  } catch (error) {
    if (choice !== state.choice) return;
    get("chosen").textContent = state.source ? `Shown: ${state.source.name}` : "No image yet.";
    fail(error);
  }
}

function takeValidation(index) {
  get("error").hidden = true;
  state.choice += 1;
  state.source = { validation: index, name: `validation image ${index}` };
  for (const button of document.querySelectorAll("#images button"))
    button.setAttribute("aria-current", String(button.dataset.index === String(index)));
  return question();
}

function imageOf(list) {
  const files = [...list.files];
  return files.find((file) => file.type.startsWith("image/")) || files[0];
}

function watchChoosing() {
  get("file").addEventListener("change", () => {
    takeFile(get("file").files[0]);
    get("file").value = ""; // the same file may be chosen again
  });
  let depth = 0;
  addEventListener("dragenter", () => document.body.classList.toggle("dragging", ++depth > 0));
  addEventListener("dragleave", () => document.body.classList.toggle("dragging", --depth > 0));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    document.body.classList.remove("dragging");
    const file = imageOf(event.dataTransfer);
    if (file) takeFile(file);
    else fail(new Error("that was no file: this page fetches nothing from elsewhere; save the image and drop the file"));
  });
  addEventListener("paste", (event) => {
    const file = imageOf(event.clipboardData);
    if (file) takeFile(file);
    else if (!(event.target instanceof HTMLInputElement)) fail(new Error("there is no image on the clipboard; copy one, and paste again"));
  });
}

// --- asking

function later() {
  clearTimeout(state.timer);
  state.timer = setTimeout(question, WAIT);
}

async function question() {
  clearTimeout(state.timer);
  if (!state.source) return;
  const { image = null, validation = null, name } = state.source;
  const body = { image, validation, kind: get("kind").value, severity: Number(get("severity").value), by: get("by").value };
  if (state.abort) state.abort.abort();
  state.abort = new AbortController();
  const number = ++state.asked;
  for (const run of document.querySelectorAll(".run")) run.classList.add("waiting");
  let reply;
  try {
    reply = await ask("question", { method: "POST", headers: HEAD, body: JSON.stringify(body), signal: state.abort.signal });
  } catch (error) {
    if (error.status === 410 && state.source.file) return takeFile(state.source.file, state.source.choice);
    if (number === state.asked) fail(error);
    return;
  }
  if (number !== state.asked) return; // another one was asked since
  get("error").hidden = true;
  get("chosen").textContent = `Shown: ${name}` + (reply.label ? `, labelled ${reply.label.join(", ") || "with no class"}` : "");
  state.replies = reply;
  show();
  speak();
}

// The live region waits until the slider rests: it is read aloud.
function speak() {
  clearTimeout(state.spoken);
  state.spoken = setTimeout(() => {
    const two = state.about.runs.length > 1;
    const level = Number(get("severity").value);
    const changed = level ? `With ${get("kind").value.replaceAll("_", " ")} ${level}: ` : "";
    const said = state.about.runs.map((run, i) => (two ? `${run.name}: ` : "") + verdict(run, state.replies.runs[i]));
    get("status").textContent = changed + said.join(" ");
  }, 250);
}

// --- what is said

const named = (run, odds) => {
  if (run.several) return run.classes.filter((_, i) => odds[i] > 0.5);
  return [run.classes[odds.indexOf(Math.max(...odds))]];
};
const words = (names) => names.join(", ") || "none";

function verdict(run, said) {
  const of = (output) => words(named(run, said.odds[output.name]));
  const own = said.odds.class;
  const sure = run.several ? "" : ` (${percent(Math.max(...own))})`;
  const parts = [`The ${run.outputs[0].title} says ${words(named(run, own))}${sure}.`];
  for (const [kind, one, many] of [["token", "advised token", "advised tokens"], ["teacher", "teacher", "teachers"]]) {
    const outputs = run.outputs.filter((output) => output.kind === kind);
    const answers = new Set(outputs.map(of));
    if (!outputs.length) continue;
    const start = outputs.length > 1 ? `The ${many}` : `The ${one}`;
    if (answers.size === 1) parts.push(`${start} say${outputs.length > 1 ? "" : "s"} ${[...answers][0]}.`);
    else parts.push(`${start} disagree: ${outputs.map((o) => `${o.title.replace(/^teacher | token$/, "")} ${of(o)}`).join("; ")}.`);
  }
  return parts.join(" ");
}

function show() {
  if (!state.replies) return;
  document.querySelectorAll(".run").forEach((place, i) => {
    const run = state.about.runs[i];
    const said = state.replies.runs[i];
    place.classList.remove("waiting");
    place.querySelector(".results").hidden = false;
    showVerdict(place.querySelector(".verdict"), run, said);
    showLooks(place.querySelector(".looks"), run, said);
    showTable(place, run, said);
    showNear(place, run, said, i);
  });
}

function showVerdict(place, run, said) {
  place.replaceChildren(document.createTextNode(verdict(run, said)));
  const label = state.replies.label;
  if (!label || !label.every((name) => run.classes.includes(name))) return;
  const right = words(named(run, said.odds.class)) === words(label);
  place.append(" ", make("strong", right ? "That is right." : `Its label is ${words(label)}.`, right ? "good" : "bad"));
}

function showLooks(place, run, said) {
  const picture = new Image();
  picture.onload = () => {
    const figures = [figure(picture, null, "what the model sees", `${run.side} × ${run.side} px`, said)];
    for (const output of run.outputs.filter((one) => said.maps[one.name])) {
      const grid = said.maps[output.name];
      const total = grid.flat().reduce((sum, value) => sum + value, 0);
      // The map is the class token's, also where the mean of all heads answers.
      const title = output.kind === "class" ? "class token" : output.title;
      figures.push(figure(picture, grid, title, `${(100 * total).toFixed(0)} % on patches, ${where(grid)}`, said));
    }
    place.replaceChildren(...figures);
  };
  picture.src = `data:image/png;base64,${said.picture}`;
}

function figure(picture, grid, title, note, said) {
  const found = make("figure");
  const canvas = make("canvas");
  canvas.width = canvas.height = 336;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", grid ? `Where the ${title} looks: ${note}` : `The image as the model sees it, ${note}`);
  draw(canvas, picture, grid);
  const caption = make("figcaption", title);
  caption.append(make("span", note));
  found.append(canvas, caption);
  return found;
}

function draw(canvas, picture, grid) {
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = picture.width > 64;
  const over = grid && get("overlay").checked;
  if (over) pen.filter = "grayscale(1) brightness(.8)";
  if (!grid || over) pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  pen.filter = "none";
  if (!grid) return;
  const most = Math.max(...grid.flat());
  const width = canvas.width / grid[0].length;
  const height = canvas.height / grid.length;
  grid.forEach((row, y) => row.forEach((value, x) => {
    const share = most > 0 ? value / most : 0;
    pen.fillStyle = `rgba(255, 140, 0, ${(over ? 0.78 : 1) * share})`;
    pen.fillRect(x * width, y * height, width + 0.5, height + 0.5);
  }));
}

// The centre of the attention, in words.
function where(grid) {
  const values = grid.flat();
  const total = values.reduce((sum, value) => sum + value, 0);
  if (Math.max(...values) < (1.5 * total) / values.length) return "spread evenly";
  let x = 0, y = 0;
  grid.forEach((row, i) => row.forEach((value, j) => {
    y += (value * (i + 0.5)) / grid.length / total;
    x += (value * (j + 0.5)) / row.length / total;
  }));
  const side = (value, low, high) => (value < 0.42 ? low : value > 0.58 ? high : "");
  const high = side(y, "upper", "lower"), wide = side(x, "left", "right");
  if (high && wide) return `most at the ${high} ${wide}`;
  return high ? `most at the ${high === "upper" ? "top" : "bottom"}` : wide ? `most at the ${wide}` : "most around the middle";
}

// Five classes: those that the class token finds likeliest, and what another output names first.
function rowsOf(run, said, all, wanted) {
  const own = said.odds.class;
  const order = run.classes.map((_, i) => i).sort((a, b) => own[b] - own[a]);
  if (all) return order.filter((i) => run.classes[i].toLowerCase().includes(wanted));
  const first = run.outputs.map((output) => said.odds[output.name]).map((odds) => odds.indexOf(Math.max(...odds)));
  return order.filter((i, place) => place < 5 || first.includes(i));
}

function showTable(place, run, said) {
  const all = get("all").checked;
  const filter = place.querySelector(".filter");
  filter.hidden = !(all && run.classes.length > 20);
  const wanted = filter.hidden ? "" : filter.querySelector("input").value.toLowerCase();
  const rows = rowsOf(run, said, all, wanted);
  const few = Math.min(5, run.classes.length);
  place.querySelector("caption").textContent = all
    ? `${rows.length} of ${run.classes.length} classes, the likeliest for the ${run.outputs[0].title} first`
    : `The ${few} likeliest of ${run.classes.length} classes for the ${run.outputs[0].title}` +
      (run.outputs.length > 1 ? ", and what the others name first" : "");
  const head = make("tr");
  head.append(column("class"));
  for (const output of run.outputs) {
    const cell = column(output.title);
    if (output.bias) cell.append(make("small", `kind: ${output.bias}`));
    head.append(cell);
  }
  place.querySelector("thead").replaceChildren(head);
  const label = state.replies.label || [];
  place.querySelector("tbody").replaceChildren(...rows.map((i) => {
    const row = make("tr", "", label.includes(run.classes[i]) ? "label" : "");
    const name = make("th", run.classes[i]);
    name.scope = "row";
    row.append(name, ...run.outputs.map((output) => bar(run, output, said.odds[output.name], i)));
    return row;
  }));
}

function column(text) {
  const cell = make("th", text);
  cell.scope = "col";
  return cell;
}

function bar(run, output, odds, i) {
  const names = run.several ? odds[i] > 0.5 : odds.indexOf(Math.max(...odds)) === i;
  const cell = make("td", "", output.kind + (names ? " named" : ""));
  cell.dataset.output = output.title;
  const track = make("span", "", "track");
  const fill = make("span", "", "fill");
  fill.style.width = `${100 * odds[i]}%`;
  track.append(fill);
  cell.append(track, make("span", percent(odds[i]), "number"));
  return cell;
}

function showNear(place, run, said, number) {
  place.querySelector(".near-title").textContent = `Nearest validation images on which ${run.disagreement}`;
  nearNote(place, run, said);
  fill(place.querySelector(".near"), said.near.map((one) => {
    const lines = run.outputs.map((output) => `${output.title}: ${words(one.answers[output.name])}`);
    const button = thumbnail(number, one.index, words(one.label), [...lines, `likeness ${one.likeness.toFixed(2)}`]);
    if (run.same_images) button.addEventListener("click", () => takeValidation(one.index));
    else button.disabled = true;
    const item = make("li");
    item.append(button);
    return item;
  }));
}

function showNotes() {
  document.querySelectorAll(".run").forEach((place, i) => {
    const said = state.replies.runs[i];
    nearNote(place, state.about.runs[i], said);
  });
}

function nearNote(place, run, said) {
  const way = said.by === "features" ? "the features that the classifier sees (cosine)" : "the pattern of all answers";
  const i = state.about.runs.indexOf(run);
  const { done, total, why } = state.progress[i];
  const asked = why ? `There are none: ${why}.` : `Nearest by ${way}, among ${done === total ? "" : `the first ${done} of `}${total} validation images.`;
  place.querySelector(".near-note").textContent = asked + (!why && done === total && !said.near.length ? " None of them is such a one." : "");
}

// New thumbnails in place of others; whoever stands on one with the keyboard stands on its successor.
function fill(list, items) {
  const at = [...list.children].findIndex((item) => item.contains(document.activeElement));
  list.replaceChildren(...items);
  if (at >= 0 && items.length) items[Math.min(at, items.length - 1)].firstChild.focus();
}

function thumbnail(run, index, title, lines) {
  const button = make("button");
  button.type = "button";
  button.dataset.index = index;
  const image = new Image();
  image.src = `validation/${run}/${index}-112.jpg`;
  image.alt = `Validation image ${index}`;
  image.loading = "lazy";
  image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth <= 64));
  button.append(image, make("b", title), ...lines.map((line) => make("span", line)));
  return button;
}

// --- validation images

async function showGallery() {
  const which = get("which").value;
  const number = ++state.listed;
  const found = await ask(`validation?which=${which}&first=${state.first}&count=${SHOWN}`);
  if (number !== state.listed) return; // others were asked for since
  if (!found.length && state.first) {
    state.first = 0;
    return showGallery();
  }
  fill(get("images"), found.map((one) => {
    const button = thumbnail(0, one.index, words(one.label), []);
    button.addEventListener("click", () => takeValidation(one.index));
    const item = make("li");
    item.append(button);
    return item;
  }));
  const { done, total, why } = state.progress[0];
  get("none").hidden = found.length > 0;
  get("none").textContent = why ? `There are none: ${why}.` : done < total ? "None yet: they are being looked for." : "There are none.";
}

async function follow() {
  const before = state.progress;
  state.progress = await ask("progress");
  const ended = state.progress.every(({ done, total, why }) => done === total || why);
  if (state.replies) {
    const grown = before && state.progress.some((one, i) => one.done === one.total && before[i].done < one.total);
    if (grown) await question();
    else showNotes();
  }
  // What a gallery shows may be found only now.
  const more = before && state.progress[0].done > before[0].done;
  if (more && get("gallery").open && get("which").value === "apart") await showGallery();
  if (!ended) setTimeout(() => follow().catch(fail), 1000);
}

// --- the beginning

function showRuns() {
  const runs = state.about.runs;
  get("title").textContent = `coadvise view: ${runs.map((run) => run.name).join(" beside ")}`;
  document.title = get("title").textContent;
  get("runs").classList.toggle("two", runs.length > 1);
  for (const run of runs) {
    const place = get("run").content.cloneNode(true);
    place.querySelector("h2").textContent = run.name;
    place.querySelector(".about").textContent = `${run.model}, ${run.classes.length} classes, ${run.side} px. ${run.path}`;
    place.querySelector(".looks-note").textContent = run.no_looks
      ? `No attention is shown: ${run.no_looks}.`
      : "Attention to each patch in the block after which the token is read, mean over the heads; each picture has its own scale.";
    const missing = place.querySelector(".missing");
    missing.hidden = !run.missing.length;
    missing.append(...run.missing.map(([name, why]) => make("li", `Teacher ${name} cannot be asked: ${why}`)));
    place.querySelector(".filter input").addEventListener("input", show);
    get("runs").append(place);
  }
  get("apart").textContent = `where ${runs[0].disagreement}`;
}

function fillControls() {
  const groups = {};
  for (const { kind, category } of state.about.corruptions) {
    if (!groups[category]) {
      groups[category] = make("optgroup");
      groups[category].label = category;
      get("kind").append(groups[category]);
    }
    const option = make("option", kind.replaceAll("_", " "));
    option.value = kind;
    groups[category].append(option);
  }
  for (let level = 0; level <= state.about.severities; level++) {
    const option = make("option");
    option.value = level;
    get("steps").append(option);
  }
  get("severity").max = state.about.severities;
  const level = () => {
    const value = Number(get("severity").value);
    const text = value ? `${value} of ${state.about.severities}` : "0, as it is";
    get("level").textContent = text;
    get("severity").setAttribute("aria-valuetext", text);
  };
  level();
  get("severity").addEventListener("input", () => (level(), later()));
  get("kind").addEventListener("change", () => {
    if (get("severity").value === "0") get("severity").value = 3;
    level();
    question();
  });
  get("by").addEventListener("change", question);
  get("all").addEventListener("change", show);
  get("overlay").addEventListener("change", show);
  get("gallery").addEventListener("toggle", () => get("gallery").open && showGallery().catch(fail));
  get("which").addEventListener("change", () => ((state.first = 0), showGallery().catch(fail)));
  get("more").addEventListener("click", () => ((state.first += SHOWN), showGallery().catch(fail)));
}

async function begin() {
  state.about = await ask("about");
  state.progress = await ask("progress");
  showRuns();
  fillControls();
  watchChoosing();
  if (state.about.runs[0].images) {
    const [first] = await ask("validation?which=all&first=0&count=1");
    if (first && !state.choice) await takeValidation(first.index);
  } else get("gallery").hidden = true;
  await follow();
}

begin().catch(fail);
