"use strict";
// The neuron browser, on units.js and elements.js: fills every .neuron-browser from the JSON element that its
// data-source names. The address's fragment holds what is shown (#run=…&unit=2/117&sort=…).
(() => {
  const {
    unpack, layerKey, measuresOf, numContexts, contextOf, spell, conceptOf, inOrder, sorted, placesOf, overlap,
    number, plural, readState, writeState,
  } = Units;
  const { element, choices, field, visible, contextLine } = Elements;

  function contextNode(layer, context, largest, query, texts) {
    const middle = layer.width >> 1;
    const valueOf = (index) => (index === middle ? context.value : (context.steps[index] / 127) * context.scale);
    const titleOf = (index) => `${JSON.stringify(texts[context.tokens[index] - 1])}  ${number(valueOf(index))}`;
    const line = contextLine(context.tokens, texts, (index) => valueOf(index) / largest, titleOf);
    const found = query && spell(context.tokens, texts).toLowerCase().includes(query.toLowerCase());
    return element("li", { className: found ? "context found" : "context" },
      element("span", { className: "value", textContent: number(context.value),
        title: `activation × ‖W_out‖ at position ${context.position} of its row` }), line);
  }

  // ---- one model: its list of units and the one that is open

  class Pane {
    constructor(browser, name) {
      this.browser = browser;
      this.rows = [];
      this.heading = element("h3");
      this.about = element("p", { className: "about" });
      this.list = element("div", { className: "units", role: "listbox", tabIndex: 0, "aria-label": `units, ${name}` });
      this.readout = element("output", { className: "readout", "aria-live": "off" });
      this.detail = element("div", { className: "detail" });
      this.root = element("div", { className: "pane", role: "group", "aria-label": name }, this.heading, this.about,
        element("div", { className: "columns" }, this.list, this.detail));
      this.list.addEventListener("click", (event) => {
        const option = event.target.closest("[role=option]");
        if (option) this.choose(Number(option.dataset.row));
      });
      this.list.addEventListener("keydown", (event) => this.onKey(event));
      for (const kind of ["pointerover", "click"]) {
        this.detail.addEventListener(kind, (event) => {
          const token = event.target.closest(".token");
          if (token) this.readout.textContent = token.title;
        });
      }
    }

    // Keys that move through the list; true where this was one.
    onKey(event) {
      if (event.altKey || event.ctrlKey || event.metaKey || !this.rows.length) return false;
      const place = this.rows.indexOf(this.row), last = this.rows.length - 1;
      const target = { ArrowDown: place + 1, ArrowUp: place - 1, PageDown: place + 10, PageUp: place - 10,
        Home: 0, End: last }[event.key];
      if (target === undefined) return false;
      event.preventDefault();
      this.choose(this.rows[Math.max(0, Math.min(last, target))]);
      return true;
    }

    choose(row) { this.browser.choose(this, this.layer.arrays.units[row]); }

    say(run, about, layer) {
      this.heading.textContent = run.name;
      this.about.replaceChildren(about);
      if (run.page && layer) {
        const link = element("a", { textContent: "all units", href: `${run.page}#unit=${this.browser.state.layer}/` +
          `${this.layer?.arrays.units[this.row] ?? 0}` });
        this.about.append(" · ", link);
      }
    }

    show(run, layer, rows, row, valueOf, about) {
      const { texts } = this.browser;
      Object.assign(this, { layer, row });
      const same = this.rows.length === rows.length && this.shownLayer === layer && this.shownSort === valueOf.key &&
        this.rows.every((value, index) => value === rows[index]);
      if (!same) {
        this.rows = rows;
        [this.shownLayer, this.shownSort] = [layer, valueOf.key];
        this.list.replaceChildren(...rows.map((item) => this.option(item, valueOf, texts)));
      }
      for (const option of this.list.querySelectorAll("[aria-selected=true]")) option.ariaSelected = "false";
      const option = this.list.querySelector(`[data-row="${row}"]`);
      if (option) {
        option.ariaSelected = "true";
        this.list.setAttribute("aria-activedescendant", option.id);
        const top = option.offsetTop;
        if (top < this.list.scrollTop) this.list.scrollTop = top;
        const bottom = top + option.offsetHeight - this.list.clientHeight;
        if (bottom > this.list.scrollTop) this.list.scrollTop = bottom;
      }
      this.say(run, about, layer);
      if (row === undefined) this.empty(this.browser.state.query ? "No unit matches the search." : "No unit.");
      else this.open(layer, row, texts);
    }

    empty(text) { this.detail.replaceChildren(element("p", { className: "nothing", textContent: text })); }

    clear(run, text) {
      Object.assign(this, { layer: undefined, row: undefined, rows: [], shownLayer: undefined });
      this.list.replaceChildren();
      this.say(run, "", undefined);
      this.empty(text);
    }

    option(row, valueOf, texts) {
      const { peaks } = placesOf(this.layer, row);
      const preview = [...new Set(peaks)].slice(0, 4).map((code) => (code ? visible(texts[code - 1]).trim() : ""));
      const id = `${this.browser.id}-${this.browser.panes.indexOf(this)}-${row}`;
      return element("div", { id, role: "option", className: "unit", "aria-selected": "false", "data-row": row },
        element("span", { className: "name", textContent: this.browser.unitName(this.layer.arrays.units[row]) }),
        element("span", { className: "preview", textContent: preview.join("  ") || "no context" }),
        element("span", { className: "value", textContent: valueOf(row) }));
    }

    open(layer, row, texts) {
      const { state, data } = this.browser;
      const count = numContexts(layer, row);
      const facts = element("dl", { className: "measures" });
      for (const name of measuresOf(layer)) {
        const { label, summary } = data.measures[name];
        facts.append(element("div", { title: summary }, element("dt", { textContent: label }),
          element("dd", { textContent: number(layer.arrays[`measure:${name}`][row]) })));
      }
      const concept = conceptOf(layer, row);
      if (concept) {
        facts.append(element("div", {}, element("dt", { textContent: "concept" }),
          element("dd", { textContent: concept })));
      }
      const largest = count ? layer.arrays.values[row * layer.contexts] : 0;
      const contexts = element("ol", { className: "contexts" });
      for (let index = 0; index < count; index++) {
        contexts.append(contextNode(layer, contextOf(layer, row, index), largest, state.query, texts));
      }
      this.readout.textContent = "";
      const title = element("h4", {}, `Unit ${this.browser.unitName(layer.arrays.units[row])}`, this.readout);
      this.detail.replaceChildren(title, facts, count ? contexts
        : element("p", { className: "nothing", textContent: "It is positive on no token: there is no context." }));
    }
  }

  // ---- the whole

  class Browser {
    constructor(root, data, id) {
      Object.assign(this, { root, data, id, texts: data.texts, layers: new Map() });
      this.panes = [new Pane(this, "first model"), new Pane(this, "second model")];
      this.build();
      const first = data.runs.find((run) => run.layers.length) ?? data.runs[0];
      this.defaults = { run: first.name, sort: "max_activation", direction: "desc", match: "alike" };
      this.takeState();
      addEventListener("hashchange", () => { if (/[#&](run|unit|q|b)=/.test(location.hash)) this.takeState(); });
      document.addEventListener("keydown", (event) => this.onKey(event));
    }

    build() {
      const select = () => element("select");
      this.controls = {
        run: select(), layer: select(), sort: select(), other: select(), match: select(),
        direction: element("button", { type: "button", className: "direction" }),
        query: element("input", { type: "search", placeholder: "word, or layer/unit", autocomplete: "off",
          spellcheck: false }),
      };
      const { run, layer, sort, direction, query, other, match } = this.controls;
      this.otherField = field("compare with", other);
      this.matchField = field("second shows", match);
      const sortField = element("div", { className: "field" }, element("label", {}, element("span", {
        textContent: "sort by" }), sort), direction);
      this.controlsRoot = element("form", { className: "controls", role: "search" }, field("model", run),
        field("layer", layer), sortField, field("search", query, "press / to come here"), this.otherField,
        this.matchField);
      this.controlsRoot.addEventListener("submit", (event) => event.preventDefault());
      for (const name of ["run", "layer", "sort", "other", "match"]) {
        this.controls[name].addEventListener("change", () => this.change({ [name]: this.controls[name].value }));
      }
      direction.addEventListener("click", () =>
        this.change({ direction: this.state.direction === "asc" ? "desc" : "asc" }));
      query.addEventListener("input", () => this.search(query.value));
      query.addEventListener("keydown", (event) => {
        if (event.key === "Escape" && query.value) { query.value = ""; this.search(""); event.preventDefault(); }
        else if (event.key === "ArrowDown") { this.panes[0].list.focus(); this.panes[0].onKey(event); }
        else if (event.key === "Enter") this.panes[0].list.focus();
      });
      choices(match, [["alike", "the most alike"], ["own", "its own order"]], "alike");
      this.note = element("p", { className: "note", role: "status" });
      const legend = element("p", { className: "legend" }, "Shade: activation × ‖W_out‖, relative to the unit's largest: ",
        element("span", { className: "token positive", textContent: "positive" }), " ",
        element("span", { className: "token negative", textContent: "negative" }), "; ",
        element("span", { className: "token peak", textContent: "outlined" }), " where a context has its peak. Keys: ",
        element("kbd", { textContent: "↑" }), element("kbd", { textContent: "↓" }), " through the units, ",
        element("kbd", { textContent: "/" }), " to search.");
      const panes = element("div", { className: "panes" }, ...this.panes.map((pane) => pane.root));
      this.root.replaceChildren(this.controlsRoot, this.note, panes, legend);
    }

    run(name) { return this.data.runs.find((run) => run.name === name); }

    keys(run) { return run.layers.map((packed) => layerKey(packed, run.layers)); }

    unitName(unit) { return `${this.state.layer}/${unit}`; }

    takeState() {
      const state = { ...this.defaults, query: "", ...readState(location.hash) };
      if (!this.run(state.run)) state.run = this.defaults.run;
      if (state.other && !this.run(state.other)) delete state.other;
      this.state = state;
      this.render();
    }

    change(values) {
      const state = { ...this.state, ...values };
      if ("layer" in values || "run" in values) { delete state.unit; delete state.otherUnit; }
      if ("other" in values || "match" in values) delete state.otherUnit;
      this.state = state;
      this.touched = true;
      return this.render();
    }

    choose(pane, unit) {
      const first = pane === this.panes[0];
      const others = this.state.match === "alike" ? { otherUnit: undefined } : {};
      this.change(first ? { unit: `${unit}`, ...others } : { otherUnit: `${unit}` });
    }

    search(text) {
      const unit = /^\s*(.+)\/(\d+)\s*$/.exec(text);
      const layer = unit && this.keys(this.run(this.state.run)).find((key) => key === unit[1]);
      if (!layer) return this.change({ query: text });
      return this.change({ query: "", layer }).then(() => this.change({ unit: unit[2] }));
    }

    onKey(event) {
      const inField = event.target.closest?.("input, select, textarea, [contenteditable]");
      if (inField || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "/") { event.preventDefault(); this.controls.query.focus(); }
      else if (document.body.classList.contains("neuron-page") && !event.target.closest("[role=listbox]")) {
        if (event.key.startsWith("Arrow")) this.panes[0].onKey(event);
      }
    }

    async layerOf(run, key) {
      const packed = run.layers[this.keys(run).indexOf(key)];
      if (packed && !this.layers.has(packed)) this.layers.set(packed, unpack(packed));
      return packed && this.layers.get(packed);
    }

    async render() {
      const state = this.state;
      const run = this.run(state.run), other = state.other ? this.run(state.other) : undefined;
      if (!this.keys(run).includes(state.layer)) state.layer = this.keys(run)[0];
      this.root.ariaBusy = "true";
      try {
        const [layer, otherLayer] = await Promise.all([run, other].map((item) => item && this.layerOf(item, state.layer)));
        if (state === this.state) this.draw(run, layer, other, otherLayer);
      } catch (error) {
        this.note.textContent = "This browser cannot open the data (DecompressionStream: Chrome 80, Firefox 113, " +
          `Safari 16.4 or later). ${error}`;
      } finally {
        if (state === this.state) this.root.ariaBusy = "false";
      }
    }

    draw(run, layer, other, otherLayer) {
      const [first, second] = this.panes;
      this.root.classList.toggle("comparing", Boolean(other));
      second.root.hidden = !other;
      first.heading.hidden = this.data.runs.length < 2;
      this.note.textContent = "";
      this.drawControls(run, layer, other);
      if (!layer) first.clear(run, "Its report has no top contexts.");
      else this.drawOwn(first, run, layer, "unit");
      if (other && !otherLayer) second.clear(other, "Its report has no top contexts of this layer.");
      else if (other && this.state.match === "alike" && first.row !== undefined) this.drawAlike(other, otherLayer);
      else if (other) this.drawOwn(second, other, otherLayer, "otherUnit");
      if (this.touched) history.replaceState(null, "", writeState(this.state));
    }

    drawControls(run, layer, other) {
      const { data, state, controls } = this;
      const names = data.runs.map((item) => [item.name, item.name]);
      choices(controls.run, names, state.run);
      choices(controls.layer, this.keys(run).map((key) => [key, key]), state.layer);
      const measures = layer ? measuresOf(layer).map((name) => [name, data.measures[name].label]) : [];
      choices(controls.sort, [...measures, ["index", "index"]], state.sort);
      if (controls.sort.value === "") controls.sort.value = state.sort = "index";
      choices(controls.other, [["", "nothing"], ...names.filter(([name]) => name !== state.run)], state.other ?? "");
      controls.direction.textContent = state.direction === "asc" ? "↑" : "↓";
      controls.direction.ariaLabel = controls.direction.title =
        state.direction === "asc" ? "smallest first" : "largest first";
      if (controls.query !== document.activeElement) controls.query.value = state.query;
      controls.match.value = state.match;
      controls.run.closest("label").hidden = this.otherField.hidden = names.length < 2;
      this.matchField.hidden = !other;
    }

    // A list in the chosen order, and the unit that the state names or the first.
    drawOwn(pane, run, layer, name) {
      const { sort, direction, query } = this.state;
      const rows = sorted(layer, sort, direction !== "asc", query, this.texts);
      const wanted = layer.arrays.units.indexOf(Number(this.state[name] ?? NaN));
      const row = wanted >= 0 && (rows.includes(wanted) || !query) ? wanted : rows[0];
      const missing = name === "unit" && this.state.unit !== undefined && wanted < 0;
      if (missing) this.note.textContent = `Unit ${this.unitName(this.state.unit)} is not among those here.`;
      if (row !== undefined) this.state[name] = `${layer.arrays.units[row]}`;
      const values = layer.arrays[`measure:${sort}`];
      const valueOf = Object.assign((item) => (values ? number(values[item]) : ""), { key: sort });
      pane.show(run, layer, rows, row, valueOf, this.about(layer, rows.length));
    }

    // All units of the other model by how much they share with the open one of the first.
    drawAlike(run, layer) {
      const [first, pane] = this.panes;
      const found = Array.from(layer.arrays.units.keys(), (row) => overlap(first.layer, first.row, layer, row));
      const rows = inOrder(Array.from(found.keys()), (row) => found[row].score, true);
      const wanted = layer.arrays.units.indexOf(Number(this.state.otherUnit ?? NaN));
      const row = wanted >= 0 ? wanted : rows[0];
      const best = found[row];
      const total = numContexts(first.layer, first.row);
      const valueOf = Object.assign((item) => `${found[item].contexts}/${total}`, { key: `alike ${this.state.run} ${first.row}` });
      const about = `shares ${best.contexts} of ${plural(total, "context")}, ${plural(best.peaks, "peak token")}` +
        (this.data.sampled ? `; of ${rows.length} drawn` : "");
      pane.show(run, layer, rows, row, valueOf, about);
    }

    about(layer, found) {
      const total = layer.packed.size, here = layer.arrays.units.length;
      const of = here < total ? `${here} of ${plural(total, "unit")}, drawn at random` : plural(total, "unit");
      return found < here ? `${plural(found, "unit")} found in ${of}` : of;
    }
  }

  document.querySelectorAll(".neuron-browser").forEach((root, index) => {
    const data = JSON.parse(document.getElementById(root.dataset.source).textContent);
    new Browser(root, data, `neurons-${index}`);
  });
})();
