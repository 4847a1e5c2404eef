// The camera: a live preview, one frame of it, and errors in plain words.

import { draw } from "./photo.mjs";

const REASONS = {
  NotAllowedError: "The camera was not allowed. Allow it in the browser's settings for this page, or choose a photo.",
  NotFoundError: "No camera was found. Choose a photo instead.",
  NotReadableError: "The camera is in use by another program. Close that, or choose a photo.",
};

export class Camera {
  constructor(video) {
    this.video = video;
  }

  /** Shows the preview. Raises an Error with a text for users. */
  async start() {
    try {
      if (!navigator.mediaDevices) throw new DOMException("", "NotAllowedError"); // pages without https have none
      const wish = { facingMode: "user", width: { ideal: 1920 }, height: { ideal: 1440 } };
      this.video.srcObject = await navigator.mediaDevices.getUserMedia({ video: wish });
      await this.video.play();
    } catch (error) {
      this.stop();
      throw new Error(REASONS[error.name] ?? "The camera could not be started. Choose a photo instead.");
    }
  }

  /** The frame that is seen, as a `Picture`, not mirrored as the preview is. */
  take() {
    const { videoWidth, videoHeight } = this.video;
    return draw(this.video, videoWidth, videoHeight);
  }

  stop() {
    this.video.srcObject?.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
  }
}
