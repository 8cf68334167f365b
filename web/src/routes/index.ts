// Which address shows which page. Every place is a chunk of its own.
import type { Component } from "svelte";
import type { RouteDefinition } from "svelte-spa-router";
import { wrap } from "svelte-spa-router/wrap";
import Loading from "../components/Loading.svelte";
import LoadFailed from "./LoadFailed.svelte";

// biome-ignore lint: pages take whatever parameters their address has
type Page = () => Promise<{ default: Component<any> }>;

function page(load: Page) {
  const asyncComponent: Page = () => load().catch(() => ({ default: LoadFailed }));
  return wrap({ asyncComponent, loadingComponent: Loading });
}

const registry = page(() => import("./registry/Registry.svelte"));
const server = page(() => import("./registry/ServerPage.svelte"));
const operations = page(() => import("./console/Console.svelte"));

export const routes: RouteDefinition = {
  "/": page(() => import("./chat/Chat.svelte")),
  "/chat/:id?": page(() => import("./chat/Chat.svelte")),
  "/registry/servers/:name/:tab?": server,
  "/registry/:tab?": registry,
  "/console/:tab?/:id?": operations,
  "*": page(() => import("./NotFound.svelte")),
};
