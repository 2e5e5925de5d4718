"use strict";
// The rating page, on units.js and elements.js. What the rater did so far is kept in localStorage under the page's
// digest, where the browser lets a page keep anything, and leaves as a JSON file.
(() => {
  const { element, contextLine } = Elements;
  const root = document.getElementById("rate");
  const data = JSON.parse(document.getElementById(root.dataset.source).textContent);

  // ---- what is rated: an object id -> rating in the order in which it was done

  function nextUnrated(ids, ratings, from) {
    const after = ids.findIndex((id, index) => index >= from && !(id in ratings));
    return after >= 0 ? after : ids.findIndex((id) => !(id in ratings));
  }

  function exported(rater, ratings) {
    const done = data.ids.filter((id) => id in ratings).map((id) => ({ id, rating: ratings[id] }));
    return { schema: data.schema, version: data.version, page_sha256: data.page_sha256, rater, ratings: done };
  }

  // Throws an Error that says what is wrong with a file.
  function imported(text) {
    let file;
    try { file = JSON.parse(text); } catch { throw new Error("that file is not JSON"); }
    if (file?.schema !== data.schema || !Array.isArray(file.ratings)) throw new Error("that file is not an export of ratings");
    if (file.page_sha256 !== data.page_sha256) throw new Error("that file belongs to another page");
    const ratings = {};
    for (const { id, rating } of file.ratings) {
      if (data.ids.includes(id) && data.ratings.includes(rating)) ratings[id] = rating;
    }
    return { rater: String(file.rater ?? ""), ratings, history: Object.keys(ratings) };
  }

  // ---- keeping it

  const place = `hf_tti.ratings.${data.page_sha256}`;

  function recall() {
    try {
      const kept = JSON.parse(localStorage.getItem(place) ?? "null");
      return { keeps: true, state: kept ?? { rater: "", ratings: {}, history: [] } };
    } catch {
      return { keeps: false, state: { rater: "", ratings: {}, history: [] } };
    }
  }

  let { keeps, state } = recall();
  let index = Math.max(0, nextUnrated(data.ids, state.ratings, 0));
  let unsaved = false;

  function keep() {
    unsaved = true;
    try { localStorage.setItem(place, JSON.stringify(state)); } catch { keeps = false; }
    where.textContent = keeps ? "Kept in this browser as you go." :
      "This browser keeps nothing for this page: export before you close it.";
  }

  // ---- elements

  const where = element("p", { className: "kept", role: "status" });
  const name = element("input", { id: "rater", autocomplete: "off", spellcheck: false, maxLength: 100,
    placeholder: "needed for the export" });
  const bar = element("progress", { max: data.ids.length, "aria-label": "items rated" });
  const count = element("span", { className: "count" });
  const number = element("h2");
  const verdict = element("span", { className: "verdict" });
  const contexts = element("ol", { className: "contexts" });
  const back = element("button", { type: "button", textContent: "←", "aria-label": "previous item" });
  const forward = element("button", { type: "button", textContent: "→", "aria-label": "next item" });
  const undo = element("button", { type: "button", className: "undo" }, "Undo ", element("kbd", { textContent: "u" }));
  const save = element("button", { type: "button", className: "save", textContent: "Export" });
  const open = element("input", { type: "file", accept: ".json,application/json", id: "open" });
  const message = element("p", { className: "message", role: "alert" });
  const buttons = data.ratings.map((rating, place) => {
    const button = element("button", { type: "button", className: "rating", "data-rating": rating },
      element("kbd", { textContent: `${place + 1}` }), ` ${rating}`);
    button.addEventListener("click", () => rate(rating));
    return button;
  });

  // ---- doing it

  function rate(rating) {
    const id = data.ids[index];
    state.ratings[id] = rating;
    state.history = [...state.history.filter((other) => other !== id), id];
    keep();
    root.querySelector(".guide").open = false;
    const next = nextUnrated(data.ids, state.ratings, index);
    go(next < 0 ? index : next);
    if (next < 0) message.textContent = "All items are rated. Export the file and send it to whoever asked you.";
  }

  function takeBack() {
    const id = state.history.pop();
    if (id === undefined) return;
    delete state.ratings[id];
    keep();
    go(data.ids.indexOf(id));
  }

  function go(to) {
    index = Math.max(0, Math.min(data.ids.length - 1, to));
    message.textContent = "";
    show();
    if (card.getBoundingClientRect().top < 0) card.scrollIntoView({ block: "start" });
  }

  function download() {
    state.rater = name.value.trim();
    if (!state.rater) {
      message.textContent = "Fill in your name (or any word that tells you from the other raters) first.";
      name.focus();
      return;
    }
    const text = JSON.stringify(exported(state.rater, state.ratings), null, 1) + "\n";
    const link = element("a", { download: `ratings-${state.rater.replace(/[^\w-]+/g, "_")}.json`,
      href: URL.createObjectURL(new Blob([text], { type: "application/json" })) });
    link.click();
    URL.revokeObjectURL(link.href);
    unsaved = false;
    const left = data.ids.length - Object.keys(state.ratings).length;
    message.textContent = left ? `Exported; ${left} of ${data.ids.length} items have no rating yet.` : "Exported.";
  }

  async function load() {
    root.ariaBusy = "true";
    try {
      state = imported(await open.files[0].text());
      keep();
      go(Math.max(0, nextUnrated(data.ids, state.ratings, 0)));
      name.value = state.rater;
    } catch (error) {
      message.textContent = `Nothing was opened: ${error.message}.`;
    }
    open.value = "";
    root.ariaBusy = "false";
  }

  // ---- showing it

  let layer;

  function show() {
    const id = data.ids[index], size = layer.contexts * layer.width;
    const done = Object.keys(state.ratings).length;
    number.textContent = `Item ${id}`;
    verdict.textContent = state.ratings[id] ?? "";
    bar.value = done;
    count.textContent = `${done} of ${data.ids.length} rated`;
    contexts.replaceChildren();
    for (let start = index * size; start < (index + 1) * size; start += layer.width) {
      const codes = layer.arrays.tokens.subarray(start, start + layer.width);
      const steps = layer.arrays.activations.subarray(start, start + layer.width);
      if (!codes[layer.width >> 1]) continue;
      contexts.append(element("li", {}, contextLine(codes, data.texts, (place) => steps[place] / 127)));
    }
    for (const button of buttons) button.ariaPressed = `${button.dataset.rating === state.ratings[id]}`;
    back.disabled = index === 0;
    forward.disabled = index === data.ids.length - 1;
    undo.disabled = state.history.length === 0;
  }

  function onKey(event) {
    if (event.target.closest?.("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const rating = data.ratings[Number(event.key) - 1];
    if (rating) rate(rating);
    else if (event.key === "u" || event.key === "Backspace") takeBack();
    else if (event.key === "ArrowLeft") go(index - 1);
    else if (event.key === "ArrowRight") go(index + 1);
    else return;
    event.preventDefault();
  }

  const card = element("section", { className: "card" },
    element("header", {}, back, number, verdict, forward), contexts,
    element("div", { className: "ratings" }, ...buttons, undo));
  const rater = element("div", { className: "rater" },
    element("label", { htmlFor: "rater", textContent: "Your name" }), name, save,
    element("label", { className: "open", htmlFor: "open", textContent: "Go on from an export" }), open);

  async function start() {
    layer = await Units.unpack(data);
    root.append(element("div", { className: "progress" }, bar, count), message, card, rater, where);
    name.value = state.rater;
    name.addEventListener("input", () => { state.rater = name.value.trim(); keep(); });
    back.addEventListener("click", () => go(index - 1));
    forward.addEventListener("click", () => go(index + 1));
    undo.addEventListener("click", takeBack);
    save.addEventListener("click", download);
    open.addEventListener("change", load);
    document.addEventListener("keydown", onKey);
    addEventListener("beforeunload", (event) => { if (unsaved && !keeps) event.preventDefault(); });
    if (state.history.length) root.querySelector(".guide").open = false;
    show();
  }

  start().catch((error) => {
    root.append(element("p", { className: "message", textContent: "This browser cannot open the data " +
      `(DecompressionStream: Chrome 80, Firefox 113, Safari 16.4 or later). ${error}` }));
  }).finally(() => { root.ariaBusy = "false"; });
})();
