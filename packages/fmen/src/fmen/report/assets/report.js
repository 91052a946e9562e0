"use strict";

// Theme: the system's until the button is pressed. The choice is stored per address, if the browser allows it.
const root = document.documentElement;
const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");

function stored(value) {
  try {
    if (value) localStorage.setItem("fmen-theme", value);
    return localStorage.getItem("fmen-theme");
  } catch {
    return null;
  }
}

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
}

function showTheme() {
  theme.setAttribute("aria-pressed", String(isDark()));
}

if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  stored(root.dataset.theme);
  showTheme();
});
dark.addEventListener("change", showTheme);
showTheme();

// Tables: the button of a heading sorts by its column, in ascending order first; pressing it again reverses the order.
function sortBy(head) {
  const table = head.closest("table");
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const column = head.cellIndex;
  const body = table.tBodies[0];
  const key = (row) => row.cells[column].dataset.order ?? row.cells[column].textContent;
  const figures = [...body.rows].every((row) => "order" in row.cells[column].dataset);
  const number = (text) => ({ inf: Infinity, "-inf": -Infinity })[text] ?? Number(text);
  const compare = (a, b) => {
    if (!figures) return key(a).localeCompare(key(b), undefined, { numeric: true });
    const [x, y] = [number(key(a)), number(key(b))];
    return x < y ? -1 : Number(x > y);
  };
  body.append(...[...body.rows].sort((a, b) => (ascending ? compare(a, b) : compare(b, a))));
}

for (const button of document.querySelectorAll(".sortable thead button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}

// Viewers: two stacked layers; the upper one is clipped at the slider.
function setUpViewer(article) {
  const frame = article.querySelector(".frame");
  const range = frame.querySelector("input");
  const layers = new Map([...frame.querySelectorAll(".layer")].map((image) => [image.dataset.layer, image]));
  const sources = new Map([...layers].map(([kind, image]) => [kind, image.src]));
  const selects = article.querySelectorAll("select");
  const views = article.querySelectorAll("[data-view]");
  const ratio = frame.style.getPropertyValue("--ratio");

  function moveBorder() {
    frame.style.setProperty("--split", `${range.value}%`);
  }

  function showLayers() {
    for (const image of layers.values()) delete image.dataset.at;
    // The right side first: if both sides show the same layer, it is then shown unclipped.
    for (const select of [...selects].reverse()) {
      layers.get(select.value).dataset.at = select.dataset.side;
      frame.querySelector(`.tag.${select.dataset.side}`).textContent = select.selectedOptions[0].textContent;
    }
  }

  function showView(view) {
    const crop = article.querySelector(`[data-crop="${view}"]`);
    for (const [kind, image] of layers) {
      image.src = crop ? crop.querySelector(`[data-layer="${kind}"] img`).src : sources.get(kind);
    }
    frame.style.setProperty("--ratio", crop ? crop.dataset.ratio : ratio);
    frame.classList.toggle("zoomed", Boolean(crop));
    for (const button of views) button.setAttribute("aria-pressed", String(button.dataset.view === String(view)));
  }

  // Both sides beside each other, with their names; a crop four times as large, so that its pixels can be seen.
  function savePNG() {
    const [left, right] = [...selects].map((select) => layers.get(select.value));
    const zoom = frame.classList.contains("zoomed") ? 4 : 1;
    const [width, height] = ["naturalWidth", "naturalHeight"].map((side) => zoom * Math.max(left[side], right[side]));
    const canvas = document.createElement("canvas");
    canvas.width = 2 * width + 8;
    canvas.height = height + 32;
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    context.fillStyle = "#000";
    context.font = "16px sans-serif";
    [left, right].forEach((image, side) => {
      const x = side * (width + 8);
      context.drawImage(image, x, 0, width, height);
      context.fillText(selects[side].selectedOptions[0].textContent, x + 4, height + 22, width - 8);
    });
    const view = article.querySelector("[data-view][aria-pressed=true]").textContent;
    const names = [...selects].map((select) => select.selectedOptions[0].textContent).join(" and ");
    const link = document.createElement("a");
    link.download = `${article.querySelector("h3").textContent}, ${view.toLowerCase()}, ${names}.png`;
    link.href = canvas.toDataURL("image/png");
    link.click();
  }

  function drag(event) {
    const box = frame.getBoundingClientRect();
    range.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    moveBorder();
  }

  frame.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    frame.setPointerCapture(event.pointerId);
    range.focus({ preventScroll: true });
    drag(event);
  });
  frame.addEventListener("mousedown", (event) => event.preventDefault()); // keeps the focus on the slider
  frame.addEventListener("pointermove", (event) => {
    if (frame.hasPointerCapture(event.pointerId)) drag(event);
  });
  range.addEventListener("input", moveBorder);
  for (const select of selects) select.addEventListener("change", showLayers);
  for (const button of views) button.addEventListener("click", () => showView(button.dataset.view));
  article.querySelector(".save-png").addEventListener("click", savePNG);
  for (const figure of article.querySelectorAll(".strip figure")) {
    figure.addEventListener("click", () => {
      showView(figure.closest("[data-crop]").dataset.crop);
      article.querySelector(".viewer").scrollIntoView({ block: "nearest" });
    });
  }
}

document.querySelectorAll("article").forEach(setUpViewer);

// Expand all sections for printing.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => (each.open = true)));
