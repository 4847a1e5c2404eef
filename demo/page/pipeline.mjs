// The way of a photo, top to bottom: detect, align, encode, refine, generate, blend. No page elements here.

import { align, cropToPhoto } from "./align.mjs";
import { blendDelta, place } from "./blend.mjs";
import { INPUT, networkInput } from "./blazeface.mjs";
import { findFaces } from "./detect.mjs";
import { downloadSite } from "./download.mjs";
import { EngineFile, Engines, openDetector, startRuntime, wasmBuild } from "./engines.mjs";
import { meanSquare } from "./numbers.mjs";
import { refine } from "./refine.mjs";

let opened = null;

/** Loads everything, once for the page. `progress(done, total)` counts bytes of models. */
export function openPipeline(progress = () => {}) {
  return (opened ??= Pipeline.open(progress));
}

class Pipeline {
  static async open(progress) {
    const pipeline = new Pipeline();
    pipeline.times = {};
    await pipeline.timed("load", async () => {
      pipeline.build = await wasmBuild();
      const [site] = await Promise.all([downloadSite(progress), startRuntime(pipeline.build)]);
      pipeline.site = site;
      pipeline.engines = new Engines(site.manifest, await EngineFile.open(site.packed));
      pipeline.detector = await openDetector(site.detector);
      // both are copied into LiteRT's memory by now
      site.packed = site.detector = null;
      await pipeline.warmUp();
    });
    return pipeline;
  }

  /** Every engine once: the first run of each is far slower than all others. */
  async warmUp() {
    const { latent_size: latent, image_size: size, groups } = this.engines.profile;
    const [z, y, image] = [latent, groups.length, size * size * 3].map((length) => new Float32Array(length));
    await this.detector(new Float32Array(INPUT * INPUT * 3));
    await this.engines.encode(image);
    await this.engines.generateAll(z);
    const steps = this.engines.canRefine ? 1 : 0;
    await refine(this.engines, z, y, image, { ...this.engines.refinement, steps });
  }

  /** Runs `work` and notes its milliseconds as those of a stage. */
  async timed(stage, work) {
    const start = performance.now();
    const result = await work();
    this.times[stage] = performance.now() - start;
    return result;
  }

  get groups() {
    return this.engines.profile.groups;
  }

  /** Faces of a photo (`Picture`), the largest first. */
  findFaces(photo) {
    return this.timed("detect", () => findFaces(this.detector, photo));
  }

  /** What does not change with the settings: where the face lies, its crop, its latent, its likely age group. */
  async encode(photo, face) {
    const { image_size: size } = this.engines.profile;
    const frame = this.site.manifest.frame_keypoints;
    const map = cropToPhoto(face, frame, size);
    const crop = await this.timed("align", () => align(photo, map, size));
    const image = networkInput(crop);
    const z = await this.timed("encode", () => this.engines.encode(image));
    const generated = await this.timed("search", () => this.engines.generateAll(z));
    const errors = generated.map((one) => meanSquare(one, image));
    return { face, map, crop, image, z, generated, nearest: errors.indexOf(Math.min(...errors)) };
  }

  /** The face at every group, after K = `steps` of refinement as one of its own group `own`. */
  async generate(encoded, steps, own) {
    const y = new Float32Array(this.groups.length);
    y[own] = 1;
    const options = { ...this.engines.refinement, steps };
    const refined = await this.timed("refine", () => refine(this.engines, encoded.z, y, encoded.image, options));
    const ages = await this.timed("generate", () =>
      refined.bestStep ? this.engines.generateAll(refined.z) : encoded.generated,
    );
    return { ...refined, ages, own };
  }

  /** A copy of a picture in which `map` leads from the crop to the face, with that face at a group. */
  blend(picture, map, made, group, strength) {
    const out = picture.copy();
    const where = place(map, this.engines.profile.image_size, out);
    blendDelta(out, where, made.ages[group], made.ages[made.own], strength);
    return out;
  }
}
