"use strict";
// What pages of contexts are made of. Texts only ever become text nodes and attributes' values, never markup.
const Elements = (() => {
  function element(name, properties = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key.includes("-") || key === "role" || key === "for") node.setAttribute(key, value);
      else node[key] = value;
    }
    node.append(...children);
    return node;
  }

  function choices(select, items, chosen) {
    select.replaceChildren(...items.map(([value, label]) => element("option", { value, textContent: label })));
    select.value = chosen;
  }

  function field(label, control, hint) {
    return element("label", { className: "field", title: hint ?? "" },
      element("span", { textContent: label }), control);
  }

  // Text as it can be seen: a line break, a tab or a lone space has a sign of its own.
  function visible(text) {
    if (text === "") return "\ufffd";
    if (text === " ") return "·";
    return text.replaceAll("\n", "↵").replaceAll("\r", "␍").replaceAll("\t", "⇥");
  }

  // A token; `share` is its activation over the unit's largest, signed.
  function tokenNode(text, share, isPeak) {
    const node = element("span", { className: "token", textContent: visible(text) });
    if (Math.abs(share) >= 0.01) {
      node.classList.add(share < 0 ? "negative" : "positive");
      node.style.setProperty("--strength", Math.min(1, Math.abs(share)).toFixed(3));
    }
    if (node.textContent !== text) node.classList.add("made-visible");
    if (/^<\|.*\|>$/.test(text)) node.classList.add("special");
    if (isPeak) node.classList.add("peak");
    return node;
  }

  // The tokens of a context in a line; `shareOf` and `titleOf` are of a token's index.
  function contextLine(codes, texts, shareOf, titleOf) {
    const line = element("p", { className: "context-text" });
    codes.forEach((code, index) => {
      if (!code) return;
      const text = texts[code - 1], isPeak = index === codes.length >> 1;
      const node = tokenNode(text, shareOf(index), isPeak);
      if (titleOf) node.title = titleOf(index);
      if (isPeak && text.startsWith(" ")) line.append(element("wbr"));  // the outline stays in one piece
      line.append(node);
      if (text.includes("\n")) line.append(element("wbr"));
    });
    return line;
  }

  return { element, choices, field, visible, tokenNode, contextLine };
})();
