// Actors of several nodes in one list: what tells them apart and where each is found. Pure.
import type { ActorReport } from "$lib/types";

export type SeenActor = ActorReport & {
  /** Unique among the actors of all nodes. */
  key: string;
  /** The path as it is shown: with the node's name in front where there are several nodes. */
  shown: string;
  /** The address of its page. */
  href: string;
};

/** Between an actor's number or path and the node it is on, in addresses. */
const AT = "@";
const ROOT = "node";

export function seen(report: ActorReport, self: string | undefined, nameOf: ((node: string) => string) | null): SeenActor {
  const { node, path } = report;
  const isHere = node === undefined || node === self;
  const shown = nameOf && node !== undefined && (path === ROOT || path.startsWith(`${ROOT}/`)) ? nameOf(node) + path.slice(ROOT.length) : path;
  return { ...report, key: `${node ?? ""}/${report.id}`, shown, href: hrefOf(String(report.id), isHere ? undefined : node) };
}

/** The address of an actor's page, by its number or path. */
export function hrefOf(actor: string, node: string | undefined): string {
  const at = node === undefined ? "" : `${AT}${node}`;
  return `/console/actors/${encodeURIComponent(actor)}${at}`;
}

/** What an address says: the actor, and the node if it is another one. */
export function actorOf(id: string): { actor: string; node: string | undefined } {
  const at = id.lastIndexOf(AT);
  return at < 0 ? { actor: id, node: undefined } : { actor: id.slice(0, at), node: id.slice(at + 1) };
}
