// All actors of all nodes as the console shows them: read once, then pushed; rates and a minute of history besides.
import { SvelteMap } from "svelte/reactivity";
import { get } from "$lib/api";
import { live } from "$lib/live.svelte";
import { poll } from "$lib/poll";
import type { ActorReport, Page } from "$lib/types";
import { cluster } from "./cluster.svelte";
import { type Sample, sample } from "./rates";
import { type SeenActor, seen } from "./seen";

/** How long an actor that is gone stays to be seen. */
const GHOST_MS = 15_000;
/** A node that says nothing for so long is left out. */
const SILENCE_MS = 6_000;
const POLL_MS = 2_000;
const HISTORY_SAMPLES_MAX = 120;

export type Ghost = { report: SeenActor; until: number };
type OfNode = { reports: ActorReport[]; heardAt: number };

class Actors {
  /** What each node said last. */
  #byNode = new SvelteMap<string, OfNode>();
  ghosts = $state.raw<Ghost[]>([]);
  loaded = $state(false);
  error = $state.raw<Error | null>(null);
  paused = $state(false);
  /** Messages per second of all nodes, one value a push. */
  history = $state.raw<number[]>([]);
  #samples = new Map<string, Map<string, Sample>>();
  #sampledAt = new Map<string, number>();
  #watchers = 0;
  #stop: (() => void) | undefined;

  readonly reports = $derived.by<SeenActor[]>(() => {
    const nameOf = cluster.several ? (node: string) => cluster.nameOf(node) : null;
    return [...this.#byNode.values()].flatMap(({ reports }) => reports.map((report) => seen(report, cluster.self, nameOf)));
  });

  /** All that there is to see: the living, and those just gone. */
  readonly all = $derived([...this.reports, ...this.ghosts.map((ghost) => ghost.report)]);

  /** Reads and listens until the returned function is called. */
  watch(): () => void {
    if (this.#watchers++ === 0) {
      const leave = cluster.watch();
      const hear = live.on("actors", (event) => event.topic === "actors" && this.#take(event.node, event.reports), () => void this.#read());
      const fallBack = poll(POLL_MS, () => (live.lost ? void this.#read() : this.#forgetSilent()));
      this.#stop = () => {
        leave();
        hear();
        fallBack();
      };
      void this.#read();
    }
    return () => {
      if (--this.#watchers === 0) this.#stop?.();
    };
  }

  rate(key: string): number {
    for (const samples of this.#samples.values()) {
      const known = samples.get(key);
      if (known) return known.rate;
    }
    return 0;
  }

  async #read(): Promise<void> {
    try {
      const { items } = await get<Page<ActorReport>>("/actors");
      const nodes = new Set(items.map((report) => report.node ?? ""));
      for (const node of nodes) this.#take(node, items.filter((report) => (report.node ?? "") === node));
      this.error = null;
    } catch (error) {
      this.error = error as Error;
    } finally {
      this.loaded = true;
    }
  }

  #take(node: string, reports: ActorReport[]): void {
    const now = performance.now();
    const counted = reports.map((report) => ({ key: `${node}/${report.id}`, handled: report.handled }));
    const samples = sample(this.#samples.get(node) ?? new Map(), counted, now - (this.#sampledAt.get(node) ?? 0));
    if (samples !== null) {
      this.#samples.set(node, samples);
      this.#sampledAt.set(node, now);
    }
    if (node === cluster.self || !cluster.several) this.#note();
    if (this.paused) return;
    this.#noticeGone(node, reports);
    this.#byNode.set(node, { reports, heardAt: now });
    this.loaded = true;
  }

  #note(): void {
    let total = 0;
    for (const samples of this.#samples.values()) for (const { rate } of samples.values()) total += rate;
    this.history = [...this.history, total].slice(-HISTORY_SAMPLES_MAX);
  }

  #forgetSilent(): void {
    const now = performance.now();
    for (const [node, { heardAt }] of [...this.#byNode]) {
      if (this.paused || now - heardAt < SILENCE_MS) continue;
      this.#byNode.delete(node);
      this.#samples.delete(node);
    }
  }

  #noticeGone(node: string, reports: ActorReport[]): void {
    const alive = new Set(reports.map((report) => report.path));
    const now = Date.now();
    const gone = this.reports
      .filter((report) => (report.node ?? "") === node && !alive.has(report.path))
      .map((report) => ({ report: { ...report, status: "stopped" as const, current: null, mailbox_depth: 0 }, until: now + GHOST_MS }));
    const isBack = ({ report }: Ghost) => (report.node ?? "") === node && alive.has(report.path);
    const remaining = this.ghosts.filter((ghost) => ghost.until > now && !isBack(ghost));
    if (gone.length > 0 || remaining.length !== this.ghosts.length) this.ghosts = [...remaining, ...gone];
  }
}

export const actors = new Actors();
