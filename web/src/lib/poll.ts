// Reading at intervals, for what is not pushed, or while the live connection is down.

/** Calls `read` every `everyMs` while the page is looked at, until the returned function is called. */
export function poll(everyMs: number, read: () => void): () => void {
  const timer = setInterval(() => document.visibilityState === "visible" && read(), everyMs);
  return () => clearInterval(timer);
}
