// SPDX-License-Identifier: Apache-2.0
// Reads the plots and maps that somebody points at, and opens the run that a link leads to.
function watch(of, read) {
  for (const kind of ["pointermove", "pointerdown"]) of.addEventListener(kind, read);
}

function size(bytes) {
  const unit = [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]].find((u) => bytes >= u[1]);
  return unit ? `${Number((bytes / unit[1]).toPrecision(3))}${unit[0]}` : `${bytes}B`;
}

for (const map of document.querySelectorAll("svg.map")) {
  const data = map.dataset, texts = data.texts.split("|"), rows = data.rows.split(" ").map(Number);
  const pages = Number(data.pages), columns = Number(data.columns);
  const places = data.places.split(" ").flatMap((run) => {
    const [index, repeats] = run.split("x").map(Number);
    return Array(repeats).fill(index);
  });
  watch(map, (event) => {
    const box = map.getBoundingClientRect(), scale = map.viewBox.baseVal.width / box.width / 10;
    const column = Math.floor((event.clientX - box.left) * scale);
    const row = Math.floor((event.clientY - box.top) * scale);
    const inside = column >= 0 && column < columns && row >= 0 && row < rows.length;
    const index = inside ? places[row * columns + column] : -1;
    if (index < 0) return;
    const pfn = rows[row] + column * pages, end = pfn + pages - 1;
    map.querySelector(".cursor").setAttribute("d", `M${column * 10} ${row * 10}h9v9h-9z`);
    map.closest("figure").querySelector("output").textContent =
      `PFN 0x${pfn.toString(16)}-0x${end.toString(16)}: ${texts[index]}`;
  });
}

for (const figure of document.querySelectorAll(".timeline")) {
  const plot = figure.querySelector(".plot"), svg = plot.querySelector("svg");
  const { width, height } = svg.viewBox.baseVal;
  const end = Number(figure.dataset.end), top = Number(figure.dataset.top);
  const curves = Array.from(plot.querySelectorAll("polyline"), (line) => ({
    label: line.dataset.label.split(",")[0],
    points: Array.from(line.points, (point) => [point.x, point.y]),
  }));
  watch(plot, (event) => {
    const box = svg.getBoundingClientRect();
    const x = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * width;
    const words = [`${((x / width) * end).toFixed(1)} s`];
    for (const { label, points } of curves) {
      const at = points.findLast((point) => point[0] <= x);
      if (at && x <= points.at(-1)[0] + 1) {
        words.push(`${size(Math.round((1 - at[1] / height) * top))} ${label}`);
      }
    }
    svg.querySelector(".cursor").setAttribute("d", `M${x} 0V${height}`);
    figure.querySelector("output").textContent = words.join(" · ");
  });
}

function open() {
  const run = location.hash && document.getElementById(location.hash.slice(1));
  if (run) { run.open = true; run.scrollIntoView(); }
}
addEventListener("hashchange", open);
open();
