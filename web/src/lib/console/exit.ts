// An actor's end in words. Pure.
import type { ExitReason } from "$lib/types";

export function exitInWords(reason: ExitReason): string {
  switch (reason.kind) {
    case "normal":
      return "finished";
    case "drained":
      return "drained";
    case "restart_requested":
      return "asked to restart";
    case "shutdown":
      return "told to stop";
    case "killed":
      return "killed";
    case "failed":
      return `failed: ${reason.error}`;
    case "panicked":
      return `panicked: ${reason.error}`;
    case "start_failed":
      return `could not start: ${reason.error}`;
    case "restart_intensity_exceeded":
      return `gave up on ${reason.child}, which died too often (last: ${exitInWords(reason.reason)})`;
  }
}
