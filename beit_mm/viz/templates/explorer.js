// biome-ignore lint/suspicious/noRedundantUseStrict: included in a page as a classic script, not as a module
'use strict';
// The state is part of the address: #image=0&patch=3,5&layer=12&map=mean. Then follow the settings
// that are not the default: &overlay=off&opacity=60&colors=viridis.

const $ = id => document.getElementById(id);
const clamp = (value, high) => Math.min(Math.max(value || 0, 0), high);
const toBytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const percent = share => `${(100 * share).toPrecision(3).replace(/\.?0+$/, '')} %`;

const data = JSON.parse($('data').textContent);
const palettes = Object.fromEntries(data.palettes.map(([name, text]) => [name, toBytes(text)]));
const defaults = {
  overlay: 'on',
  opacity: Math.round(100 * data.opacity),
  colors: Object.keys(palettes)[0],
};
const state = {image: 0, row: 0, column: 0, layer: 1, map: 'mean', ...defaults};
let current; // the decoded entry of the selected image

function makeCanvas(width, height) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  return [canvas, canvas.getContext('2d')];
}

async function decode(entry) {
  if (entry.decoded) return entry.decoded;
  const [rows, columns] = entry.grid;
  const photo = new Image();
  photo.src = entry.picture;
  await photo.decode();
  const heads = Array.from({length: entry.heads}, (_, head) => String(head + 1));
  entry.decoded = {
    ...entry,
    rows,
    columns,
    photo,
    maps: ['mean', 'rollout', ...heads],
    levels: toBytes(entry.levels),
    maximum: new Float32Array(toBytes(entry.maximum).buffer),
    toCls: new Float32Array(toBytes(entry.to_cls).buffer),
  };
  return entry.decoded;
}

// How much the selected patch attends to each patch in one map, and to [CLS].
function readMap(map) {
  const cells = current.rows * current.columns;
  if (map === 'mean') {
    const shares = new Float32Array(cells);
    let toCls = 0;
    for (let head = 1; head <= current.heads; head++) {
      const one = readMap(String(head));
      one.shares.forEach((share, i) => {
        shares[i] += share / current.heads;
      });
      toCls += one.toCls / current.heads;
    }
    return {shares, toCls};
  }
  const index = map === 'rollout' ? current.heads : map - 1;
  const block = (state.layer - 1) * (current.heads + 1) + index;
  const row = block * cells + state.row * current.columns + state.column;
  const levels = current.levels.subarray(row * cells, (row + 1) * cells);
  const unit = current.maximum[row] / 255 ** 2;
  return {shares: Float32Array.from(levels, level => level ** 2 * unit), toCls: current.toCls[row]};
}

// The shares with the darkest and the brightest color. Those of the rollout are quantiles of the
// other patches: its values differ little, except for a few patches such as the selected one.
function findLimits(map, shares) {
  if (map !== 'rollout' || shares.length === 1) return [0, Math.max(...shares)];
  const own = state.row * current.columns + state.column;
  const others = shares.filter((_, i) => i !== own).sort();
  return data.rollout_range.map(quantile => others[Math.floor(quantile * (others.length - 1))]);
}

// Return a canvas with one pixel per patch.
function paint(map, shares, opacity) {
  const [low, high] = findLimits(map, shares);
  const palette = palettes[state.colors];
  const [canvas, context] = makeCanvas(current.columns, current.rows);
  const pixels = context.createImageData(canvas.width, canvas.height);
  shares.forEach((share, i) => {
    const level = clamp(Math.round((255 * (share - low)) / (high - low)), 255);
    pixels.data.set(palette.subarray(3 * level, 3 * level + 3), 4 * i);
    pixels.data[4 * i + 3] = 255 * opacity;
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function mapName(map) {
  if (map === 'mean') return 'mean of the heads';
  return map === 'rollout' ? 'rollout' : `head ${map}`;
}

function draw() {
  for (const map of current.maps) {
    const small = $('maps').querySelector(`[value="${map}"] + canvas`);
    small.width = current.columns;
    small.height = current.rows;
    small.getContext('2d').drawImage(paint(map, readMap(map).shares, 1), 0, 0);
  }
  const {shares, toCls} = readMap(state.map);
  drawView(shares);
  writeStatus(shares, toCls);
  const patch = `${state.column + 1},${state.row + 1}`;
  let hash = `#image=${state.image}&patch=${patch}&layer=${state.layer}&map=${state.map}`;
  for (const [name, value] of Object.entries(defaults)) {
    if (state[name] !== value) hash += `&${name}=${state[name]}`;
  }
  // A page inside a notebook has no address of its own.
  if (location.protocol !== 'about:' && location.hash !== hash) history.replaceState(null, '', hash);
}

function drawView(shares) {
  const view = $('view');
  const context = view.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.drawImage(current.photo, 0, 0, view.width, view.height);
  if (state.overlay === 'on') {
    const overlay = paint(state.map, shares, state.opacity / 100);
    context.drawImage(overlay, 0, 0, view.width, view.height);
  }
  const width = view.width / current.columns;
  const height = view.height / current.rows;
  const line = Math.max(2, view.width / 240);
  for (const [color, lineWidth] of [
    ['#000', 2 * line],
    ['#fff', line],
  ]) {
    context.strokeStyle = color;
    context.lineWidth = lineWidth;
    context.strokeRect(state.column * width, state.row * height, width, height);
  }
}

function writeStatus(shares, toCls) {
  const best = shares.indexOf(Math.max(...shares));
  const column = (best % current.columns) + 1;
  const row = Math.floor(best / current.columns) + 1;
  const [low, high] = findLimits(state.map, shares);
  $('low').textContent = state.map === 'rollout' ? `≤ ${percent(low)}` : percent(low);
  $('high').textContent = state.map === 'rollout' ? `≥ ${percent(high)}` : percent(high);
  $('layer-number').value = `${state.layer} of ${current.layers}`;
  $('layer').setAttribute('aria-valuetext', $('layer-number').value);
  $('status').textContent =
    `Patch in column ${state.column + 1}, row ${state.row + 1}; ` +
    `layer ${state.layer}, ${mapName(state.map)}. ` +
    `Attends most to column ${column}, row ${row}: ${percent(shares[best])}. ` +
    `To [CLS]: ${percent(toCls)}.`;
}

function makeMapButton(map) {
  const [label, input, caption] = ['label', 'input', 'span'].map(tag =>
    document.createElement(tag),
  );
  Object.assign(input, {type: 'radio', name: 'map', value: map, checked: map === state.map});
  input.addEventListener('change', () => {
    state.map = map;
    draw();
  });
  caption.textContent = /\d/.test(map) ? `head ${map}` : map;
  label.append(input, makeCanvas(1, 1)[0], caption);
  return label;
}

async function showImage(index) {
  current = await decode(data.images[index]);
  const view = $('view');
  const scale = Math.max(1, Math.ceil(720 / current.photo.width));
  view.width = current.photo.width * scale;
  view.height = current.photo.height * scale;
  view.style.maxWidth = `calc(85vh * ${view.width / view.height})`;
  state.image = index;
  state.layer = Math.max(clamp(state.layer, current.layers), 1);
  if (!current.maps.includes(state.map)) state.map = 'mean';
  $('layer').max = current.layers;
  $('layer').value = state.layer;
  $('maps').replaceChildren(...current.maps.map(makeMapButton));
  if ($('image')) $('image').value = index;
  showSettings();
  selectPatch(state.row, state.column);
  document.body.dataset.ready = index;
}

function selectPatch(row, column) {
  state.row = clamp(row, current.rows - 1);
  state.column = clamp(column, current.columns - 1);
  draw();
}

function showAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const requested = Number(given.get('image'));
  const index = data.images[requested] ? requested : 0;
  const {grid, layers} = data.images[index];
  const [column, row] = (given.get('patch') || '').split(',').map(Number);
  state.column = column ? column - 1 : Math.floor(grid[1] / 2);
  state.row = row ? row - 1 : Math.floor(grid[0] / 2);
  state.layer = Number(given.get('layer')) || layers;
  state.map = given.get('map') || 'mean';
  state.overlay = given.get('overlay') === 'off' ? 'off' : 'on';
  state.opacity = given.has('opacity') ? clamp(Number(given.get('opacity')), 100) : defaults.opacity;
  state.colors = Object.hasOwn(palettes, given.get('colors')) ? given.get('colors') : defaults.colors;
  showImage(index);
}

function showSettings() {
  $('overlay').checked = state.overlay === 'on';
  $('opacity').value = state.opacity;
  $('opacity-number').value = `${state.opacity} %`;
  $('colors').value = state.colors;
  const context = $('bar').getContext('2d');
  const pixels = context.createImageData(256, 1);
  for (let level = 0; level < 256; level++) {
    const color = palettes[state.colors].subarray(3 * level, 3 * level + 3);
    pixels.data.set([...color, 255], 4 * level);
  }
  context.putImageData(pixels, 0, 0);
}

function changeSettings() {
  state.overlay = $('overlay').checked ? 'on' : 'off';
  state.opacity = Number($('opacity').value);
  state.colors = $('colors').value;
  showSettings();
  draw();
}

$('view').addEventListener('click', event => {
  const box = $('view').getBoundingClientRect();
  selectPatch(
    Math.floor(((event.clientY - box.top) / box.height) * current.rows),
    Math.floor(((event.clientX - box.left) / box.width) * current.columns),
  );
});
$('view').addEventListener('keydown', event => {
  const steps = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
  const step = steps[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  selectPatch(state.row + step[0], state.column + step[1]);
});
$('layer').addEventListener('input', () => {
  state.layer = Number($('layer').value);
  draw();
});
for (const id of ['overlay', 'opacity', 'colors']) $(id).addEventListener('input', changeSettings);
if ($('image')) $('image').addEventListener('change', () => showImage(Number($('image').value)));
$('colors').append(...Object.keys(palettes).map(name => new Option(name)));
addEventListener('hashchange', showAddress);
showAddress();
