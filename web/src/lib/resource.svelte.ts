// One thing read from the API: its data, whether it is being read, and what went wrong. Reads that were overtaken
// by a newer one are dropped; what was read last stays visible while it is read again.
import { wasAborted } from "./api";

export class Resource<T> {
  data = $state.raw<T | undefined>(undefined);
  error = $state.raw<Error | null>(null);
  loading = $state(false);
  #controller: AbortController | null = null;

  async load(read: (signal: AbortSignal) => Promise<T>): Promise<void> {
    this.#controller?.abort();
    const controller = new AbortController();
    this.#controller = controller;
    this.loading = true;
    try {
      const data = await read(controller.signal);
      if (this.#controller !== controller) return;
      this.data = data;
      this.error = null;
    } catch (error) {
      if (this.#controller !== controller || wasAborted(error)) return;
      this.error = error as Error;
    } finally {
      if (this.#controller === controller) this.loading = false;
    }
  }

  /** Forgets what was read, for when another thing is looked at. */
  clear(): void {
    this.#controller?.abort();
    this.#controller = null;
    this.data = undefined;
    this.error = null;
    this.loading = false;
  }
}
