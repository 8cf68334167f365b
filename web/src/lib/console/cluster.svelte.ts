// The cluster as the node that serves the page sees it: who its nodes are, and what to call them.
import { get } from "$lib/api";
import { poll } from "$lib/poll";
import { Resource } from "$lib/resource.svelte";
import type { ClusterStatus, MemberStatus } from "$lib/types";

const POLL_MS = 2_000;

class Cluster extends Resource<ClusterStatus> {
  #watchers = 0;
  #stop: (() => void) | undefined;

  readonly members = $derived<MemberStatus[]>(this.data?.members ?? []);
  /** Whether there is anything to tell apart. */
  readonly several = $derived(this.members.length > 1);
  readonly self = $derived(this.data?.node_id);

  read = (): void => {
    void this.load((signal) => get<ClusterStatus>("/cluster", undefined, { signal }));
  };

  /** Reads until the returned function is called. */
  watch(): () => void {
    if (this.#watchers++ === 0) {
      this.read();
      this.#stop = poll(POLL_MS, this.read);
    }
    return () => {
      if (--this.#watchers === 0) this.#stop?.();
    };
  }

  /** What people call a node. */
  nameOf(node: string | undefined): string {
    if (node === undefined) return "";
    return this.members.find((member) => member.id === node)?.name ?? node;
  }
}

export const cluster = new Cluster();
