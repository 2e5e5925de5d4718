"use strict";
// What the neuron browser knows of its data, without a page: layers, contexts, orders, likeness, words, and the
// address's fragment. `row` is a unit's place in a decoded layer; a context's tokens are codes from 1, 0 is none.
const Units = (() => {
  const TYPES = {
    int8: Int8Array, uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array, float32: Float32Array,
  };

  // ---- data: layers, decoded when they are looked at

  async function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed.data), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const buffer = await new Response(stream).arrayBuffer();
    const arrays = {};
    let start = 0;
    for (const [name, type, shape] of packed.arrays) {
      const size = shape.reduce((product, length) => product * length, 1) * TYPES[type].BYTES_PER_ELEMENT;
      arrays[name] = new TYPES[type](buffer.slice(start, start + size));
      start += size;
    }
    const [, , [, contexts, width]] = packed.arrays.find(([name]) => name === "tokens");
    return { packed, arrays, contexts, width, texts: [], places: [] };
  }

  function layerKey(packed, layers) {
    return layers.every((layer) => layer.site === packed.site) ? `${packed.layer}` : `${packed.site}/${packed.layer}`;
  }

  const measuresOf = (layer) =>
    Object.keys(layer.arrays).filter((name) => name.startsWith("measure:")).map((name) => name.slice(8));

  // ---- pure functions of a decoded layer; `row` is a unit's place in it

  function numContexts(layer, row) {
    let count = 0;
    while (count < layer.contexts && !Number.isNaN(layer.arrays.values[row * layer.contexts + count])) count++;
    return count;
  }

  function contextOf(layer, row, index) {
    const place = row * layer.contexts + index;
    const tokens = layer.arrays.tokens.subarray(place * layer.width, (place + 1) * layer.width);
    const steps = layer.arrays.activations.subarray(place * layer.width, (place + 1) * layer.width);
    const { values, scales, positions } = layer.arrays;
    return { tokens, steps, scale: scales[place], value: values[place], position: positions[place] };
  }

  const spell = (tokens, texts) => Array.from(tokens, (code) => (code ? texts[code - 1] : "")).join("");

  function haystack(layer, row, texts) {
    if (layer.texts[row] === undefined) {
      const parts = [];
      for (let index = 0; index < numContexts(layer, row); index++) {
        parts.push(spell(contextOf(layer, row, index).tokens, texts));
      }
      layer.texts[row] = parts.join("\u0000").toLowerCase();
    }
    return layer.texts[row];
  }

  function conceptOf(layer, row) {
    return layer.arrays.concept ? layer.packed.concepts[layer.arrays.concept[row]] : "";
  }

  function matches(layer, row, query, texts) {
    const wanted = query.toLowerCase();
    return !wanted || haystack(layer, row, texts).includes(wanted) ||
      conceptOf(layer, row).replace(/^not /, "").toLowerCase().includes(wanted);
  }

  // Rows by a value, those without one last; equal values by index.
  function inOrder(rows, valueOf, descending) {
    const sign = descending ? -1 : 1;
    const keyed = rows.map((row) => [valueOf(row), row]);
    keyed.sort(([a, first], [b, second]) =>
      Number.isNaN(a) - Number.isNaN(b) || (a === b || Number.isNaN(a) ? 0 : sign * (a - b)) || first - second);
    return keyed.map(([, row]) => row);
  }

  function sorted(layer, sort, descending, query, texts) {
    const rows = Array.from(layer.arrays.units.keys()).filter((row) => matches(layer, row, query, texts));
    const values = layer.arrays[`measure:${sort}`];
    return inOrder(rows, values ? (row) => values[row] : (row) => layer.arrays.units[row], descending);
  }

  function placesOf(layer, row) {
    if (layer.places[row] === undefined) {
      const whole = new Set(), peaks = [];
      for (let index = 0; index < numContexts(layer, row); index++) {
        const context = contextOf(layer, row, index);
        whole.add(`${context.position}:${context.tokens.join(" ")}`);
        peaks.push(context.tokens[layer.width >> 1]);
      }
      layer.places[row] = { whole, peaks };
    }
    return layer.places[row];
  }

  // How alike two units are: contexts in common, and peak tokens in common (with repeats).
  function overlap(layerA, rowA, layerB, rowB) {
    const a = placesOf(layerA, rowA), b = placesOf(layerB, rowB);
    let contexts = 0, peaks = 0;
    for (const place of a.whole) contexts += b.whole.has(place);
    const left = new Map();
    for (const peak of a.peaks) left.set(peak, (left.get(peak) ?? 0) + 1);
    for (const peak of b.peaks) {
      if (left.get(peak)) { left.set(peak, left.get(peak) - 1); peaks++; }
    }
    return { contexts, peaks, score: contexts + peaks / 1000 };
  }

  // ---- words

  function number(value) {
    if (value === undefined || Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 0.001 || size >= 1e5)) return value.toExponential(1);
    return Number(value.toPrecision(3)).toString().replace("-", "−");
  }

  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

  // ---- state in the fragment

  const FIELDS = { run: "run", layer: "layer", unit: "unit", sort: "sort", dir: "direction", q: "query" };
  const OTHER = { b: "other", match: "match", bunit: "otherUnit" };

  function readState(fragment) {
    const values = new URLSearchParams(fragment.replace(/^#/, ""));
    const state = {};
    for (const [key, name] of Object.entries({ ...FIELDS, ...OTHER })) {
      if (values.has(key)) state[name] = values.get(key);
    }
    const unit = /^(.+)\/(\d+)$/.exec(state.unit ?? "");
    if (unit) [state.layer, state.unit] = [unit[1], unit[2]];
    return state;
  }

  function writeState(state) {
    const values = new URLSearchParams();
    for (const [key, name] of Object.entries({ ...FIELDS, ...(state.other ? OTHER : {}) })) {
      if (name === "layer" || state[name] === undefined || state[name] === "") continue;
      values.set(key, name === "unit" ? `${state.layer}/${state.unit}` : state[name]);
    }
    return `#${values.toString().replaceAll("%2F", "/")}`;
  }

  return {
    unpack, layerKey, measuresOf, numContexts, contextOf, spell, conceptOf, inOrder, sorted, placesOf, overlap, number,
    plural, readState, writeState,
  };
})();
