// The page: from a choice of photo to a saved picture.

import { enlarged, shifted } from "./affine.mjs";
import { MOST_STRENGTH, USUAL_STRENGTH } from "./blend.mjs";
import { Camera } from "./camera.mjs";
import { supported } from "./engines.mjs";
import { labelled } from "./label.mjs";
import { readPhoto, smaller, toCanvas } from "./photo.mjs";
import { openPipeline } from "./pipeline.mjs";
import { MOST_STEPS } from "./refine.mjs";
import * as view from "./view.mjs";

const { element } = view;
const PREVIEW_SIDE = 1280;
const THUMBNAIL_SIDE = 240;
const ROOM = 0.35; // around the face in a thumbnail, in widths of it

const settings = { strength: USUAL_STRENGTH, steps: 0, own: null, age: null };
const camera = new Camera(element("video"));
let pipeline = null; // a promise
let name = "photo"; // of the file
let subject = null; // {photo, encoded, preview, closeUp, made} of the face that is shown

async function start() {
  if (!supported()) {
    element("loading").hidden = true;
    element("start").inert = true;
    view.showError("This browser lacks WebAssembly SIMD, which the model needs. Use one from 2023 or later.");
    return;
  }
  pipeline = openPipeline(view.showProgress);
  pipeline.then(ready, (error) => {
    element("loading").hidden = true;
    view.showError(error.message);
  });
}

async function ready({ groups, engines, build, times }) {
  element("loading").hidden = true;
  settings.steps = engines.canRefine ? engines.refinement.steps : 0;
  element("steps").max = MOST_STEPS;
  element("steps-field").hidden = !engines.canRefine;
  view.makeAges(groups, (age) => change({ age }));
  element("own").replaceChildren(...groups.map((group, i) => new Option(view.nice(group), i)));
  view.say("The model is ready. Choose a photo.");
  document.documentElement.dataset.ready = Math.round(times.load);
  await keepForOffline(build);
}

async function keepForOffline(build) {
  if (!("serviceWorker" in navigator)) return;
  await navigator.serviceWorker.register(`sw.js?build=${build}`);
  await navigator.serviceWorker.ready;
  element("offline").hidden = false;
}

/** Runs what a user asked for; what goes wrong is shown. */
async function attempt(work) {
  view.setBusy(true);
  view.showError(null);
  try {
    await work();
  } catch (error) {
    camera.stop();
    view.show("start");
    view.showError(error.message);
  } finally {
    view.setBusy(false);
  }
}

async function openFile(file) {
  name = file.name.replace(/\.[^.]*$/, "") || "photo";
  await attempt(async () => {
    const loaded = await pipeline;
    const { picture, reduced } = await loaded.timed("read", () => readPhoto(file));
    await openPhoto(picture, reduced);
  });
}

async function openSample() {
  const response = await fetch("astronaut.jpg");
  await openFile(new File([await response.blob()], "astronaut.jpg"));
}

async function openPhoto(photo, reduced) {
  const loaded = await pipeline;
  const faces = await loaded.findFaces(photo);
  if (!faces.length) {
    throw new Error("No face was found. Use a photo in which a face is upright and turned to the camera.");
  }
  if (faces.length === 1) return openFace(photo, faces[0], reduced);
  const { picture, times } = smaller(photo, PREVIEW_SIDE);
  view.showFaces(picture, faces, times, (face) => attempt(() => openFace(photo, face, reduced)));
  view.show("choose");
  view.say(`${faces.length} faces were found.`);
}

async function openFace(photo, face, reduced) {
  const loaded = await pipeline;
  const encoded = await loaded.encode(photo, face);
  const { picture, times } = smaller(photo, PREVIEW_SIDE);
  const preview = { picture, map: enlarged(encoded.map, times) };
  subject = { photo, encoded, preview, closeUp: closeUp(photo, encoded) };
  settings.own = encoded.nearest;
  const last = loaded.groups.length - 1;
  settings.age = settings.own === last ? 0 : last;
  const group = view.nice(loaded.groups[settings.own]);
  element("own-hint").textContent =
    `Found as the best match: ${group}.` + (reduced ? ` The photo was reduced from ${reduced.join(" × ")} pixels.` : "");
  view.show("result");
  await change({ made: true });
  view.say(`Found a face of about ${group}. Showing ${view.nice(loaded.groups[settings.age])}.`);
}

/** The surroundings of a face for a thumbnail, small, with the map from the crop to it. */
function closeUp(photo, { face, map }) {
  const [left, top, right, bottom] = face.box;
  const room = ROOM * (right - left);
  const x = Math.max(Math.floor(left - room), 0);
  const y = Math.max(Math.floor(top - 1.6 * room), 0);
  const width = Math.min(Math.ceil(right + room), photo.width) - x;
  const height = Math.min(Math.ceil(bottom + room), photo.height) - y;
  const part = photo.like(width, height);
  for (let row = 0; row < height; row++) {
    const from = ((y + row) * photo.width + x) * 4;
    part.data.set(photo.data.subarray(from, from + width * 4), row * width * 4);
  }
  const { picture, times } = smaller(part, THUMBNAIL_SIDE);
  return { picture, map: enlarged(shifted(map, -x, -y), times) };
}

let wanted = null; // changes that came while the last ones were at work
let working = false;

/** Takes changed settings and shows them; `made`: generate anew. While that runs, later changes are gathered. */
async function change(changes) {
  wanted = { ...wanted, ...changes };
  if (working) return;
  working = true;
  try {
    while (wanted) {
      const now = wanted;
      wanted = null;
      Object.assign(settings, now);
      await render("steps" in now || "own" in now || now.made, !("age" in now && Object.keys(now).length === 1));
    }
  } finally {
    working = false;
  }
}

async function render(generate, thumbnails) {
  const loaded = await pipeline;
  const { encoded, preview, closeUp } = subject;
  if (generate) subject.made = await loaded.generate(encoded, settings.steps, settings.own);
  const { made } = subject;
  const { strength, age, own } = settings;
  const blended = await loaded.timed("blend", () => loaded.blend(preview.picture, preview.map, made, age, strength));
  subject.blended = blended;
  if (thumbnails) {
    const pictures = loaded.groups.map((_, i) => loaded.blend(closeUp.picture, closeUp.map, made, i, strength));
    view.showAges(pictures, own, age);
  }
  showPicture(loaded);
  showSettings(made);
  view.showTimes(loaded.times);
}

function showPicture({ groups }) {
  const original = element("compare").getAttribute("aria-pressed") === "true";
  const group = view.nice(groups[settings.age]);
  if (original) view.showPicture(subject.preview.picture, "Original", "The photo as it is");
  else view.showPicture(subject.blended, group, `The photo with the face aged to ${group}`);
}

function showSettings({ bestStep, cosineBefore, cosineAfter }) {
  const { strength, steps, own } = settings;
  element("strength").value = strength;
  element("strength-value").textContent = `${Math.round(strength * 100)} %`;
  element("steps").value = steps;
  element("steps-value").textContent = steps;
  element("own").value = own;
  const percent = (cosine) => `${Math.round(100 * cosine)} %`;
  element("steps-hint").textContent = !steps
    ? "None: the first guess is used."
    : bestStep
      ? `Likeness to the photo rose from ${percent(cosineBefore)} to ${percent(cosineAfter)}.`
      : "No step came nearer to the photo: the first guess is kept.";
}

/** The picture in the photo's own resolution, as a PNG with the label. */
async function save() {
  const loaded = await pipeline;
  const { groups, site } = loaded;
  const { photo, encoded, made } = subject;
  const picture = loaded.blend(photo, encoded.map, made, settings.age, settings.strength);
  const png = await toCanvas(picture).convertToBlob({ type: "image/png" });
  const claim = {
    bundle: site.manifest.name,
    bundleSha256: site.manifestSha256,
    group: groups[settings.age],
    ownGroup: groups[settings.own],
    strength: settings.strength,
    version: site.version,
  };
  const content = labelled(new Uint8Array(await png.arrayBuffer()), claim);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "image/png" }));
  link.download = `${name}-age-${groups[settings.age]}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  view.say(`Saved as ${link.download}.`);
}

function reset() {
  camera.stop();
  subject = null;
  element("file").value = "";
  element("compare").setAttribute("aria-pressed", "false");
  settings.strength = USUAL_STRENGTH;
  view.show("start");
}

function listen() {
  const on = (id, event, act) => element(id).addEventListener(event, act);
  on("file", "change", ({ target }) => target.files.length && openFile(target.files[0]));
  on("use-sample", "click", openSample);
  on("use-camera", "click", () =>
    attempt(async () => {
      view.show("camera");
      await camera.start();
      view.say("The camera is on.");
    }),
  );
  on("take", "click", () =>
    attempt(async () => {
      name = "camera";
      const loaded = await pipeline;
      const photo = await loaded.timed("read", () => camera.take());
      camera.stop();
      await openPhoto(photo, null);
    }),
  );
  for (const id of ["leave-camera", "leave-choose", "again"]) on(id, "click", reset);
  on("strength", "input", ({ target }) => change({ strength: Number(target.value) }));
  on("steps", "input", ({ target }) => change({ steps: Number(target.value) }));
  on("own", "change", ({ target }) => change({ own: Number(target.value) }));
  on("compare", "click", async ({ currentTarget }) => {
    currentTarget.setAttribute("aria-pressed", String(currentTarget.getAttribute("aria-pressed") !== "true"));
    showPicture(await pipeline);
  });
  on("save", "click", save);
  for (const event of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(event, (one) => {
      one.preventDefault(); // else the browser would leave the page for the file
      element("drop").classList.toggle("over", event === "dragenter" || event === "dragover");
      const [file] = event === "drop" ? one.dataTransfer.files : [];
      if (file && document.body.dataset.state === "start") openFile(file);
    });
  }
}

element("strength").max = MOST_STRENGTH;
listen();
start();
