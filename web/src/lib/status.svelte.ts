// The node's status, kept current for the whole page once somebody looks at it.
import { get } from "./api";
import { live } from "./live.svelte";
import { poll } from "./poll";
import { Resource } from "./resource.svelte";
import type { NodeStatus } from "./types";

const POLL_MS = 5_000;

class Status extends Resource<NodeStatus> {
  #heard(status: NodeStatus): void {
    this.data = status;
  }

  /** Reads and listens until the returned function is called. */
  watch(): () => void {
    const read = () => void this.load((signal) => get<NodeStatus>("/status", undefined, { signal }));
    read();
    const hear = live.on("status", (event) => event.topic === "status" && this.#heard(event.status), read);
    const fallBack = poll(POLL_MS, () => live.lost && read());
    return () => {
      hear();
      fallBack();
    };
  }
}

export const status = new Status();
