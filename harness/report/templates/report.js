// SPDX-License-Identifier: Apache-2.0
// Says what is in the block that somebody points at.
for (const map of document.querySelectorAll("svg.map")) {
  const texts = map.dataset.texts.split("|");
  const rows = map.dataset.rows.split(" ").map(Number);
  const tops = map.dataset.tops.split(" ").map(Number);
  const pages = Number(map.dataset.pages), columns = Number(map.dataset.columns);
  const places = map.dataset.places.split(" ").flatMap((run) => {
    const [index, repeats] = run.split("x").map(Number);
    return Array(repeats).fill(index);
  });
  const output = map.parentElement.querySelector("output");
  const point = (event) => {
    const box = map.getBoundingClientRect(), scale = map.viewBox.baseVal.width / box.width;
    const column = Math.floor((event.clientX - box.left) * scale / 10);
    const y = (event.clientY - box.top) * scale;
    const row = tops.findIndex((top) => y >= top && y < top + 10);
    const index = row < 0 || column < 0 || column >= columns ? -1 : places[row * columns + column];
    if (index < 0) return;
    const pfn = rows[row] + column * pages;
    output.textContent =
      `PFN 0x${pfn.toString(16)}-0x${(pfn + pages - 1).toString(16)}: ${texts[index]}`;
  };
  map.addEventListener("pointermove", point);
  map.addEventListener("click", point);
}
