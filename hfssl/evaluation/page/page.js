// The page is complete without this script, which adds sorting and filtering. It only moves and hides what is there.
"use strict";

function value(row, column) {
  const cell = row.cells[column];
  if (column === 0) return cell.dataset.value;
  return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
}

// Cells without a figure stay below, whichever way a column is sorted.
function compare(one, other, sign) {
  if (one === null || other === null) return (one === null) - (other === null);
  if (typeof one === "string") return sign * one.localeCompare(other, "en", { numeric: true });
  return sign * (one - other);
}

function sort(table, heading) {
  const column = Number(heading.dataset.column);
  const now = heading.getAttribute("aria-sort");
  const opposite = { ascending: "descending", descending: "ascending" };
  const direction = now ? opposite[now] : heading.dataset.first;
  for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => compare(value(a, column), value(b, column), sign)));
}

for (const heading of document.querySelectorAll("th[data-column]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  button.setAttribute("aria-label", heading.dataset.label);
  button.addEventListener("click", () => sort(heading.closest("table"), heading));
  heading.append(button);
}

const query = document.getElementById("query");
const boxes = { ours: document.getElementById("ours"), published: document.getElementById("published") };

function filter() {
  const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0, all = 0;
  for (const table of document.querySelectorAll("table")) {
    let left = 0;
    for (const row of table.tBodies[0].rows) {
      const name = row.cells[0].dataset.value.toLowerCase();
      row.hidden = !boxes[row.dataset.kind].checked || !words.every((word) => name.includes(word));
      left += !row.hidden;
      all += 1;
    }
    shown += left;
    table.closest("section").querySelector(".none").hidden = left > 0;
  }
  document.getElementById("count").textContent = `${shown} of ${all} rows`;
}

for (const control of [query, boxes.ours, boxes.published]) control.addEventListener("input", filter);
query.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  query.value = "";
  filter();
});
document.getElementById("filter").hidden = false;
filter();
