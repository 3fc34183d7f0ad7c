"use strict";

// A click on a heading of a sortable table sorts its rows, first the highest; a second click reverses the order.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => sortRows(table, headings, column));
  });
}

function sortRows(table, headings, column) {
  const descending = headings[column].getAttribute("aria-sort") !== "descending";
  headings.forEach((heading) => heading.removeAttribute("aria-sort"));
  headings[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => compare(valueOf(a.cells[column]), valueOf(b.cells[column]), descending));
  body.append(...rows);
}

function valueOf(cell) {
  const text = cell.dataset.value ?? cell.textContent;
  return text === "" || text === "nan" || Number.isNaN(Number(text)) ? text : Number(text);
}

// Blank cells come last in both orders.
function compare(a, b, descending) {
  const blank = (value) => value === "" || value === "nan";
  if (blank(a) || blank(b)) return blank(a) - blank(b);
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  return descending ? -order : order;
}

// A filter shows the rows that contain its text.
for (const input of document.querySelectorAll("input[data-filter]")) {
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of document.getElementById(input.dataset.filter).tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
}

// A link to a closed part opens it.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", openTarget);
openTarget();
