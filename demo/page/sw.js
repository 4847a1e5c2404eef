// Keeps the page for offline use. The server fills in the two constants (edgeage.demo.site).
const VERSION = "VERSION";
const FILES = ["FILES"];

const NAME = `edgeage-${VERSION}`;
const build = new URL(location.href).searchParams.get("build");
const kept = ["./", ...FILES, `litert/wasm/${build}.js`, `litert/wasm/${build}.wasm`];

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(NAME)
      .then((cache) => cache.addAll(kept))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => names.filter((name) => name.startsWith("edgeage-") && name !== NAME))
      .then((old) => Promise.all(old.map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

// The network first, so that a changed page shows at once; what was kept when there is none.
self.addEventListener("fetch", (event) => {
  event.respondWith(fetch(event.request).catch(() => caches.match(event.request, { ignoreSearch: true })));
});
