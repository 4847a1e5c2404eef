// The page: from a choice of photo to a saved picture.

import { enlarged, shifted } from "./affine.mjs";
import { MOST_STRENGTH, USUAL_STRENGTH } from "./blend.mjs";
import { Camera } from "./camera.mjs";
import { supported } from "./engines.mjs";
import { labelled } from "./label.mjs";
import { readPhoto, smaller, toCanvas } from "./photo.mjs";
import { openPipeline } from "./pipeline.mjs";
import { usable, warning } from "./quality.mjs";
import { MOST_STEPS } from "./refine.mjs";
import * as view from "./view.mjs";

const { element } = view;
const PREVIEW_SIDE = 1280;
const THUMBNAIL = { side: 240, room: 0.35 }; // room around the face, in widths of it
const CLOSE_UP = { side: 1024, room: 0.9 };
const NEARLY_ALL = 0.7; // share of the photo above which a close-up shows nothing new

const settings = { strength: USUAL_STRENGTH, steps: 0, own: null, age: null, view: "photo" };
const camera = new Camera(element("video"));
let pipeline = null; // a promise
let name = "photo"; // of the file
let subject = null; // {photo, encoded, views, thumbnail, made, shown} of the face that is shown

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
    await view.painted(); // the search for faces keeps the page from being drawn
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
  const faces = usable(await loaded.findFaces(photo), photo);
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
  const views = { photo: { picture, map: enlarged(encoded.map, times) }, face: closeUp(photo, encoded, CLOSE_UP) };
  subject = { photo, encoded, views, thumbnail: closeUp(photo, encoded, THUMBNAIL) };
  const useful = views.face.share < NEARLY_ALL;
  element("whole").hidden = !useful;
  settings.view = useful ? "face" : "photo";
  settings.own = encoded.nearest;
  const last = loaded.groups.length - 1;
  settings.age = settings.own === last ? 0 : last;
  const group = view.nice(loaded.groups[settings.own]);
  element("own-hint").textContent =
    `Found as the best match: ${group}.` +
    warning(face, photo) +
    (reduced ? ` The photo was reduced from ${reduced.join(" × ")} pixels.` : "");
  view.show("result");
  await change({ made: true });
  view.say(`Found a face of about ${group}. Showing ${view.nice(loaded.groups[settings.age])}.`);
}

/** The surroundings of a face, small, with the map from the crop to it and its share of the photo. */
function closeUp(photo, { face, map }, { side, room: widths }) {
  const [left, top, right, bottom] = face.box;
  const room = widths * (right - left);
  const x = Math.max(Math.floor(left - room), 0);
  const y = Math.max(Math.floor(top - 1.3 * room), 0);
  const width = Math.min(Math.ceil(right + room), photo.width) - x;
  const height = Math.min(Math.ceil(bottom + room), photo.height) - y;
  const part = photo.like(width, height);
  for (let row = 0; row < height; row++) {
    const from = ((y + row) * photo.width + x) * 4;
    part.data.set(photo.data.subarray(from, from + width * 4), row * width * 4);
  }
  const { picture, times } = smaller(part, side);
  const share = (width * height) / (photo.width * photo.height);
  return { picture, map: enlarged(shifted(map, -x, -y), times), share };
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
      await render(now);
    }
  } finally {
    working = false;
  }
}

async function render(changes) {
  const loaded = await pipeline;
  const { encoded, views, thumbnail } = subject;
  const generate = "made" in changes || "steps" in changes || "own" in changes;
  if (generate) subject.made = await loaded.generate(encoded, settings.steps, settings.own);
  const { made } = subject;
  const { strength, age, own, view: chosen } = settings;
  const { picture, map } = views[chosen];
  subject.shown = await loaded.timed("blend", () => loaded.blend(picture, map, made, age, strength));
  if (generate || "strength" in changes) {
    const { picture: small, map: there } = thumbnail;
    view.showAges(loaded.groups.map((_, i) => loaded.blend(small, there, made, i, strength)), own, age);
  }
  showPicture(loaded);
  showSettings(made);
  view.showTimes(loaded.times);
}

function showPicture({ groups }) {
  const original = view.pressed("compare");
  const group = view.nice(groups[settings.age]);
  if (original) view.showPicture(subject.views[settings.view].picture, "Original", "The photo as it is");
  else view.showPicture(subject.shown, group, `The photo with the face aged to ${group}`);
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
  view.press("compare", false);
  view.press("whole", false);
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
  on("compare", "click", async () => {
    view.press("compare", !view.pressed("compare"));
    showPicture(await pipeline);
  });
  on("whole", "click", () => {
    view.press("whole", !view.pressed("whole"));
    change({ view: view.pressed("whole") ? "photo" : "face" });
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

window.addEventListener("unhandledrejection", ({ reason }) => view.showError(reason?.message ?? String(reason)));
element("strength").max = MOST_STRENGTH;
listen();
start();
