import { fileURLToPath } from "node:url";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import tailwindcss from "@tailwindcss/vite";
import { defineConfig } from "vitest/config";

// `npm run dev` serves the sources and hands the API to a running node; TROUPE_NODE names another one.
const node = process.env.TROUPE_NODE ?? "http://127.0.0.1:7500";

export default defineConfig({
  plugins: [svelte(), tailwindcss()],
  resolve: { alias: { $lib: fileURLToPath(new URL("./src/lib", import.meta.url)) } },
  build: {
    target: "es2022",
    cssTarget: ["chrome123", "firefox128", "safari17.5"], // light-dark() stays as written
    assetsInlineLimit: 0, // the node's content security policy allows no data: scripts or fonts
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
  },
  server: { proxy: { "/api": { target: node, ws: true, changeOrigin: false } } },
  test: { include: ["src/**/*.test.ts"], environment: "node" },
});
