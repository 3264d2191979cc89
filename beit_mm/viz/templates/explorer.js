'use strict';
const $ = id => document.getElementById(id);
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const data = JSON.parse($('data').textContent),
  palette = bytes(data.palette);
const state = {image: 0, row: 0, column: 0, layer: 1, map: 'mean', color: false};
let now; // the decoded entry of the selected image

function decode(entry) {
  if (entry.decoded) return entry.decoded;
  const [rows, columns] = entry.grid;
  return (entry.decoded = {
    ...entry,
    rows,
    columns,
    cells: rows * columns,
    maps: ['mean', 'rollout', ...Array.from({length: entry.heads}, (_, head) => String(head + 1))],
    levels: bytes(entry.levels),
    maximum: new Float32Array(bytes(entry.maximum).buffer),
    toCls: new Float32Array(bytes(entry.to_cls).buffer),
  });
}

// How much the selected patch attends to each patch in one map, and to [CLS].
function read(map) {
  if (map === 'mean') {
    const shares = new Float32Array(now.cells);
    let toCls = 0;
    for (let head = 0; head < now.heads; head++) {
      const one = read(String(head + 1));
      one.shares.forEach((share, i) => (shares[i] += share / now.heads));
      toCls += one.toCls / now.heads;
    }
    return {shares, toCls};
  }
  const which = map === 'rollout' ? now.heads : map - 1;
  const row =
    ((state.layer - 1) * (now.heads + 1) + which) * now.cells +
    state.row * now.columns +
    state.column;
  const levels = now.levels.subarray(row * now.cells, (row + 1) * now.cells),
    unit = now.maximum[row] / 255;
  return {shares: Float32Array.from(levels, level => level * unit), toCls: now.toCls[row]};
}

// The share with the brightest color. The rollout is scaled without the selected patch, which would leave the others black.
function brightest(map, shares) {
  const own = state.row * now.columns + state.column;
  return Math.max(...(map === 'rollout' ? shares.filter((_, i) => i !== own) : shares));
}

function paint(map, shares, opacity) {
  // one pixel per patch
  const high = brightest(map, shares) || 1,
    canvas = document.createElement('canvas');
  canvas.width = now.columns;
  canvas.height = now.rows;
  const context = canvas.getContext('2d'),
    pixels = context.createImageData(now.columns, now.rows);
  shares.forEach((share, i) => {
    const level = Math.min(Math.round((255 * share) / high), 255);
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = palette[3 * level + c];
    pixels.data[4 * i + 3] = 255 * opacity;
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function name(map) {
  return map === 'mean' ? 'mean of the heads' : map === 'rollout' ? 'rollout' : 'head ' + map;
}
const percent = share => (100 * share).toPrecision(3).replace(/\.?0+$/, '') + ' %';

function draw() {
  for (const map of now.maps) {
    const small = $('maps').querySelector(`[value="${map}"] + canvas`),
      picture = paint(map, read(map).shares, 1);
    small.width = now.columns;
    small.height = now.rows;
    small.getContext('2d').drawImage(picture, 0, 0);
  }
  const view = $('view'),
    context = view.getContext('2d'),
    found = read(state.map);
  context.imageSmoothingEnabled = false;
  context.drawImage(state.color ? now.image : now.grey, 0, 0, view.width, view.height);
  context.drawImage(paint(state.map, found.shares, data.opacity), 0, 0, view.width, view.height);
  const [w, h] = [view.width / now.columns, view.height / now.rows],
    edge = Math.max(2, view.width / 240);
  for (const [colour, width] of [
    ['#000', 2 * edge],
    ['#fff', edge],
  ]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(state.column * w, state.row * h, w, h);
  }
  const best = found.shares.indexOf(Math.max(...found.shares));
  $('high').textContent = percent(brightest(state.map, found.shares));
  $('layer-number').value = `${state.layer} of ${now.layers}`;
  $('layer').setAttribute('aria-valuetext', $('layer-number').value);
  $('status').textContent =
    `Patch in column ${state.column + 1}, row ${state.row + 1}; layer ${state.layer}, ${name(state.map)}. ` +
    `Attends most to column ${(best % now.columns) + 1}, row ${Math.floor(best / now.columns) + 1}: ${percent(found.shares[best])}. ` +
    `To [CLS]: ${percent(found.toCls)}.`;
  const hash =
    `#image=${state.image}&patch=${state.column + 1},${state.row + 1}&layer=${state.layer}&map=${state.map}` +
    (state.color ? '&color=1' : '');
  if (location.hash !== hash) history.replaceState(null, '', hash);
}

async function show(index) {
  const entry = decode(data.images[index]),
    picture = new Image();
  picture.src = entry.picture;
  await picture.decode();
  const scale = Math.max(1, Math.ceil(720 / picture.width)),
    view = $('view'),
    grey = document.createElement('canvas');
  grey.width = picture.width;
  grey.height = picture.height;
  const context = grey.getContext('2d');
  context.drawImage(picture, 0, 0);
  const pixels = context.getImageData(0, 0, grey.width, grey.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const [r, g, b] = pixels.data.subarray(i, i + 3);
    pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = 0.299 * r + 0.587 * g + 0.114 * b;
  }
  context.putImageData(pixels, 0, 0);
  [view.width, view.height] = [picture.width * scale, picture.height * scale];
  view.style.maxWidth = `calc(85vh * ${view.width / view.height})`;
  const limit = (value, high) => Math.min(Math.max(value || 0, 0), high);
  now = entry;
  now.grey = grey;
  now.image = picture;
  state.image = index;
  state.row = limit(state.row, now.rows - 1);
  state.column = limit(state.column, now.columns - 1);
  state.layer = Math.max(limit(state.layer, now.layers), 1);
  $('layer').max = now.layers;
  $('layer').value = state.layer;
  if (!now.maps.includes(state.map)) state.map = 'mean';
  $('maps').replaceChildren(
    ...now.maps.map(map => {
      const [label, input, caption] = ['label', 'input', 'span'].map(tag =>
        document.createElement(tag),
      );
      Object.assign(input, {type: 'radio', name: 'map', value: map, checked: map === state.map});
      input.addEventListener('change', () => {
        state.map = map;
        draw();
      });
      caption.textContent = /\d/.test(map) ? 'head ' + map : map;
      label.append(input, document.createElement('canvas'), caption);
      return label;
    }),
  );
  if ($('image')) $('image').value = index;
  $('color').checked = state.color;
  draw();
  document.body.dataset.ready = index;
}

function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const first = data.images[Number(given.get('image')) || 0] || data.images[0];
  const [column, row] = (given.get('patch') || '').split(',').map(Number);
  state.column = column ? column - 1 : Math.floor(first.grid[1] / 2);
  state.row = row ? row - 1 : Math.floor(first.grid[0] / 2);
  state.layer = Number(given.get('layer')) || first.layers;
  state.map = given.get('map') || 'mean';
  state.color = given.has('color');
  show(data.images.indexOf(first));
}

$('view').addEventListener('click', event => {
  const box = $('view').getBoundingClientRect();
  state.column = Math.min(
    Math.max(Math.floor(((event.clientX - box.left) / box.width) * now.columns), 0),
    now.columns - 1,
  );
  state.row = Math.min(
    Math.max(Math.floor(((event.clientY - box.top) / box.height) * now.rows), 0),
    now.rows - 1,
  );
  draw();
});
$('view').addEventListener('keydown', event => {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[
    event.key
  ];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  state.column = Math.min(Math.max(state.column + step[0], 0), now.columns - 1);
  state.row = Math.min(Math.max(state.row + step[1], 0), now.rows - 1);
  draw();
});
$('layer').addEventListener('input', () => {
  state.layer = Number($('layer').value);
  draw();
});
$('color').addEventListener('change', () => {
  state.color = $('color').checked;
  draw();
});
if ($('image')) $('image').addEventListener('change', () => show(Number($('image').value)));
addEventListener('hashchange', fromAddress);
const bar = $('bar').getContext('2d'),
  colours = bar.createImageData(256, 1);
for (let i = 0; i < 256; i++)
  colours.data.set([palette[3 * i], palette[3 * i + 1], palette[3 * i + 2], 255], 4 * i);
bar.putImageData(colours, 0, 0);
fromAddress();
