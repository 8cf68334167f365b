// The supervision tree from reports: who is below whom, which branches show. Pure.
import type { ActorReport, ActorStatus } from "$lib/types";

export type Branch<Report extends ActorReport = ActorReport> = {
  /** The actor, or the summary of those that are left out. */
  report: Report | null;
  path: string;
  name: string;
  children: Branch<Report>[];
  /** Actors anywhere below. */
  descendants: number;
  /** How many siblings this summary stands for. */
  leftOut: number;
  folded: boolean;
};

/** A supervisor of thousands shows those that need a look, and how many more there are. */
export const CHILDREN_SHOWN_MAX = 12;

const URGENCY: Record<ActorStatus, number> = { restarting: 6, stopped: 5, draining: 4, suspended: 4, starting: 3, busy: 2, idle: 0 };

export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

export function parentOf(path: string): string | null {
  const slash = path.lastIndexOf("/");
  return slash < 0 ? null : path.slice(0, slash);
}

export function isBelow(path: string, ancestor: string): boolean {
  return path.startsWith(`${ancestor}/`);
}

/** Those that end with an actor: all below it. */
export function descendantsOf(reports: readonly ActorReport[], path: string): ActorReport[] {
  return reports.filter((report) => isBelow(report.path, path));
}

export function grow<Report extends ActorReport>(reports: readonly Report[], folded: ReadonlySet<string>, unfolded: ReadonlySet<string>): Branch<Report>[] {
  const known = new Set(reports.map((report) => report.path));
  const childrenOf = new Map<string | null, Report[]>();
  for (const report of reports) {
    const parent = nearestKnown(parentOf(report.path), known);
    const siblings = childrenOf.get(parent);
    if (siblings) siblings.push(report);
    else childrenOf.set(parent, [report]);
  }

  const branch = (report: Report): Branch<Report> => {
    const below = childrenOf.get(report.path) ?? [];
    const grown = shown(below, unfolded.has(report.path)).map(branch);
    const descendants = below.reduce((sum, child) => sum + 1 + countBelow(child.path), 0);
    const leftOut = below.length - grown.length;
    const isFolded = folded.has(report.path);
    const summary = leftOut > 0 ? [leftOutBranch(report.path, leftOut)] : [];
    return { report, path: report.path, name: nameOf(report.path), children: isFolded ? [] : [...grown, ...summary], descendants, leftOut: 0, folded: isFolded };
  };
  const counts = new Map<string, number>();
  const countBelow = (path: string): number => {
    const cached = counts.get(path);
    if (cached !== undefined) return cached;
    const count = (childrenOf.get(path) ?? []).reduce((sum, child) => sum + 1 + countBelow(child.path), 0);
    counts.set(path, count);
    return count;
  };
  return (childrenOf.get(null) ?? []).toSorted(byPath).map(branch);
}

function leftOutBranch(parent: string, leftOut: number): Branch<never> {
  return { report: null, path: `${parent}/…`, name: `${leftOut} more`, children: [], descendants: 0, leftOut, folded: false };
}

function shown<Report extends ActorReport>(children: Report[], all: boolean): Report[] {
  if (all || children.length <= CHILDREN_SHOWN_MAX + 1) return children.toSorted(byPath);
  return children
    .toSorted((a, b) => Number(b.supervisor) - Number(a.supervisor) || URGENCY[b.status] - URGENCY[a.status] || b.mailbox_depth - a.mailbox_depth || byPath(a, b))
    .slice(0, CHILDREN_SHOWN_MAX)
    .sort(byPath);
}

function nearestKnown(path: string | null, known: ReadonlySet<string>): string | null {
  let at = path;
  while (at !== null && !known.has(at)) at = parentOf(at);
  return at;
}

function byPath(a: ActorReport, b: ActorReport): number {
  return a.path.localeCompare(b.path);
}

export type Place<Report extends ActorReport = ActorReport> = { branch: Branch<Report>; column: number; row: number; parent: { column: number; row: number } | null };

/**
 * Where each branch stands. Spread out, a supervisor stands beside the first of its children and each leaf has a row;
 * indented, everything has a row of its own, for narrow windows.
 */
export function placesOf<Report extends ActorReport>(roots: readonly Branch<Report>[], indented: boolean): Place<Report>[] {
  const places: Place<Report>[] = [];
  let nextRow = 0;
  const put = (branch: Branch<Report>, column: number, parent: Place["parent"]) => {
    const place: Place<Report> = { branch, column, row: nextRow, parent };
    places.push(place);
    if (indented || branch.children.length === 0) nextRow++;
    for (const child of branch.children) put(child, column + 1, { column, row: place.row });
  };
  for (const root of roots) put(root, 0, null);
  return places;
}
