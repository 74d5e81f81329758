// Maps whose cells say more. The figure and its data come from notice_lib/plotting/clickable.py;
// here each cell gets a button over the figure, and a place below it tells what the cell holds.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const BLUE = "0, 114, 178"; // towards the clean answer; here, where a head looks

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function cellButton([left, top, width, height, text]) {
  const button = element("button", "map-cell");
  button.type = "button";
  button.tabIndex = -1;
  button.setAttribute("aria-label", text);
  const place = { left, top, width, height };
  for (const [side, percent] of Object.entries(place)) button.style[side] = `${percent}%`;
  return button;
}

// The picture, with each patch as blue as the head's attention to it.
function drawLook(canvas, image, picture, cell) {
  const context = canvas.getContext("2d");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  context.filter = picture.looks ? "grayscale(1) brightness(1.15)" : "none";
  context.drawImage(image, 0, 0);
  context.filter = "none";
  if (!picture.looks) return;
  const shades = atob(picture.looks[cell]);
  const width = canvas.width / picture.grid;
  const height = canvas.height / picture.grid;
  for (let i = 0; i < shades.length; i++) {
    const [row, column] = [Math.floor(i / picture.grid), i % picture.grid];
    context.fillStyle = `rgba(${BLUE}, ${(0.9 * shades.charCodeAt(i)) / 255})`;
    context.fillRect(column * width, row * height, width, height);
  }
}

function loaded(picture) {
  const image = new Image();
  image.src = picture.address;
  return image;
}

// The cell to which an arrow key leads: the nearest one in this direction, also in another panel.
function nextCell(cells, from, [across, down]) {
  const here = from.getBoundingClientRect();
  const ahead = cells
    .map((cell) => ({ cell, box: cell.getBoundingClientRect() }))
    .map(({ cell, box }) => ({ cell, x: box.left - here.left, y: box.top - here.top }))
    .filter(({ x, y }) => x * across + y * down > 1 && Math.abs(x * down) + Math.abs(y * across) < 2);
  ahead.sort((a, b) => Math.abs(a.x) + Math.abs(a.y) - Math.abs(b.x) - Math.abs(b.y));
  return ahead.length ? ahead[0].cell : from;
}

function makeClickable(place) {
  const data = JSON.parse(place.querySelector("script").textContent);
  const images = data.pictures.map(loaded);
  const map = element("div", "map");
  const layer = element("div", "map-cells");
  layer.setAttribute("role", "group");
  layer.setAttribute("aria-label", "Cells of the map; the arrow keys lead from one to the next");
  const told = element("div", images.length ? "map-told has-pictures" : "map-told");
  const text = element("p", "", "Point at a cell, or move with Tab and the arrow keys.");
  text.setAttribute("aria-live", "polite");
  const canvas = element("canvas", "map-look");
  const about = element("p", "map-about");
  canvas.hidden = about.hidden = true;
  canvas.setAttribute("aria-hidden", "true");
  told.append(canvas, text, about);
  map.append(place.querySelector("img"), layer);
  place.prepend(map, told);

  const cells = [];
  let current = null;
  function tell(button) {
    const { panel, at } = cells.find((cell) => cell.button === button);
    if (current) {
      current.tabIndex = -1;
      current.classList.remove("is-told");
    }
    current = button;
    button.tabIndex = 0;
    button.classList.add("is-told");
    text.textContent = panel.cells[at][4];
    canvas.hidden = about.hidden = panel.picture === undefined;
    if (canvas.hidden) return;
    const picture = data.pictures[panel.picture];
    about.textContent = picture.about;
    images[panel.picture].decode().then(() => {
      if (current === button) drawLook(canvas, images[panel.picture], picture, at);
    });
  }
  for (const panel of data.panels) {
    panel.cells.forEach((cell, at) => cells.push({ button: cellButton(cell), panel, at }));
  }
  const buttons = cells.map((cell) => cell.button);
  buttons[0].tabIndex = 0;
  layer.append(...buttons);
  layer.addEventListener("focusin", (event) => tell(event.target));
  // One finger or the mouse can draw along the cells.
  layer.addEventListener("pointermove", (event) => {
    const under = document.elementFromPoint(event.clientX, event.clientY);
    if (buttons.includes(under) && under !== current) tell(under);
  });
  layer.addEventListener("click", (event) => buttons.includes(event.target) && tell(event.target));
  layer.addEventListener("keydown", (event) => {
    if (!(event.key in ARROWS)) return;
    event.preventDefault();
    nextCell(buttons, event.target, ARROWS[event.key]).focus();
  });
}

document.querySelectorAll(".clickable").forEach(makeClickable);
