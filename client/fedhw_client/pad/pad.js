// The pad's page: strokes go to the agent of this device, which answers what they are.

const SIDE = 1000; // of the paper, in the unit of the strokes
const LINE = 24; // width of the drawn line
const SPACING = 3; // points closer than this to the last one are left out
const STEP = 50; // of the pen that arrow keys move
const READ_AFTER = 350; // milliseconds from the last lifting of the pen
const JOIN_WITHIN = 1000; // a stroke that begins later is another character's
const LISTED = 60; // labels that are shown at once
const FULL_WINDOW = 20; // corrections that a point of the chart stands for

const ARROWS = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

const page = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);
const ink = page.paper.getContext("2d");

let strokes = []; // of the character on the paper: lists of [x, y, width]
let pen = null; // the pointer or key that draws now: {id, type}
let cursor = null; // where the pen of the keyboard is, once it was used
let held = new Set(); // arrow keys
let liftedAt = -Infinity;
let reading = null; // what the agent took the strokes for
let timer = 0;
let turn = 0; // grows whenever the paper changes, so that late answers are known
let labels = [];
let keys = new Set(); // the labels that are one character
let release = ""; // that the labels are of
let version = 0; // of what the local expert has learned

// ---------------------------------------------------------------- words

const isCharacter = (label) => [...label].length === 1;

function nameOf(label) {
  if (!isCharacter(label)) return `“${label}”`;
  if (/\d/.test(label)) return `digit ${label}`;
  return label === label.toLowerCase() ? `small ${label}` : `capital ${label}`;
}

const kindOf = (label) => (isCharacter(label) ? nameOf(label).split(" ")[0] : "");
const percent = (share) =>
  0 < share && share < 0.005 ? "<\u00a01\u00a0%" : `${Math.round(100 * share)}\u00a0%`;
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// ---------------------------------------------------------------- the agent

async function post(what, content = {}) {
  let answer;
  try {
    answer = await fetch(what, { method: "POST", body: JSON.stringify(content) });
  } catch {
    throw new Error("The agent does not answer; is it still running?");
  }
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return told;
}

/** Do something that asks the agent, and tell when it fails. */
async function trying(work) {
  try {
    return await work();
  } catch (error) {
    tell(error.message);
    return null;
  }
}

function tell(sentence) {
  page.note.textContent = sentence;
}

// ---------------------------------------------------------------- paper

function place(event) {
  const box = page.paper.getBoundingClientRect();
  return [
    ((event.clientX - box.left) / box.width) * SIDE,
    ((event.clientY - box.top) / box.height) * SIDE,
  ];
}

/** A pen's pressure sets the width; mice and fingers have none to speak of. */
function widthOf(event) {
  return event.pointerType === "pen" ? LINE * (0.4 + 1.2 * event.pressure) : LINE;
}

function begin([x, y], width) {
  clearTimeout(timer);
  turn += 1;
  strokes.push([[x, y, width]]);
  page.invitation.hidden = true;
  tell("");
  drawSoon();
}

function extend([x, y], width) {
  const stroke = strokes.at(-1);
  const [lastX, lastY] = stroke.at(-1);
  if (Math.hypot(x - lastX, y - lastY) < SPACING) return;
  stroke.push([x, y, width]);
  drawSoon();
}

function lift() {
  pen = null;
  liftedAt = performance.now();
  clearTimeout(timer);
  timer = setTimeout(read, READ_AFTER);
  drawSoon();
}

function wipe() {
  clearTimeout(timer);
  turn += 1;
  pen = null;
  strokes = [];
  reading = null;
  page.invitation.hidden = false;
  drawSoon();
}

let drawing = 0;
function drawSoon() {
  drawing ||= requestAnimationFrame(draw);
}

function draw() {
  drawing = 0;
  const { width, height } = page.paper;
  ink.setTransform(width / SIDE, 0, 0, height / SIDE, 0, 0);
  ink.clearRect(0, 0, SIDE, SIDE);
  ink.lineCap = ink.lineJoin = "round";
  ink.strokeStyle = ink.fillStyle = getComputedStyle(page.paper).color;
  strokes.forEach(drawStroke);
  if (cursor && document.activeElement === page.paper) drawCursor();
}

/** A smooth line through the points, each piece as wide as the pen pressed there. */
function drawStroke(points) {
  const [[firstX, firstY, firstWidth]] = points;
  ink.beginPath();
  ink.arc(firstX, firstY, firstWidth / 2, 0, 2 * Math.PI);
  ink.fill();
  let [fromX, fromY] = points[0];
  points.forEach(([x, y, width], i) => {
    const [nextX, nextY] = points[i + 1] ?? [x, y];
    const [toX, toY] = [(x + nextX) / 2, (y + nextY) / 2];
    ink.beginPath();
    ink.lineWidth = width;
    ink.moveTo(fromX, fromY);
    ink.quadraticCurveTo(x, y, toX, toY);
    ink.stroke();
    [fromX, fromY] = [toX, toY];
  });
}

function drawCursor() {
  const [x, y] = cursor;
  ink.beginPath();
  ink.arc(x, y, LINE, 0, 2 * Math.PI);
  ink.lineWidth = 6;
  ink.stroke();
  if (pen) ink.fill();
}

function fitPaper() {
  const pixels = Math.round(page.paper.clientWidth * devicePixelRatio);
  if (pixels && pixels !== page.paper.width) {
    page.paper.width = page.paper.height = pixels;
    draw();
  }
}

// ---------------------------------------------------------------- pointer

page.paper.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  // A hand that rests on the paper gives way to the pen.
  const palm = pen?.type === "touch" && event.pointerType === "pen";
  if (pen && !palm) return;
  if (palm) strokes.pop();
  else if (!pen && performance.now() - liftedAt > JOIN_WITHIN) wipe();
  event.preventDefault();
  page.paper.focus({ preventScroll: true });
  cursor = null;
  pen = { id: event.pointerId, type: event.pointerType };
  page.paper.setPointerCapture(event.pointerId);
  begin(place(event), widthOf(event));
});

page.paper.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pen?.id) return;
  const events = event.getCoalescedEvents?.() ?? [];
  for (const each of events.length ? events : [event]) extend(place(each), widthOf(each));
});

for (const ending of ["pointerup", "pointercancel"]) {
  page.paper.addEventListener(ending, (event) => {
    if (event.pointerId === pen?.id) lift();
  });
}

// ---------------------------------------------------------------- keyboard

page.paper.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in ARROWS) {
    held.add(event.key);
    movePen();
  } else if (event.key === " ") {
    if (!event.repeat) togglePen();
  } else if (event.key === "Enter") {
    if (!event.repeat) accept();
  } else return;
  event.preventDefault();
});

page.paper.addEventListener("keyup", (event) => held.delete(event.key));
page.paper.addEventListener("focus", drawSoon);
page.paper.addEventListener("blur", () => {
  held.clear();
  if (pen?.type === "keys") lift();
  drawSoon();
});

/** Two arrow keys held together go diagonally. */
function movePen() {
  cursor ??= [SIDE / 2, SIDE / 2];
  for (const key of held) {
    cursor = cursor.map((at, axis) =>
      Math.min(SIDE - STEP, Math.max(STEP, at + STEP * ARROWS[key][axis])),
    );
  }
  if (pen?.type === "keys") extend(cursor, LINE);
  drawSoon();
}

function togglePen() {
  if (pen?.type === "keys") {
    lift();
    say("Pen up.");
  } else if (!pen) {
    cursor ??= [SIDE / 2, SIDE / 2];
    pen = { id: null, type: "keys" };
    begin(cursor, LINE);
    say("Pen down.");
  }
}

// One-key corrections work where one writes and reads, not on the whole page.
page.desk.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key === "Backspace" || event.key === "Escape") clear();
  else if (keys.has(event.key)) correct(event.key);
  else return;
  event.preventDefault();
});

document.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "z" || !(event.ctrlKey || event.metaKey)) return;
  if (event.shiftKey || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  undo();
});

// ---------------------------------------------------------------- reading

function points() {
  return strokes.map((stroke) =>
    stroke.map(([x, y]) => [Math.round(10 * x) / 10, Math.round(10 * y) / 10]),
  );
}

async function read() {
  clearTimeout(timer);
  const asked = turn;
  const told = await trying(() => post("recognize", { strokes: points() }));
  if (!told || asked !== turn) return;
  reading = told;
  showReading();
}

/** What the page shows as the character is right; before it is read, read it now. */
function accept() {
  if (pen) lift();
  if (reading) correct(reading.label);
  else if (strokes.length) read();
}

async function correct(label) {
  if (!strokes.length) {
    tell("Write a character first.");
    return;
  }
  const correction = { strokes: points(), label };
  const drawn = strokes;
  const was = reading?.label;
  wipe();
  page.paper.focus({ preventScroll: true });
  if (await trying(() => post("learn", correction))) {
    showKept(label, was);
  } else if (!strokes.length) {
    strokes = drawn; // nothing that was written is lost
    page.invitation.hidden = true;
    drawSoon();
  }
}

async function undo() {
  tell("Taking it back …");
  const undone = await trying(() => post("undo"));
  if (!undone) return;
  if (page.reading.dataset.state === "kept") showNothing();
  tell(undone.label ? `Taken back: ${nameOf(undone.label)}.` : "There is no correction to undo.");
}

function clear() {
  wipe();
  cursor = null;
  showNothing();
  tell("");
}

function say(sentence) {
  page.heard.textContent = sentence;
}

function showLetter(label) {
  page.letter.textContent = label;
  page.letter.classList.toggle("word", [...label].length > 1);
}

function showReading() {
  const { label, probability, ge, le, opening, decided_by, candidates } = reading;
  const local = decided_by === "local";
  page.reading.dataset.state = "read";
  page.reading.dataset.decided = decided_by;
  showLetter(label);
  page.verdict.textContent = `${capitalised(nameOf(label))}, ${percent(probability)}`;
  page.reason.textContent = local
    ? "Your local expert decided."
    : "The global expert decided.";
  showVoice("ge", ge);
  showVoice("le", le);
  showGate(opening);
  page.candidates.replaceChildren(...candidates.map(candidateButton));
  say(
    `${nameOf(label)}, ${percent(probability)}. ` +
      `The ${local ? "local" : "global"} expert decided. ` +
      `Global expert: ${nameOf(ge.label)}. ` +
      (le ? `Local expert: ${nameOf(le.label)}.` : "The local expert has learned nothing yet."),
  );
}

function showVoice(who, voice) {
  page[`${who}-says`].textContent = voice?.label ?? "–";
  page[`${who}-sure`].textContent = voice
    ? [kindOf(voice.label), percent(voice.probability)].filter(Boolean).join(", ")
    : "has learned nothing yet";
}

function showGate(opening) {
  page.gate.setAttribute("aria-valuenow", opening.toFixed(2));
  page.gate.style.setProperty("--opening", opening);
  page.opening.textContent = `open ${opening.toFixed(2)}`;
}

function candidateButton({ label, probability }, i) {
  const button = make(
    "button",
    { type: "button", onclick: () => correct(label) },
    make("b", { textContent: label, className: isCharacter(label) ? "" : "word" }),
    make("span", { textContent: kindOf(label) }),
    make("span", { textContent: i ? percent(probability) : "✓ right" }),
  );
  button.setAttribute("aria-label", `It was ${nameOf(label)}, ${percent(probability)}`);
  return button;
}

function showKept(label, was) {
  page.reading.dataset.state = "kept";
  showLetter(label);
  page.verdict.textContent = `Kept as ${nameOf(label)}`;
  page.reason.textContent =
    was && was !== label ? `It had been read as ${nameOf(was)}.` : "Write the next one.";
  say(`Kept as ${nameOf(label)}.`);
}

function showNothing() {
  page.reading.dataset.state = "empty";
  showLetter("");
  page.verdict.textContent = "Nothing written yet";
  page.reason.textContent = "Lift the pen and it is read a moment later.";
}

const capitalised = (words) => words[0].toUpperCase() + words.slice(1);

page.clear.addEventListener("click", () => {
  clear();
  page.paper.focus({ preventScroll: true });
});
page.undo.addEventListener("click", undo);
page.other.addEventListener("click", async () => {
  const label = await pick("Which was it?");
  if (label) correct(label);
});

// ---------------------------------------------------------------- dialogs

/** Let a character be chosen; nothing when the dialog was closed. */
function pick(question) {
  page["picker-name"].textContent = question;
  page.search.value = "";
  fillPicker();
  return answerOf(page.picker);
}

function confirmed(question, glyph) {
  page.question.textContent = question;
  page.doubtful.src = glyph;
  page.doubtful.hidden = !glyph;
  return answerOf(page.confirm);
}

/** Dialogs are asked one after the other: the event that one was closed comes a moment later. */
let answered = Promise.resolve();

function answerOf(dialog) {
  answered = answered.then(() => {
    dialog.returnValue = "";
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
    });
  });
  return answered;
}

/** Labels of one character are keys in groups; any others are a list to search. */
function fillPicker() {
  const areKeys = keys.size === labels.length;
  page.search.hidden = areKeys;
  page.labels.className = areKeys ? "characters" : "words";
  if (areKeys) showKeys();
  else showFound();
}

function labelButton(label) {
  return make("button", {
    type: "button",
    textContent: label,
    ariaLabel: nameOf(label),
    onclick: () => page.picker.close(label),
  });
}

const found = () => {
  const sought = page.search.value.trim().toLowerCase();
  return labels.filter((label) => label.toLowerCase().includes(sought));
};

function showFound() {
  const all = found();
  const some = all.slice(0, LISTED);
  page.labels.replaceChildren(...some.map(labelButton));
  const more = all.length - some.length;
  if (more) page.labels.append(make("p", { textContent: `${more} more; type to find them.` }));
  if (!all.length) page.labels.append(make("p", { textContent: "None is called so." }));
}

function showKeys() {
  const groups = Map.groupBy(labels, kindOf);
  const names = { digit: "Digits", capital: "Capital letters", small: "Small letters" };
  page.labels.replaceChildren();
  for (const [kind, characters] of groups) {
    const group = make("div", { role: "group", ariaLabel: names[kind] });
    group.append(...characters.map(labelButton));
    page.labels.append(make("h3", { textContent: names[kind] }), group);
  }
}

page.picker.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target === page.search) return;
  if (keys.has(event.key)) page.picker.close(event.key);
});
page.search.addEventListener("input", showFound);
page.search.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  const [first] = found();
  if (first) page.picker.close(first);
});
page["picker-close"].addEventListener("click", () => page.picker.close());
page.keep.addEventListener("click", () => page.confirm.close());
page.forget.addEventListener("click", () => page.confirm.close("forget"));

// ---------------------------------------------------------------- forgetting

async function forget(selection, question, glyph = "") {
  if (!(await confirmed(question, glyph))) return;
  tell("Forgetting …");
  const told = await trying(() => post("forget", selection));
  if (!told) return;
  tell(`Forgotten: ${plural(told.forgotten, "character")}.`);
  page["recent-name"].focus({ preventScroll: true });
}

page["forget-all"].addEventListener("click", () =>
  forget({ everything: true }, "Forget every character and all that was learned from them?"),
);
page["forget-label"].addEventListener("click", async () => {
  const label = await pick("Forget all of which character?");
  if (label) await forget({ label }, `Forget all of yours that are ${nameOf(label)}?`);
});

// ---------------------------------------------------------------- state

function follow() {
  const events = new EventSource("events");
  events.onmessage = ({ data }) => showState(JSON.parse(data));
  events.onerror = () => {
    page.status.textContent = "The agent of this device does not answer.";
  };
}

async function loadLabels() {
  const answer = await trying(() => fetch("labels").then((told) => told.json()));
  if (!answer) return;
  labels = answer;
  keys = new Set(labels.filter(isCharacter));
  fillPicker();
}

function showState(state) {
  if (release !== state.release) {
    release = state.release;
    loadLabels();
  }
  page.status.textContent = [
    `Release ${state.release} (${state.architecture}),`,
    state.personal_version ? `your version ${state.personal_version},` : "nothing learned yet,",
    `${plural(state.kept, "correction")} kept.`,
    state.learning ? "Learning now …" : "",
    ...state.notices,
  ].join(" ");
  page.status.classList.toggle("learning", state.learning);
  page.leaves.textContent = state.coordinator
    ? `Counts of how often you were understood, blurred by noise, to ${state.coordinator}, and which release this device runs; nothing else. “fedhw client privacy” shows every report.`
    : "Nothing.";
  page.store.textContent = `The store holds ${plural(state.kept, "character")} in ${size(state.store_bytes)}.`;
  showRecent(state.recent);
  showCourse(state);
  if (reading && version !== state.personal_version) read();
  version = state.personal_version;
}

const size = (bytes) =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

/** Glyphs already shown stay, so that the focus does, too. */
function showRecent(recent) {
  const shown = new Map([...page.recent.children].map((item) => [item.dataset.id, item]));
  const ids = new Set(recent.map(({ id }) => id));
  for (const [id, item] of shown) if (!ids.has(id)) item.remove();
  recent.forEach((kept, i) => {
    const item = shown.get(kept.id) ?? glyphItem(kept);
    if (page.recent.children[i] !== item) page.recent.insertBefore(item, page.recent.children[i]);
  });
  page["recent-words"].textContent = recent.length
    ? "What had been misread is underlined. Each can be forgotten."
    : "Those you correct or accept are kept here, on this device, to learn from.";
}

function glyphItem({ id, at, label, right, glyph }) {
  const name = nameOf(label);
  const button = make("button", {
    type: "button",
    textContent: "×",
    ariaLabel: `Forget this ${name}`,
    title: "Forget",
    onclick: () => forget({ id }, `Forget this ${name}?`, glyph),
  });
  const time = new Date(1000 * at).toLocaleTimeString([], { timeStyle: "short" });
  const item = make(
    "li",
    { title: `${capitalised(name)}, ${right ? "read right" : "corrected"}, ${time}` },
    make("img", { src: glyph, alt: "", width: 56, height: 56 }),
    make("span", { textContent: label, ariaLabel: `${name}, ${right ? "read right" : "corrected"}` }),
    button,
  );
  item.dataset.id = id;
  item.classList.toggle("corrected", !right);
  return item;
}

// ---------------------------------------------------------------- chart

let progress = [];

function showCourse({ ge_accuracy, accuracy, progress: windows }) {
  if (JSON.stringify(windows) === JSON.stringify(progress)) return;
  progress = windows;
  page.figures.hidden = !windows.length;
  page.rows.replaceChildren(...tableRows(windows));
  page.course.textContent = windows.length
    ? `Lately the global expert alone reads ${percent(ge_accuracy)} of your characters right; ` +
      `with your local expert it is ${percent(accuracy)}.`
    : "The curve begins with your first correction.";
  drawChart();
}

function tableRows(windows) {
  let end = 0;
  return windows.map(({ guesses, ge_right, right }) => {
    const start = end + 1;
    end += guesses;
    return make(
      "tr",
      {},
      make("th", { scope: "row", textContent: `${start}–${end}` }),
      make("td", { textContent: `${percent(ge_right / guesses)} (${ge_right})` }),
      make("td", { textContent: `${percent(right / guesses)} (${right})` }),
    );
  });
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function drawChart() {
  page.chart.replaceChildren();
  if (!progress.length) return;
  const width = page.chart.clientWidth;
  const height = 200;
  const [left, right, top, bottom] = [48, width - 92, 14, height - 26];
  let total = 0;
  const ends = progress.map(({ guesses }) => (total += guesses));
  const x = (end) => left + ((right - left) * end) / total;
  const y = (share) => bottom + (top - bottom) * share;

  const lines = ["ge_right", "right"].map((field) =>
    progress.map((window, i) => [x(ends[i]), y(window[field] / window.guesses)]),
  );
  const labels = apart(lines.map((line) => line.at(-1)[1]), 17);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    width,
    height,
    role: "img",
    "aria-label": `Accuracy over ${plural(total, "correction")}. ${page.course.textContent}`,
  });
  for (const share of [0, 0.5, 1]) {
    picture.append(
      svg("line", { class: "grid", x1: left, x2: right, y1: y(share), y2: y(share) }),
      svg("text", { class: "axis", x: left - 8, y: y(share) + 4, "text-anchor": "end" }, percent(share)),
    );
  }
  picture.append(
    svg("text", { class: "axis", x: left, y: height - 6 }, "0"),
    svg("text", { class: "axis", x: right, y: height - 6, "text-anchor": "end" }, plural(total, "correction")),
    ...drawLine("ge", lines[0], labels[0], "GE alone"),
    ...drawLine("le", lines[1], labels[1], "GE + LE"),
  );
  page.chart.append(picture);
}

/** A line with its label; the last window is dashed and hollow until it is full. */
function drawLine(kind, line, labelAt, label) {
  const unfinished = progress.at(-1).guesses < FULL_WINDOW;
  const finished = unfinished ? line.slice(0, -1) : line;
  const path = (points) => points.map((point) => point.join(",")).join(" ");
  const [lastX] = line.at(-1);
  return [
    svg("polyline", { class: `curve ${kind}`, points: path(finished) }),
    svg("polyline", { class: `curve ${kind} dashed`, points: unfinished ? path(line.slice(-2)) : "" }),
    ...line.map(([cx, cy], i) =>
      svg("circle", { class: `dot ${kind}${i < finished.length ? "" : " hollow"}`, cx, cy, r: 4 }),
    ),
    svg("text", { class: `label ${kind}`, x: lastX + 12, y: labelAt + 4 }, label),
  ];
}

/** Two heights, moved so that they are at least `gap` apart. */
function apart([first, second], gap) {
  const lacking = Math.max(0, gap - Math.abs(first - second)) / 2;
  const sign = first < second ? -1 : 1;
  return [first + sign * lacking, second - sign * lacking];
}

// ---------------------------------------------------------------- begin

new ResizeObserver(fitPaper).observe(page.paper);
new ResizeObserver(drawChart).observe(page.chart);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawSoon);
page.paper.focus({ preventScroll: true });
follow();
