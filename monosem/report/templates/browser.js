"use strict";

// The page: its state, lists of cards, panes, the view by class, details, keys.

// ------------------------------------------------------------------------------------- state, which is the hash

let state = new URLSearchParams();
let openedHere = false; // then closing the details is going back

function change(changes, replace = false) {
  const next = new URLSearchParams(location.hash.slice(1)); // `state` lags behind quick fingers
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === "") next.delete(key);
    else next.set(key, value);
  }
  if (!next.has("view")) next.set("view", "features"); // an empty hash would scroll to the top
  if (replace) location.replace(`#${next}`);
  else location.hash = next;
}

function changeSet(prefix, name) {
  change({ [`${prefix}.set`]: name, [`${prefix}.find`]: null, open: null });
}

// ---------------------------------------------------------------------------------------------------------- cards

const BATCH = 24;

async function fillCard(element, set, rank) {
  const card = await openCard(set, rank);
  const samples = card.samples.map((place, k) => sample(place, card.activations[k], false));
  find(".samples", element).append(...samples.slice(0, index.sprites ? 9 : 4));
  measures(set, rank, card, find(".measures", element));
  classShares(card, 3, find(".shares", element));
  const chips = card.weights.slice(0, 4).map(([k, weight]) => weightChip(index.classes[k], weight));
  find(".chips", element).append(...chips);
  find(".used", element).hidden = !chips.length;
}

// Cards of a list [rank, weight or null]: made some at a time, as one gets near the end of those there are.
class CardList {
  constructor(list, prefix) {
    this.list = list;
    this.prefix = prefix;
    this.end = piece("div", "end");
    list.after(this.end);
    this.observer = new IntersectionObserver((seen) => seen.some((s) => s.isIntersecting) && this.more(),
      { rootMargin: "800px", scrollMargin: "800px" });
    list.addEventListener("click", (event) => this.open(event.target.closest(".card")));
    list.addEventListener("keydown", (event) => this.move(event));
  }

  show(set, entries) {
    this.set = set;
    this.entries = entries;
    this.list.replaceChildren();
    this.list.style.setProperty("--set", set.colour);
    this.more();
  }

  more() {
    const made = this.list.childElementCount;
    for (const [rank, weight] of this.entries.slice(made, made + BATCH)) this.list.append(this.make(rank, weight));
    if (!made && this.list.firstChild) find(".open", this.list).tabIndex = 0;
    // Observed anew, it tells at once whether the end is still near.
    this.observer.disconnect();
    if (this.list.childElementCount < this.entries.length) this.observer.observe(this.end);
  }

  make(rank, weight) {
    const element = find("#card").content.firstElementChild.cloneNode(true);
    const feature = this.set.columns.get("number")[rank];
    find(".open", element).textContent = `#${feature}`;
    find(".open", element).setAttribute("aria-label", `Feature ${feature}`);
    if (weight !== null) {
      find(".weight", element).className = `weight chip ${weight > 0 ? "plus" : "minus"}`;
      find(".weight", element).textContent = `weight ${signed(weight)}`;
    }
    fillCard(element, this.set, rank);
    return element;
  }

  placeOf(rank) {
    return this.entries.findIndex(([other]) => other === rank);
  }

  open(element) {
    const marked = getSelection();
    if (!element || (!marked.isCollapsed && marked.containsNode(element, true))) return;
    const [rank] = this.entries[[...this.list.children].indexOf(element)];
    openedFrom = this;
    openedHere = true;
    change({ open: `${this.prefix}.${this.set.columns.get("number")[rank]}` });
  }

  focus(place) {
    while (place >= this.list.childElementCount && this.list.childElementCount < this.entries.length) this.more();
    const card = this.list.children[place];
    if (!card) return;
    for (const button of all('.open[tabindex="0"]', this.list)) button.tabIndex = -1;
    find(".open", card).tabIndex = 0;
    find(".open", card).focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  move(event) {
    const perRow = getComputedStyle(this.list).gridTemplateColumns.split(" ").length;
    const at = [...this.list.children].indexOf(event.target.closest(".card"));
    const next = at + step(event, perRow);
    if (at < 0 || next === at) return;
    event.preventDefault();
    if (next >= 0) this.focus(Math.min(next, this.entries.length - 1));
  }
}

function step(event, perRow) {
  return { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -perRow, ArrowDown: perRow }[event.key] ?? 0;
}

// ---------------------------------------------------------------------------------------------------------- panes

class Pane {
  constructor(prefix) {
    this.prefix = prefix;
    this.section = find("#pane").content.firstElementChild.cloneNode(true);
    this.cards = new CardList(find(".cards", this.section), prefix);
    find('[name="set"]', this.section).append(...index.sets.map((set) => option(set.name, set.title)));
    find('[name="class"]', this.section).append(...index.classes.map((name, k) => option(k, name)));
    this.section.addEventListener("change", (event) => this.changed(event.target));
    this.section.addEventListener("focusin", () => { active = this; });
    find('[name="find"]', this.section).addEventListener("input", (event) => this.changed(event.target));
    find(".direction", this.section).addEventListener("click", () => this.change("up", this.up() ? "0" : "1"));
    find(".clear", this.section).addEventListener("click", () => this.clear(this.filters()));
  }

  get(key) {
    return state.get(`${this.prefix}.${key}`) ?? "";
  }

  change(key, value) {
    change({ [`${this.prefix}.${key}`]: value }, key === "find");
  }

  changed(control) {
    if (control.name === "set") changeSet(this.prefix, control.value);
    else if (control.name === "sort") change({ [`${this.prefix}.sort`]: control.value, [`${this.prefix}.up`]: null });
    else this.change(control.name, control.value);
  }

  // What the hash says of this pane: [key, value].
  own() {
    return [...state].filter(([key]) => key.startsWith(`${this.prefix}.`)).map(([key, value]) => [key.slice(2), value]);
  }

  filters() {
    return this.own().filter(([key]) => /^(min:|max:|class$)/.test(key));
  }

  clear(entries) {
    change(Object.fromEntries(entries.map(([key]) => [`${this.prefix}.${key}`, null])));
  }

  sort() {
    return this.set.columns.has(this.get("sort")) ? this.get("sort") : usualSort(this.set);
  }

  up() {
    return this.get("up") ? this.get("up") === "1" : this.sort() === "number";
  }

  async render() {
    const wanted = this.own().join("&");
    if (wanted === this.drawn) return;
    this.drawn = wanted;
    const set = await openSet(this.get("set"));
    if (this.drawn !== wanted) return;
    if (set !== this.set) this.open(set);
    for (const control of all("[name]", this.section)) {
      const value = { set: set.name, sort: this.sort() }[control.name] ?? this.get(control.name);
      if (control.value !== value) control.value = value; // else the cursor would jump
    }
    find(".direction", this.section).textContent = this.up() ? "\u2191 lowest first" : "\u2193 highest first";
    const filters = this.filters().length;
    find("summary", this.section).textContent = filters ? `Filter (${filters})` : "Filter";
    const [ranks, words] = this.select();
    find(".count", this.section).textContent = words;
    this.cards.show(set, ranks.map((rank) => [rank, null]));
  }

  open(set) {
    this.set = set;
    this.section.style.setProperty("--set", set.colour);
    this.section.setAttribute("aria-label", set.title);
    const columns = [...set.columns.keys()];
    find('[name="sort"]', this.section).replaceChildren(...columns.map((column) => option(column, sortName(column))));
    const ranged = columns.filter((column) => column === "density" || column.startsWith("score:"));
    find(".between", this.section).replaceChildren(...ranged.map(range));
  }

  // The ranks to show, in order, and what they are in words.
  select() {
    const { set } = this;
    const size = set.columns.get("number").length;
    const shown = size < set.n_dimensions
      ? `${set.title} shows ${whole.format(size)} of ${whole.format(set.n_dimensions)} dimensions`
      : `${set.title} has ${whole.format(size)} dimensions`;
    const asked = (this.get("find").match(/\d+/g) ?? []).map(Number);
    if (asked.length) {
      const found = asked.map((feature) => set.rank.get(feature)).filter((rank) => rank !== undefined);
      const lost = asked.filter((feature) => !set.rank.has(feature));
      const words = lost.length ? `#${lost.join(", #")} is not among them` : "searched by number, whatever the filter";
      return [found, `${shown}; ${words}.`];
    }
    const tests = this.filters().map(([key, value]) => this.test(key, value));
    const ranks = [...Array(size).keys()].filter((rank) => tests.every((test) => test(rank)));
    const values = set.columns.get(this.sort());
    const turn = this.up() ? 1 : -1;
    // What is not scored comes last either way; equals by number.
    const numbers = set.columns.get("number");
    ranks.sort((a, b) => (values[a] === null) - (values[b] === null) || turn * (values[a] - values[b])
      || numbers[a] - numbers[b]);
    return [ranks, ranks.length < size ? `${shown}; ${whole.format(ranks.length)} pass the filter.` : `${shown}.`];
  }

  test(key, value) {
    if (key === "class") return (rank) => this.set.top[rank] === Number(value);
    const [end, column] = [key.slice(0, 3), key.slice(4)];
    const values = this.set.columns.get(column);
    if (!values) return () => true; // a score of another set
    const limit = Number(value) / (column === "density" ? 100 : 1);
    return (rank) => values[rank] !== null && (end === "min" ? values[rank] >= limit : values[rank] <= limit);
  }
}

function range(column) {
  const name = column === "density" ? "density, %" : sortName(column);
  const inputs = ["min", "max"].map((end) => {
    const input = piece("input");
    Object.assign(input, { type: "number", step: "any", name: `${end}:${column}`, placeholder: end });
    input.setAttribute("aria-label", `${name}, ${end === "min" ? "at least" : "at most"}`);
    return input;
  });
  const row = piece("div");
  row.append(...inputs);
  const holder = piece("div", "", name);
  holder.append(row);
  return holder;
}

// ----------------------------------------------------------------------------------------------- classifier view

class Classes {
  constructor() {
    this.section = find("#classes");
    this.for = new CardList(find(".for", this.section), "a");
    this.against = new CardList(find(".against", this.section), "a");
    find('[name="set"]', this.section).append(...index.sets.map((set) => option(set.name, set.title)));
    find('[name="set"]', this.section).addEventListener("change", (event) => changeSet("a", event.target.value));
    find('[name="order"]', this.section).addEventListener("change", (event) => change({ order: event.target.value }));
    find(".class-list", this.section).addEventListener("keydown", (event) => this.move(event));
  }

  async render() {
    const wanted = ["a.set", "order", "k"].map((key) => state.get(key)).join("&");
    if (wanted === this.drawn) return;
    this.drawn = wanted;
    const set = await openSet(state.get("a.set"));
    if (this.drawn !== wanted) return;
    find('[name="set"]', this.section).value = set.name;
    find('[name="order"]', this.section).value = state.get("order") ?? "accuracy";
    this.section.style.setProperty("--set", set.colour);
    const none = !set.classifier;
    find(".by-class", this.section).hidden = none;
    find(".about", this.section).textContent = none ? `No classifier was given for ${set.title}.` : set.classifier.title;
    if (none) return;
    const order = this.order(set.classifier.accuracies);
    const asked = Number(state.get("k") ?? order[0]);
    const k = asked in index.classes ? asked : order[0];
    this.list(order, set.classifier.accuracies, k);
    find("h2", this.section).textContent = index.classes[k];
    const accuracy = set.classifier.accuracies[k];
    find(".accuracy", this.section).textContent = accuracy === null ? "No samples of this class are shown."
      : `${percent(accuracy)} of its samples are classified as it.`;
    this.for.show(set, set.classifier.for[k]);
    this.against.show(set, set.classifier.against[k]);
  }

  order(accuracies) {
    const order = [...index.classes.keys()];
    const names = (a, b) => index.classes[a].localeCompare(index.classes[b], "en", { numeric: true });
    if (state.get("order") === "name") return order.sort(names);
    return order.sort((a, b) => (accuracies[b] ?? -1) - (accuracies[a] ?? -1) || names(a, b));
  }

  list(order, accuracies, chosen) {
    const held = document.activeElement.closest(".class-list");
    const items = order.map((k) => {
      const item = piece("li");
      const button = piece("button");
      button.type = "button";
      button.tabIndex = k === chosen ? 0 : -1;
      if (k === chosen) button.setAttribute("aria-current", "true");
      const accuracy = accuracies[k];
      button.append(bar(index.classes[k], accuracy === null ? "no samples" : percent(accuracy), accuracy));
      button.addEventListener("click", () => change({ k }));
      item.append(button);
      return item;
    });
    find(".class-list", this.section).replaceChildren(...items);
    if (held) find('[aria-current="true"]', held).focus();
  }

  move(event) {
    const buttons = all(".class-list button", this.section);
    const next = buttons[buttons.indexOf(event.target) + step(event, 1)];
    if (!next || next === event.target) return;
    event.preventDefault();
    next.focus();
    next.click();
  }
}

// --------------------------------------------------------------------------------------------------------- details

let openedFrom = null; // the list whose cards the arrows of the details go through
let turn = () => {};
let refocus = () => {};

async function renderDetails() {
  const dialog = find("#details");
  const [asked, prefix, feature] = /^([ab])\.(\d+)$/.exec(state.get("open") ?? "") ?? [];
  if (!asked) {
    openedHere = false;
    openedFrom = null;
    if (dialog.open) dialog.close();
    refocus();
    refocus = () => {};
    return;
  }
  const set = await openSet(state.get(`${prefix}.set`));
  const rank = set.rank.get(Number(feature));
  find("#fault").hidden = rank !== undefined;
  if (rank === undefined) {
    if (dialog.open) dialog.close();
    complain(`${set.title} shows no dimension ${feature}`);
    return;
  }
  const card = await openCard(set, rank);
  if (state.get("open") !== asked) return;
  dialog.style.setProperty("--set", set.colour);
  find("h2", dialog).textContent = `${set.title} #${feature}`;
  find(".inside", dialog).replaceChildren(...detailParts(set, rank, card));
  const lists = [openedFrom, panes[prefix].cards];
  const list = lists.find((each) => each?.set === set && each.prefix === prefix && each.placeOf(rank) >= 0);
  const neighbour = (by) => list?.entries[list.placeOf(rank) + by];
  find(".previous", dialog).disabled = !neighbour(-1);
  find(".next", dialog).disabled = !neighbour(1);
  turn = (by) => {
    if (neighbour(by)) change({ open: `${prefix}.${set.columns.get("number")[neighbour(by)[0]]}` }, true);
  };
  // A card far down that was not made yet would take all those above it with it.
  refocus = () => list && list.placeOf(rank) < list.list.childElementCount && list.focus(list.placeOf(rank));
  if (!dialog.open) dialog.showModal();
}

function detailParts(set, rank, card) {
  const part = (title, kind, fill) => {
    const section = piece("section");
    const holder = piece("div", kind);
    section.append(piece("h3", "", title), holder);
    fill(holder);
    return section;
  };
  const samples = card.samples.map((place, k) => sample(place, card.activations[k], true));
  const parts = [
    part("Most active samples", index.sprites ? "samples" : "samples texts", (holder) => holder.append(...samples)),
    part("Scores and activations", "measures", (holder) => measures(set, rank, card, holder)),
    part("Its activation falls on", "shares", (holder) => classShares(card, card.classes.length, holder)),
  ];
  const chips = card.weights.map(([k, weight]) => {
    const chip = weightChip(index.classes[k], weight, "button");
    chip.type = "button";
    chip.addEventListener("click", () => change({ view: "classes", "a.set": set.name, k, open: null }));
    return chip;
  });
  if (chips.length) parts.push(part("Largest weights of the classifier", "chips", (holder) => holder.append(...chips)));
  return parts;
}

function closeDetails() {
  if (openedHere) history.back();
  else change({ open: null }, true);
}

// ------------------------------------------------------------------------------------------------- the whole page

const panes = {};
let classes;
let active; // the pane that `/`, `[` and `]` are about

async function render() {
  state = new URLSearchParams(location.hash.slice(1));
  const byClass = state.get("view") === "classes";
  const double = !byClass && state.has("b.set");
  const buttons = { "to-features": !byClass, "to-classes": byClass, "side-by-side": double };
  for (const [id, on] of Object.entries(buttons)) find(`#${id}`).setAttribute("aria-pressed", on);
  find("#side-by-side").hidden = byClass;
  find("#classes").hidden = !byClass;
  find("#panes").hidden = byClass;
  find("#panes").classList.toggle("double", double);
  panes.b.section.hidden = !double;
  if (!double) active = panes.a;
  await Promise.all(byClass ? [classes.render()] : [panes.a.render(), double && panes.b.render()]);
  await renderDetails();
}

function toggleSideBySide() {
  if (state.has("b.set")) panes.b.clear(panes.b.own());
  else change({ "b.set": index.sets[(setAt(state.get("a.set")) + 1) % index.sets.length].name });
}

function nextSet(by) {
  const at = setAt(state.get(`${active.prefix}.set`));
  changeSet(active.prefix, index.sets.at((at + by) % index.sets.length).name);
}

function pressed(event) {
  const typed = event.getModifierState("AltGraph"); // brackets, on many keyboards
  if (!typed && (event.ctrlKey || event.metaKey || event.altKey)) return;
  if (event.target.matches("input, select")) return;
  if (find("#details").open) {
    if (step(event, 0)) turn(step(event, 0));
    return;
  }
  const actions = {
    "/": () => find('[name="find"]', active.section).focus(),
    "[": () => nextSet(-1),
    "]": () => nextSet(1),
    "?": () => find("#keys").showModal(),
  };
  if (!(event.key in actions) || find("dialog[open]")) return;
  event.preventDefault();
  actions[event.key]();
}

const THEMES = { auto: "light dark", light: "light", dark: "dark" };

let theme = "auto";

function setTheme(chosen) {
  theme = chosen;
  document.documentElement.style.colorScheme = THEMES[theme];
  find("#theme").textContent = `Theme: ${theme}`;
  try {
    localStorage.setItem("monosem-theme", theme);
  } catch {
    // Storage may be switched off; then the choice lasts as long as the page.
  }
}

function storedTheme() {
  try {
    const stored = localStorage.getItem("monosem-theme");
    return stored in THEMES ? stored : "auto";
  } catch {
    return "auto";
  }
}

async function start() {
  setTheme(storedTheme());
  index = await load("index");
  if (index.sprites) {
    index.sprites.missing = new Set(index.sprites.missing);
    setThumbSizes();
  }
  for (const prefix of ["a", "b"]) {
    panes[prefix] = new Pane(prefix);
    find("#panes").append(panes[prefix].section);
  }
  classes = new Classes();
  const themes = Object.keys(THEMES);
  const clicks = {
    "#to-features": () => change({ view: "features" }),
    "#to-classes": () => change({ view: "classes", open: null }),
    "#side-by-side": toggleSideBySide,
    "#theme": () => setTheme(themes[(themes.indexOf(theme) + 1) % themes.length]),
    "#show-keys": () => find("#keys").showModal(),
    "#keys .close": () => find("#keys").close(),
    "#details .close": closeDetails,
    "#details .previous": () => turn(-1),
    "#details .next": () => turn(1),
  };
  for (const [selector, action] of Object.entries(clicks)) find(selector).addEventListener("click", action);
  // Browsers close a dialog by themselves on Escape.
  find("#details").addEventListener("close", () => {
    if (!find("#details").open && new URLSearchParams(location.hash.slice(1)).has("open")) closeDetails();
  });
  document.addEventListener("keydown", pressed);
  window.addEventListener("hashchange", () => render());
  await render();
}

start();
