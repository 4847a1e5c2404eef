// What the page shows. Decides nothing; `app.mjs` does.

import { toCanvas } from "./photo.mjs";

export const element = (id) => document.getElementById(id);

const SECTIONS = ["start", "camera", "choose", "result"];
const STAGES = {
  load: "Load the model",
  read: "Read the photo",
  detect: "Find the face",
  align: "Align",
  encode: "Encode",
  search: "Find its age group",
  refine: "Refine",
  generate: "Generate six ages",
  blend: "Blend",
};

/** Shows one section and moves the focus to its heading, so that screen readers read on from there. */
export function show(section) {
  for (const id of SECTIONS) element(id).hidden = id !== section;
  document.body.dataset.state = section;
  element("error").hidden = true;
  element(`${section}-title`).focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

/** Tells screen readers. */
export function say(text) {
  element("live").textContent = text;
}

/** An error, in words for users; null takes it away. */
export function showError(text) {
  element("error").hidden = !text;
  element("error").firstElementChild.textContent = text ?? "";
}

export function showProgress(done, total) {
  element("progress").value = done / total;
  const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
  element("loading-text").textContent = `Loading the model: ${megabytes(done)} of ${megabytes(total)} MB`;
}

/** While `busy` nothing can be chosen. */
export function setBusy(busy) {
  element("working").hidden = !busy;
  for (const id of ["file", "use-camera", "use-sample", "take"]) element(id).disabled = busy;
  element("drop").toggleAttribute("aria-busy", busy);
}

/** When the page as it is now has been drawn; at once on a page that is not seen. */
export function painted() {
  return new Promise((done) => {
    if (document.hidden) done();
    else requestAnimationFrame(() => setTimeout(done));
  });
}

export function pressed(id) {
  return element(id).getAttribute("aria-pressed") === "true";
}

export function press(id, on) {
  element(id).setAttribute("aria-pressed", String(on));
}

export function paint(canvas, picture) {
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").putImageData(picture.toImageData(), 0, 0);
}

/** A button on each face of a picture that is `times` as large as the photo. */
export function showFaces(picture, faces, times, choose) {
  paint(element("faces"), picture);
  element("choose-lead").textContent = `${faces.length} faces were found. Choose the one to age.`;
  const buttons = faces.map(({ box: [left, top, right, bottom] }, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "face-button";
    button.setAttribute("aria-label", `Face ${i + 1} of ${faces.length}`);
    const number = document.createElement("span");
    number.textContent = i + 1;
    button.append(number);
    const percent = (value, of) => `${(100 * value * times) / of}%`;
    button.style.left = percent(left, picture.width);
    button.style.top = percent(top, picture.height);
    button.style.width = percent(right - left, picture.width);
    button.style.height = percent(bottom - top, picture.height);
    button.addEventListener("click", () => choose(faces[i]));
    return button;
  });
  element("face-buttons").replaceChildren(...buttons);
}

/** One radio button with a picture for each group; `choose(index)` when one is taken. */
export function makeAges(groups, choose) {
  const labels = groups.map((group, i) => {
    const label = document.createElement("label");
    label.className = "age";
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "age", value: group });
    input.addEventListener("change", () => choose(i));
    const text = document.createElement("span");
    text.textContent = nice(group);
    label.append(input, canvas, text);
    return label;
  });
  element("ages").replaceChildren(...labels);
}

export function showAges(pictures, own, selected) {
  [...element("ages").children].forEach((label, i) => {
    const canvas = label.querySelector("canvas");
    const { width, height } = pictures[i];
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d").drawImage(toCanvas(pictures[i]), 0, 0);
    label.classList.toggle("own", i === own);
    label.querySelector("input").checked = i === selected;
  });
}

export function showPicture(picture, badge, description) {
  paint(element("picture"), picture);
  element("picture").setAttribute("aria-label", description);
  element("badge").textContent = badge;
}

export function showTimes(times) {
  const rows = Object.entries(STAGES).filter(([stage]) => stage in times).map(([stage, name]) => [name, times[stage]]);
  const perPhoto = rows.slice("load" in times ? 1 : 0).reduce((sum, [, ms]) => sum + ms, 0);
  const row = ([name, ms]) => {
    const tr = document.createElement("tr");
    const th = document.createElement("th");
    th.scope = "row";
    th.textContent = name;
    const td = document.createElement("td");
    td.textContent = `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
    tr.append(th, td);
    return tr;
  };
  element("times").replaceChildren(...[...rows, ["A photo in all", perPhoto]].map(row));
}

/** An age group as people write it: "30-39" with a dash for ranges. */
export function nice(group) {
  return group.replace("-", "–");
}
