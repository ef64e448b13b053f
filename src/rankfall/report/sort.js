// Tables sort at a click on a heading, or Enter on it; without JavaScript they stay as they are.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (!body || body.rows.length < 3) continue;
  const original = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    if (!heading.textContent.trim() || !original.every((row) => row.cells.length > column)) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      const next = now === "ascending" ? "descending" : now === "descending" ? null : "ascending";
      for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
      if (next) heading.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const rows = next ? [...original].sort((a, b) => compare(a.cells[column], b.cells[column], sign)) : original;
      body.append(...rows);
    });
  });
}
function compare(a, b, sign) {
  const [x, y] = [text(a), text(b)];
  const [p, q] = [number(x), number(y)];
  if (!Number.isNaN(p) && !Number.isNaN(q)) return sign * (p - q);
  // What is no number comes last among numbers, in either direction.
  if (!Number.isNaN(p) || !Number.isNaN(q)) return Number.isNaN(p) ? 1 : -1;
  return sign * x.localeCompare(y, "en", { numeric: true });
}
function text(cell) { return cell.textContent.trim(); }
function number(value) {
  // "−1.2e−9", "12 %", "384 × 1536" (by the product of its sides)
  const plain = value.replace(/−/g, "-").replace(/[\s,]/g, "");
  if (/^\d+(×\d+)+$/.test(plain)) return plain.split("×").reduce((product, side) => product * side, 1);
  return /^[+-]?(\d|\.\d)/.test(plain) ? parseFloat(plain) : NaN;
}
