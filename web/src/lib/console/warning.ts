// The cluster's warnings in words. Pure.
import { duration, plural } from "$lib/format";
import type { ClusterWarning } from "$lib/types";

export function warningInWords(warning: ClusterWarning, nameOf: (node: string) => string): string {
  switch (warning.kind) {
    case "no_quorum":
      return "No majority of the voters is reached: writes are refused, placed actors stand still.";
    case "log_stopped":
      return `The log of this node has stopped until the node is started again: ${warning.reason}`;
    case "isolated":
      return "This node does not reach the majority.";
    case "under_replicated":
      return `${plural(warning.voters_up, "voter")} up; there should be ${warning.voters_wanted}.`;
    case "clock_skew":
      return `The clock of ${nameOf(warning.node)} differs by ${duration(warning.skew_ms)}.`;
    case "version_skew":
      return `Nodes run different versions: ${warning.versions.join(", ")}.`;
    case "member_down":
      return `${nameOf(warning.node)} is not heard of.`;
  }
}
