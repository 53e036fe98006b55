"use strict";

// How data arrives, and the pieces that cards are made of; `browser.js` makes the page of them.

// Data comes as scripts that call `received`: a page opened from disk may load scripts, but not fetch files.
const loads = new Map();
const arrivals = new Map();

function received(name, value) {
  arrivals.get(name)(value);
}

function load(name) {
  if (!loads.has(name)) {
    loads.set(name, new Promise((resolve) => {
      arrivals.set(name, resolve);
      const script = document.createElement("script");
      script.src = `data/${name}.js`;
      script.onload = () => script.remove();
      // Said here: the rejections of scripts from disk reach no handler.
      script.onerror = () => complain(`data/${name}.js cannot be read; copy the whole folder again`);
      document.head.append(script);
    }));
  }
  return loads.get(name);
}

function complain(words) {
  find("#fault").hidden = false;
  find("#fault").textContent = words;
}

// ------------------------------------------------------------------------------------------- words and pieces

const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const digits = new Intl.NumberFormat("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en");
const number = (value) => digits.format(value).replace("-", "\u2212");
const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));
const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

// All that comes from data passes through here or `textContent`, so that markup in it is shown, never read.
function piece(tag, kind = "", text = "") {
  const element = document.createElement(tag);
  element.className = kind;
  element.textContent = text;
  return element;
}

function drawing(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function option(value, text) {
  const element = piece("option", "", text);
  element.value = value;
  return element;
}

// A named bar from zero to `value` on the scale low..high, which holds zero.
function bar(name, text, value, low = 0, high = 1) {
  const row = piece("div", "bar");
  const fill = piece("i");
  const parts = 100 / (high - low);
  if (value !== null) {
    fill.style.left = `${parts * (Math.min(0, value) - low)}%`;
    fill.style.width = `${parts * Math.abs(value)}%`;
  }
  const label = piece("span", "", name);
  label.title = name;
  row.append(label, piece("b", value === null ? "none" : "", text), piece("u"));
  row.lastChild.append(fill);
  return row;
}

function weightChip(name, weight, tag = "span") {
  const chip = piece(tag, `chip ${weight > 0 ? "plus" : "minus"}`);
  chip.append(piece("b", "", signed(weight)), ` ${name}`);
  return chip;
}

function histogram(counts, [low, high]) {
  const most = Math.max(...counts, 1);
  const path = counts.map((n, k) => (n ? `M${k} 0v${-40 * n / most}h.9v${40 * n / most}z` : "")).join("");
  const svg = drawing("svg", { viewBox: `0 -41 ${counts.length} 41`, preserveAspectRatio: "none", role: "img" });
  const active = counts.reduce((sum, n) => sum + n, 0);
  svg.setAttribute("aria-label", active
    ? `Histogram of ${whole.format(active)} activations from ${number(low)} to ${number(high)}`
    : "No activation differs from zero");
  if (low < 0 && high > 0) {
    const zero = counts.length * -low / (high - low);
    svg.append(drawing("line", { x1: zero, x2: zero, y1: -41, y2: 0, class: "zero" }));
  }
  svg.append(drawing("path", { d: path }), drawing("line", { x1: 0, x2: counts.length, y1: 0, y2: 0 }));
  return svg;
}

// --------------------------------------------------------------------------------------------- sets and samples

let index; // what the page knows before it opens a set
const opened = new Map();

const setAt = (name) => Math.max(0, index.sets.findIndex((set) => set.name === name));

async function openSet(name) {
  const at = setAt(name);
  const data = await load(`set-${at}`);
  if (!opened.has(at)) {
    const scores = data.scores.map(([score]) => score);
    const columns = new Map([["number", data.number], ["density", data.density]]);
    for (const [score, values] of data.scores) columns.set(`score:${score}`, values);
    if (data.weight) columns.set("weight", data.weight);
    opened.set(at, {
      ...index.sets[at], at, scores, columns, top: data.top, classifier: data.classifier,
      rank: new Map(data.number.map((feature, rank) => [feature, rank])),
    });
  }
  return opened.get(at);
}

async function openCard(set, rank) {
  const chunk = await load(`set-${set.at}-cards-${Math.floor(rank / index.cards_a_file)}`);
  return chunk[rank % index.cards_a_file];
}

const usualSort = (set) => (set.scores.length ? `score:${set.scores[0]}` : "number");
const sortName = (column) => (column === "weight" ? "largest weight" : column.replace(/^score:/, ""));

function sampleWords(place, activation) {
  const missing = index.sprites?.missing.has(place) ? ", picture missing" : "";
  const name = index.classes[index.labels[place]];
  return `${name}, activation ${number(activation)}, sample ${whole.format(index.rows[place])}${missing}`;
}

function picture(place, kind) {
  const { columns, per_sheet: perSheet } = index.sprites;
  const [row, column] = [Math.floor((place % perSheet) / columns), place % columns];
  const thumb = piece("div", kind);
  thumb.style.backgroundImage = `url("sprites/${Math.floor(place / perSheet)}.webp")`;
  thumb.style.backgroundPosition = `calc(${-column} * var(--${kind})) calc(${-row} * var(--${kind}))`;
  return thumb;
}

function text(place) {
  const line = piece("p", "text");
  load(`texts-${Math.floor(place / index.texts_a_file)}`).then((part) => {
    line.textContent = part[place % index.texts_a_file];
  });
  return line;
}

function sample(place, activation, large) {
  const words = sampleWords(place, activation);
  const shown = index.sprites ? picture(place, large ? "large" : "thumb") : text(place);
  if (index.sprites) {
    shown.setAttribute("role", "img");
    shown.setAttribute("aria-label", words);
  }
  shown.title = words;
  if (index.sprites && !large) return shown;
  const figure = piece("figure");
  const caption = piece("figcaption", "", index.classes[index.labels[place]]);
  caption.append(piece("b", "", number(activation)));
  figure.append(shown, caption);
  return figure;
}

// Whole multiples of their own size keep pictures sharp and their neighbours on the sheet out of sight.
function setThumbSizes() {
  const { side, columns } = index.sprites;
  const root = document.documentElement;
  for (const [name, wanted] of [["thumb", 56], ["large", innerWidth < 480 ? 96 : 112]]) {
    const size = side * Math.max(1, Math.round(wanted / side));
    root.style.setProperty(`--${name}`, `${size}px`);
    root.style.setProperty(`--${name}-sheet`, `${size * columns}px`);
  }
  root.classList.toggle("pixels", side <= 32);
}

// ------------------------------------------------------------------------- what a card and its details both show

function measures(set, rank, card, holder) {
  for (const score of set.scores) {
    const { low, high } = index.scales.find((scale) => scale.name === score);
    const value = set.columns.get(`score:${score}`)[rank];
    holder.append(bar(score, value === null ? "not scored" : number(value), value, low, high));
  }
  const density = set.columns.get("density")[rank];
  holder.append(bar("density", percent(density), density));
  const active = card.histogram.reduce((sum, n) => sum + n, 0);
  holder.append(histogram(card.histogram, card.span));
  const ends = piece("p", "ends");
  if (active) ends.append(piece("span", "", number(card.span[0])), piece("span", "", number(card.span[1])));
  holder.append(ends, piece("p", "counted", `${whole.format(active)} of ${whole.format(index.n_samples)} not zero`));
}

function classShares(card, n, holder) {
  for (const [k, share] of card.classes.slice(0, n)) {
    holder.append(bar(index.classes[k], percent(share), share));
  }
  const rest = 1 - card.classes.slice(0, n).reduce((sum, [, share]) => sum + share, 0);
  if (!card.classes.length) holder.append(piece("p", "none", "Never active on these samples"));
  else if (rest > 0.0005) holder.append(bar("other classes", percent(rest), rest));
}
