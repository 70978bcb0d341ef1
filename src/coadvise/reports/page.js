// Tables sort by a click or a key on a heading: up, down, and as they were. Without this, they are as they were.
const UNITS = { k: 1e3, M: 1e6, G: 1e9, min: 60, h: 3600 };
const value = (text) => {
  if (/^\d+ (h|min) /.test(text)) {
    return [...text.matchAll(/(\d+) (h|min|s)/g)].reduce((sum, [, n, unit]) => sum + n * (UNITS[unit] || 1), 0);
  }
  const found = text.match(/([-−]?)(\d[\d,]*\.?\d*)(?: ?(k|M|G|min|h)\b)?/);
  return found ? (found[1] ? -1 : 1) * found[2].replaceAll(",", "") * (UNITS[found[3]] || 1) : NaN;
};
const words = new Intl.Collator("en", { numeric: true });
const compare = (column, down) => (one, other) => {
  const [a, b] = [one, other].map((row) => row.cells[column].firstElementChild?.tagName === "SMALL"
    ? row.cells[column].firstChild.textContent : row.cells[column].textContent.trim());
  const absent = (text) => text === "" || text === "–";
  if (absent(a) || absent(b)) return absent(a) - absent(b);
  const [x, y] = [value(a), value(b)];
  const numbers = one.cells[column].classList.contains("r") && !isNaN(x) && !isNaN(y);
  return (numbers ? x - y : words.compare(a, b)) * (down ? -1 : 1);
};
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(head.firstChild);
    head.prepend(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "" }[head.getAttribute("aria-sort")] ?? "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      if (next) head.setAttribute("aria-sort", next);
      body.append(...(next ? rows.toSorted(compare(column, next === "descending")) : rows));
    });
  });
}
// What scrolls sideways can be reached by keyboard, and nothing else can.
const reach = new ResizeObserver((found) => found.forEach(({ target }) => {
  if (target.scrollWidth > target.clientWidth + 1) target.tabIndex = 0;
  else target.removeAttribute("tabindex");
}));
document.querySelectorAll(".scroll, figure").forEach((one) => reach.observe(one));
