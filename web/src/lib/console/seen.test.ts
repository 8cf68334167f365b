import { expect, it } from "vitest";
import type { ActorReport } from "$lib/types";
import { actorOf, hrefOf, seen } from "./seen";

const report = { id: 5, path: "node/registry", node: "B" } as ActorReport;

it("finds an actor of another node by its address", () => {
  const actor = seen(report, "A", (node) => `node-${node}`);
  expect(actor).toMatchObject({ key: "B/5", shown: "node-B/registry", href: "/console/actors/5@B" });
  expect(actorOf("5@B")).toEqual({ actor: "5", node: "B" });
});

it("says nothing of nodes where there is one", () => {
  expect(seen(report, "B", null)).toMatchObject({ shown: "node/registry", href: "/console/actors/5" });
  expect(actorOf("5")).toEqual({ actor: "5", node: undefined });
});

it("puts paths into addresses", () => {
  expect(hrefOf("node/registry", undefined)).toBe("/console/actors/node%2Fregistry");
  expect(actorOf("node/registry@B")).toEqual({ actor: "node/registry", node: "B" });
});
