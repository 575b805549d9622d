// Pictures of a film for the viewer: its greys in 16 bits, a smaller one to drag, both at a window.

const [LEVELS, FEWER] = [65536, 4096]; // greys of the film, and of the smaller one that is dragged
const DRAGGED = 640; // longest side of the film that is drawn while something moves

function element(name, className = "") {
  const made = document.createElement(name);
  made.className = className;
  return made;
}

async function loaded(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

async function pixels(image) {
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function layerOf(grey, width, height, levels = LEVELS) {
  const canvas = Object.assign(element("canvas"), { width, height });
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  const data = context.createImageData(width, height);
  return { grey, width, height, levels, canvas, context, data, painted: "" };
}

// Every so many pixels made one, their mean, until the film is small enough to be drawn at once.
function smaller(layer) {
  const step = Math.ceil(Math.max(layer.width, layer.height) / DRAGGED);
  if (step === 1) return layer;
  const [width, height] = [Math.ceil(layer.width / step), Math.ceil(layer.height / step)];
  const grey = new Uint16Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let [sum, count] = [0, 0];
      for (let v = y * step; v < Math.min(layer.height, (y + 1) * step); v++) {
        for (let u = x * step; u < Math.min(layer.width, (x + 1) * step); u++) {
          sum += layer.grey[v * layer.width + u];
          count++;
        }
      }
      grey[y * width + x] = (sum / count) * (FEWER / LEVELS);
    }
  }
  return layerOf(grey, width, height, FEWER);
}

// Share of the pixels -> the grey in [0, 1] that so many are not above.
function percentiles({ grey, levels }) {
  const counts = new Uint32Array(levels);
  for (const value of grey) counts[value]++;
  return (share) => {
    let [level, left] = [0, Math.max(1, share * grey.length)];
    while (level < levels - 1 && (left -= counts[level]) > 0) level++;
    return level / (levels - 1);
  };
}

const TABLE = new Uint32Array(LEVELS); // grey -> opaque colour of the screen

// The greys of a film at a window; nothing if they are there already.
function paint(layer, level, spread, inverted) {
  const wanted = `${level} ${spread} ${inverted}`;
  if (layer.painted === wanted) return;
  layer.painted = wanted;
  const [low, slope] = [level - spread / 2, 255 / spread];
  for (let i = 0; i < layer.levels; i++) {
    const grey = Math.min(255, Math.max(0, Math.round((i / (layer.levels - 1) - low) * slope)));
    const value = inverted ? 255 - grey : grey;
    TABLE[i] = 0xff000000 | (value << 16) | (value << 8) | value;
  }
  const out = new Uint32Array(layer.data.data.buffer);
  for (let i = 0; i < out.length; i++) out[i] = TABLE[layer.grey[i]];
  layer.context.putImageData(layer.data, 0, 0);
}
