// Shows the values under the pointer, in every chart.
const tip = document.getElementById("tip");
const LEFT = 62, RIGHT = 14, WIDTH = 860, TOP = 26, BOTTOM = 30, HEIGHT = 210;
const clock = s => Math.floor(s / 60) + ":" + String(Math.floor(s % 60)).padStart(2, "0");
const short = v => v >= 1000 ? v.toFixed(0) : String(Number(v.toPrecision(3)));
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const data = JSON.parse(svg.dataset.chart);
  const cross = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cross.setAttribute("class", "cross"); cross.setAttribute("y1", TOP); cross.setAttribute("y2", HEIGHT - BOTTOM);
  cross.style.display = "none"; svg.append(cross);
  const at = x => LEFT + (x - data.x[0]) / (data.x[1] - data.x[0]) * (WIDTH - LEFT - RIGHT);
  svg.addEventListener("mousemove", event => {
    const box = svg.getBoundingClientRect();
    const place = (event.clientX - box.left) / box.width * WIDTH;
    const x = data.x[0] + (place - LEFT) / (WIDTH - LEFT - RIGHT) * (data.x[1] - data.x[0]);
    const near = points => points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
    const found = data.series.filter(s => s[2].length).map(s => [s[0], near(s[2])]);
    if (!found.length) return;
    const best = near(found.map(f => f[1]))[0];
    const lines = found.filter(f => Math.abs(f[1][0] - best) < 1).map(f => f[0] + ": " + short(f[1][1]) + " " + data.unit);
    tip.textContent = (data.time ? clock(best) : short(best)) + "\n" + lines.join("\n");
    tip.style.display = "block";
    tip.style.left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = event.clientY + 14 + "px";
    cross.style.display = ""; cross.setAttribute("x1", at(best)); cross.setAttribute("x2", at(best));
  });
  svg.addEventListener("mouseleave", () => { tip.style.display = "none"; cross.style.display = "none"; });
}
