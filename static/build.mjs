// Builds what the console serves from node_modules: `make assets`. Developers only; the results are committed.
import { createHash } from "node:crypto";
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "..");
// An output folder other than the repository lets a test compare a fresh build with the committed one.
const OUT = process.argv[2] ? resolve(process.argv[2]) : ROOT;

// One file for each kind of page; what it holds of others is named in the manifest.
const BUNDLES = ["console", "charts", "playground", "gate", "contact"];
const BUNDLED = { "htmx.org": "console", "@alpinejs/csp": "console", uplot: "charts", marked: "playground", dompurify: "playground" };
const VENDORED = [
  ["htmx.org", "dist/htmx.min.js", "static/vendor/htmx.js"],
  ["@alpinejs/csp", "dist/cdn.min.js", "static/vendor/alpine.js"],
  ["axe-core", "axe.min.js", "tests/browser/axe.js"],
];
const ICON_USES = /(?<![:\w])icon="([a-z0-9-]+)"|<c-icon name="([a-z0-9-]+)"/g;

const packageFolder = (name) => join(ROOT, "node_modules", name);
const described = (name) => JSON.parse(readFileSync(join(packageFolder(name), "package.json"), "utf8"));

function write(path, text) {
  mkdirSync(dirname(join(OUT, path)), { recursive: true });
  writeFileSync(join(OUT, path), text);
}

function filesUnder(folder, ending) {
  return readdirSync(join(ROOT, folder), { recursive: true })
    .filter((path) => path.endsWith(ending))
    .map((path) => join(ROOT, folder, path))
    .sort();
}

function vendor() {
  const manifest = VENDORED.map(([name, from, to]) => {
    // Source maps are not shipped; a reference to one would only be a 404 in developer tools.
    const text = readFileSync(join(packageFolder(name), from), "utf8").replace(/^\/\/# sourceMappingURL=.*\n?/m, "");
    write(to, text);
    const { version, license } = described(name);
    return { path: to, name, version, licence: license, sha256: createHash("sha256").update(text).digest("hex") };
  });
  for (const [name, bundle] of Object.entries(BUNDLED)) {
    const { version, license } = described(name);
    manifest.push({ path: `static/built/${bundle}.js`, name, version, licence: license });
  }
  for (const name of ["tailwindcss", "daisyui", "lucide-static"]) {
    const { version, license } = described(name);
    manifest.push({ path: name === "lucide-static" ? "static/icons.svg" : "static/console.css", name, version, licence: license });
  }
  write("static/vendor/manifest.json", JSON.stringify(manifest, null, 2) + "\n");
}

function bundles() {
  buildSync({
    absWorkingDir: ROOT,
    entryPoints: BUNDLES.map((name) => `static/console/pages/${name}.js`),
    outdir: join(OUT, "static/built"),
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    charset: "utf8",
    legalComments: "eof",
    logLevel: "warning",
  });
  buildSync({
    absWorkingDir: ROOT, entryPoints: ["static/source/contact.css"], outdir: join(OUT, "static/built"), minify: true,
  });
}

function iconsInUse() {
  const names = new Set();
  for (const path of [...filesUnder("templates", ".html"), ...filesUnder("console", ".py")]) {
    for (const [, attribute, component] of readFileSync(path, "utf8").matchAll(ICON_USES)) names.add(attribute ?? component);
  }
  return [...names].sort();
}

function sprite() {
  const symbols = iconsInUse().map((name) => {
    const own = join(ROOT, "static/source/icons", `${name}.svg`);
    let svg;
    try {
      svg = readFileSync(own, "utf8");
    } catch {
      svg = readFileSync(join(packageFolder("lucide-static"), "icons", `${name}.svg`), "utf8");
    }
    const body = svg.replace(/<!--[\s\S]*?-->/g, "").match(/<svg[^>]*>([\s\S]*)<\/svg>/)[1].replace(/\s+/g, " ").trim();
    return `<symbol id="${name}" viewBox="0 0 24 24">${body}</symbol>`;
  });
  write("static/icons.svg", `<svg xmlns="http://www.w3.org/2000/svg">\n${symbols.join("\n")}\n</svg>\n`);
}

function stylesheet() {
  execFileSync(
    process.execPath,
    [
      join(packageFolder("@tailwindcss/cli"), "dist/index.mjs"),
      "--input", join(ROOT, "static/source/console.css"),
      "--output", join(OUT, "static/console.css"),
      "--minify",
    ],
    { cwd: ROOT, stdio: ["ignore", "ignore", "pipe"] },
  );
}

if (OUT === ROOT) for (const folder of ["static/vendor", "static/built"]) rmSync(join(OUT, folder), { recursive: true, force: true });
vendor();
bundles();
sprite();
stylesheet();
