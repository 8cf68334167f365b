// All actors of the node as the console shows them: read once, then pushed; rates and a minute of history besides.
import { get } from "$lib/api";
import { live } from "$lib/live.svelte";
import { poll } from "$lib/poll";
import type { ActorReport, Page } from "$lib/types";
import { type Sample, sample } from "./rates";

/** How long an actor that is gone stays to be seen. */
const GHOST_MS = 15_000;
const POLL_MS = 2_000;
const HISTORY_SAMPLES_MAX = 120;

export type Ghost = { report: ActorReport; until: number };

class Actors {
  reports = $state.raw<ActorReport[]>([]);
  ghosts = $state.raw<Ghost[]>([]);
  loaded = $state(false);
  error = $state.raw<Error | null>(null);
  paused = $state(false);
  /** Messages per second of the whole node, one value a push. */
  history = $state.raw<number[]>([]);
  #samples = new Map<number, Sample>();
  #sampledAt = 0;
  #watchers = 0;
  #stop: (() => void) | undefined;

  /** All that there is to see: the living, and those just gone. */
  readonly all = $derived([...this.reports, ...this.ghosts.map((ghost) => ghost.report)]);

  /** Reads and listens until the returned function is called. */
  watch(): () => void {
    if (this.#watchers++ === 0) {
      const hear = live.on("actors", (event) => event.topic === "actors" && this.#take(event.reports), () => void this.#read());
      const fallBack = poll(POLL_MS, () => live.lost && void this.#read());
      this.#stop = () => {
        hear();
        fallBack();
      };
      void this.#read();
    }
    return () => {
      if (--this.#watchers === 0) this.#stop?.();
    };
  }

  rate(id: number): number {
    return this.#samples.get(id)?.rate ?? 0;
  }

  async #read(): Promise<void> {
    try {
      const answer = await get<Page<ActorReport> | ActorReport[]>("/actors", { limit: 500 });
      const reports = Array.isArray(answer) ? answer : answer.items;
      this.#take(reports);
      this.error = null;
    } catch (error) {
      this.error = error as Error;
    } finally {
      this.loaded = true;
    }
  }

  #take(reports: ActorReport[]): void {
    const now = performance.now();
    const samples = sample(this.#samples, reports, now - this.#sampledAt);
    if (samples !== null) {
      this.#samples = samples;
      this.#sampledAt = now;
    }
    const total = [...this.#samples.values()].reduce((sum, { rate }) => sum + rate, 0);
    this.history = [...this.history, total].slice(-HISTORY_SAMPLES_MAX);
    if (this.paused) return;
    this.#noticeGone(reports);
    this.reports = reports;
    this.loaded = true;
  }

  #noticeGone(reports: ActorReport[]): void {
    const alive = new Set(reports.map((report) => report.path));
    const now = Date.now();
    const gone = this.reports
      .filter((report) => !alive.has(report.path))
      .map((report) => ({ report: { ...report, status: "stopped" as const, current: null, mailbox_depth: 0 }, until: now + GHOST_MS }));
    const remaining = this.ghosts.filter((ghost) => ghost.until > now && !alive.has(ghost.report.path));
    if (gone.length > 0 || remaining.length !== this.ghosts.length) this.ghosts = [...remaining, ...gone];
  }
}

export const actors = new Actors();
