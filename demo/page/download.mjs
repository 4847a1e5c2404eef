// The files that the page needs, fetched from where it came from, with progress and checked hashes.

/**
 * Everything that depends on the site: {version, manifest, manifestSha256, packed, detector}, the last two
 * Uint8Array. `progress(done, total)` counts bytes. Raises an Error with a text for users.
 */
export async function downloadSite(progress) {
  const site = JSON.parse(decode(await fetchBytes("site.json")));
  const manifestBytes = await fetchBytes("bundle/manifest.json");
  const manifest = JSON.parse(decode(manifestBytes));
  const done = [0, 0];
  const total = site.bytes.packed + site.bytes.detector;
  const counting = (index) => (bytes) => {
    done[index] = bytes;
    progress(done[0] + done[1], total);
  };
  const [packed, detector] = await Promise.all([
    fetchBytes(`bundle/${site.packed}`, counting(0)),
    fetchBytes("detector.tflite", counting(1)),
  ]);
  if ((await sha256(packed)) !== manifest.files[site.packed]) {
    throw new Error("The model file arrived damaged. Reload the page.");
  }
  return { version: site.version, manifest, manifestSha256: await sha256(manifestBytes), packed, detector };
}

async function fetchBytes(path, progress = () => {}) {
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI));
  } catch {
    throw new Error("The model could not be loaded. Check that the server is still running, then reload the page.");
  }
  if (!response.ok) throw new Error(`The server has no ${path} (${response.status}). Start edgeage demo again.`);
  const parts = [];
  let bytes = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    progress((bytes += value.length));
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

function decode(bytes) {
  return new TextDecoder().decode(bytes);
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
