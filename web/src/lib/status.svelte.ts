// The node's status, kept current for the whole page once somebody looks at it.
import { get } from "./api";
import { live } from "./live.svelte";
import { Resource } from "./resource.svelte";
import type { NodeStatus } from "./types";

class Status extends Resource<NodeStatus> {
  /** Reads and listens until the returned function is called. */
  watch(): () => void {
    const read = () => void this.load((signal) => get<NodeStatus>("/status", undefined, { signal }));
    read();
    return live.on(
      "status",
      (event) => {
        if (event.topic === "status") this.data = event.status;
      },
      read,
    );
  }
}

export const status = new Status();
