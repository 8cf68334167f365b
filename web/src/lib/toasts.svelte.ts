// Short notices at the edge of the screen; announced politely, gone by themselves.
import { ProblemError } from "./api";

export type Toast = { id: number; tone: "ok" | "bad"; text: string; code?: string };

const SHOWN_MS = 6000;
const SHOWN_MAX = 4;

class Toasts {
  items = $state<Toast[]>([]);
  #next = 1;

  ok(text: string): void {
    this.#add({ tone: "ok", text });
  }

  failed(what: string, error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    const code = error instanceof ProblemError ? error.code : undefined;
    this.#add({ tone: "bad", text: `${what}: ${reason}`, code });
  }

  dismiss(id: number): void {
    this.items = this.items.filter((toast) => toast.id !== id);
  }

  #add(toast: Omit<Toast, "id">): void {
    const id = this.#next++;
    this.items = [...this.items, { id, ...toast }].slice(-SHOWN_MAX);
    setTimeout(() => this.dismiss(id), SHOWN_MS);
  }
}

export const toasts = new Toasts();
