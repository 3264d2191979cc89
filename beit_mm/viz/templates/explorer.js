// biome-ignore lint/suspicious/noRedundantUseStrict: included in a page as a classic script, not as a module
'use strict';
// The state is part of the address: #image=0&patch=3,5&layer=12&map=mean&color=1.

const $ = id => document.getElementById(id);
const clamp = (value, high) => Math.min(Math.max(value || 0, 0), high);
const toBytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const percent = share => `${(100 * share).toPrecision(3).replace(/\.?0+$/, '')} %`;

const data = JSON.parse($('data').textContent);
const palette = toBytes(data.palette);
const state = {image: 0, row: 0, column: 0, layer: 1, map: 'mean', color: false};
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
    gray: toGray(photo),
    maps: ['mean', 'rollout', ...heads],
    levels: toBytes(entry.levels),
    maximum: new Float32Array(toBytes(entry.maximum).buffer),
    toCls: new Float32Array(toBytes(entry.to_cls).buffer),
  };
  return entry.decoded;
}

function toGray(photo) {
  const [canvas, context] = makeCanvas(photo.width, photo.height);
  context.drawImage(photo, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const [r, g, b] = pixels.data.subarray(i, i + 3);
    pixels.data.fill(0.299 * r + 0.587 * g + 0.114 * b, i, i + 3);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
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
  const unit = current.maximum[row] / 255;
  return {shares: Float32Array.from(levels, level => level * unit), toCls: current.toCls[row]};
}

// The share with the brightest color. The rollout is scaled without the selected patch, whose own
// share would leave the others black.
function brightest(map, shares) {
  const own = state.row * current.columns + state.column;
  return Math.max(...(map === 'rollout' ? shares.filter((_, i) => i !== own) : shares));
}

// Return a canvas with one pixel per patch.
function paint(map, shares, opacity) {
  const high = brightest(map, shares) || 1;
  const [canvas, context] = makeCanvas(current.columns, current.rows);
  const pixels = context.createImageData(canvas.width, canvas.height);
  shares.forEach((share, i) => {
    const level = Math.min(Math.round((255 * share) / high), 255);
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
  const color = state.color ? '&color=1' : '';
  const patch = `${state.column + 1},${state.row + 1}`;
  const hash = `#image=${state.image}&patch=${patch}&layer=${state.layer}&map=${state.map}${color}`;
  // A page inside a notebook has no address of its own.
  if (location.protocol !== 'about:' && location.hash !== hash) history.replaceState(null, '', hash);
}

function drawView(shares) {
  const view = $('view');
  const context = view.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.drawImage(state.color ? current.photo : current.gray, 0, 0, view.width, view.height);
  context.drawImage(paint(state.map, shares, data.opacity), 0, 0, view.width, view.height);
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
  $('high').textContent = percent(brightest(state.map, shares));
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
  $('color').checked = state.color;
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
  state.color = given.has('color');
  showImage(index);
}

function drawScale() {
  const context = $('bar').getContext('2d');
  const pixels = context.createImageData(256, 1);
  for (let level = 0; level < 256; level++) {
    pixels.data.set([...palette.subarray(3 * level, 3 * level + 3), 255], 4 * level);
  }
  context.putImageData(pixels, 0, 0);
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
$('color').addEventListener('change', () => {
  state.color = $('color').checked;
  draw();
});
if ($('image')) $('image').addEventListener('change', () => showImage(Number($('image').value)));
addEventListener('hashchange', showAddress);
drawScale();
showAddress();
