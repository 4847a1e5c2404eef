// LiteRT.js: the bundle's packed INT8 file, whose engines are signatures, and the face detector.

import { Tensor, loadAndCompile, loadLiteRt, supportsFeature, unloadLiteRt } from "@litertjs/core";

export { unloadLiteRt };

// The smallest module with a SIMD instruction, (v128.const); engines need it and browsers had it by 2023.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

export function supported() {
  return typeof WebAssembly === "object" && WebAssembly.validate(Uint8Array.from(SIMD));
}

/** Name of LiteRT's WebAssembly build for this browser. */
export async function wasmBuild() {
  return (await supportsFeature("relaxedSimd")) ? "litert_wasm_internal" : "litert_wasm_compat_internal";
}

export async function startRuntime(build) {
  await loadLiteRt(new URL(`litert/wasm/${build}.js`, document.baseURI).href);
}

/** A file of a bundle; `run(signature, {port: Float32Array})` gives {port: Float32Array}. */
export class EngineFile {
  static async open(content) {
    const file = new EngineFile();
    file.model = await loadAndCompile(content, { accelerator: "wasm" });
    return file;
  }

  async run(signature, feeds) {
    const runner = this.model.signatures[signature];
    const inputs = {};
    for (const { name, shape } of runner.getInputDetails()) inputs[name] = new Tensor(feeds[name], [...shape]);
    const outputs = await runner.run(inputs);
    const values = {};
    for (const [name, tensor] of Object.entries(outputs)) {
      values[name] = tensor.toTypedArray().slice(); // a copy, before the tensor's memory is given back
      tensor.delete();
    }
    Object.values(inputs).forEach((tensor) => tensor.delete());
    return values;
  }

  signatures() {
    return Object.keys(this.model.signatures);
  }
}

/** The bundle's engines by their contract: Float32Array in and out, pictures [S, S, 3] in [-1, 1]. */
export class Engines {
  constructor(manifest, file) {
    this.profile = manifest.profile;
    this.refinement = manifest.refinement;
    this.canRefine = "refine" in manifest.engines;
    const signatureOf = (engine) => {
      const files = manifest.engines[engine].files;
      return files.find(({ format, io }) => format === "tflite" && io === "float32").signature;
    };
    this.run = (engine, feeds) => file.run(signatureOf(engine), feeds);
  }

  async encode(image) {
    return (await this.run("encoder", { image })).z;
  }

  async embed(image) {
    return (await this.run("embedder", { image })).embedding;
  }

  refine(z, y, target, image) {
    return this.run("refine", { z, y, target, image });
  }

  /** What a latent looks like, and its embedding: a forward pass without gradient. */
  async check(z, y) {
    const { image } = await this.run("generator", { z, y });
    return { image, embedding: await this.embed(image) };
  }

  /** The face of a latent at every group. */
  async generateAll(z) {
    const count = this.profile.groups.length;
    const latents = new Float32Array(count * z.length);
    const y = new Float32Array(count * count);
    for (let group = 0; group < count; group++) {
      latents.set(z, group * z.length);
      y[group * count + group] = 1;
    }
    const { image } = await this.run("generator_all", { z: latents, y });
    const size = image.length / count;
    return Array.from({ length: count }, (_, group) => image.slice(group * size, (group + 1) * size));
  }
}

/** BlazeFace: Float32Array [128, 128, 3] in [-1, 1] -> {regressors, logits} of its anchors. */
export async function openDetector(content) {
  const file = await EngineFile.open(content);
  const [signature] = file.signatures();
  const { name } = file.model.signatures[signature].getInputDetails()[0];
  return async (picture) => {
    const { regressors, classificators } = await file.run(signature, { [name]: picture });
    return { regressors, logits: classificators };
  };
}
