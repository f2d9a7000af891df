// SPDX-License-Identifier: MIT
"use strict";

// The ways a 1-RTT packet can take, and where to find how many took it.
const PATHS = [
  { name: "NIC, by SA index", color: "#1a7f37", count: (c) => device(c, "tx_quic_index_packets") },
  { name: "NIC, keys inline", color: "#0969da", count: (c) => device(c, "tx_quic_inline_packets") },
  { name: "kernel, in software", color: "#bf8700", count: (c) => c.kernel.TxSoftware || 0 },
  { name: "this server itself", color: "#cf222e", count: (c) => c.server.send.user.packets },
];
const KEPT = 120; // samples in the plot
const INTERVAL_MS = 500;

const samples = []; // {time, counts}
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function device(counters, name) {
  return counters.devices.reduce((sum, d) => sum + (d.counters[name] || 0), 0);
}

// Packets a second of path @p between samples @i - 1 and @i.
function rate(i, p) {
  const ms = samples[i].time - samples[i - 1].time;
  return ms > 0 ? ((samples[i].counts[p] - samples[i - 1].counts[p]) * 1000) / ms : 0;
}

function row(cells) {
  const tr = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    if (typeof cell === "number") {
      td.className = "number";
      td.textContent = cell.toLocaleString("en");
    } else {
      td.append(cell);
    }
    tr.append(td);
  }
  return tr;
}

function svg(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function draw() {
  const plot = byId("plot");
  const width = 960, height = 220, left = 70, bottom = 20;
  let top = 10;
  for (let i = 1; i < samples.length; i++)
    for (let p = 0; p < PATHS.length; p++) top = Math.max(top, rate(i, p));
  const x = (i) => left + ((width - left - 10) * (KEPT - samples.length + i)) / (KEPT - 1);
  const y = (value) => height - bottom - ((height - bottom - 15) * value) / top;
  const nodes = [];
  for (const part of [0, 0.5, 1]) {
    nodes.push(svg("path", { d: `M${left} ${y(top * part)}H${width - 10}`, stroke: "#d8dee4" }));
    nodes.push(svg("text", { x: left - 8, y: y(top * part) + 4, "text-anchor": "end", "font-size": 12 },
                   Math.round(top * part).toLocaleString("en")));
  }
  PATHS.forEach((path, p) => {
    const points = samples.slice(1).map((_, i) => `${x(i + 1).toFixed(1)},${y(rate(i + 1, p)).toFixed(1)}`);
    nodes.push(svg("polyline", { points: points.join(" "), fill: "none", stroke: path.color, "stroke-width": 2 }));
  });
  plot.replaceChildren(...nodes);
}

function show(counters) {
  samples.push({ time: counters.time_ms, counts: PATHS.map((path) => path.count(counters)) });
  if (samples.length > KEPT) samples.shift();
  const last = samples.length - 1;

  byId("paths").replaceChildren(...PATHS.map((path, p) => {
    const name = document.createElement("span");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = path.color;
    name.append(swatch, path.name);
    return row([name, samples[last].counts[p], last > 0 ? Math.round(rate(last, p)) : 0]);
  }));
  byId("sadb").replaceChildren(
    ...counters.devices.map((d) =>
      row([`${d.name}, offload ${d.enabled ? "on" : "off"}`, d.sa_count, d.sa_max ? `of ${d.sa_max}` : ""])),
    row(["kernel", counters.kernel.SaCurr || 0, ""]));
  byId("kernel").replaceChildren(
    ...Object.entries(counters.kernel).filter(([, value]) => value).map(([name, value]) => row([name, value])));
  draw();
  window.counters = counters;
}

let failures = 0;
async function poll() {
  try {
    const response = await fetch("/status/counters.json", { cache: "no-store" });
    if (!response.ok) throw new Error(`status ${response.status}`);
    show(await response.json());
  } catch (error) {
    failures++;
    console.error(error);
  }
  setTimeout(poll, INTERVAL_MS);
}

// What the browser says that it spoke: "h3" for HTTP/3.
function protocolOf(url) {
  const entries = performance.getEntriesByName(new URL(url, location).href);
  return entries.length ? entries[entries.length - 1].nextHopProtocol : "?";
}

async function download(path) {
  const result = byId("result"), bar = byId("progress");
  const response = await fetch(path, { cache: "no-store" });
  const total = Number(response.headers.get("content-length"));
  const parts = [];
  let received = 0;
  bar.max = total || 1;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    received += value.length;
    bar.value = received;
    result.textContent = `${received.toLocaleString("en")} of ${total.toLocaleString("en")} bytes`;
  }
  const digest = await crypto.subtle.digest("SHA-256", await new Blob(parts).arrayBuffer());
  const sha256 = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const summary = { status: response.status, bytes: received, expected: total, sha256, protocol: protocolOf(path) };
  const code = document.createElement("code");
  code.textContent = sha256;
  result.replaceChildren(`${received.toLocaleString("en")} bytes over ${summary.protocol}, SHA-256 `, code);
  return summary;
}

byId("download").addEventListener("submit", (event) => {
  event.preventDefault();
  download(byId("path").value).catch((error) => { byId("result").textContent = String(error); });
});
byId("protocol").textContent = performance.getEntriesByType("navigation")[0].nextHopProtocol || "?";
poll();
