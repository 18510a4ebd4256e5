// Read one array of a reference document with zarrita.js: `node read_zarrita.mjs REFS.json ARRAY`.
// Writes the shape as one line of JSON to standard error and the samples, in C order and in the
// byte order of this machine, to standard output.
import { readFile } from "node:fs/promises";
import { writeSync } from "node:fs";
import ReferenceStore from "@zarrita/storage/ref";
import * as zarr from "zarrita";

const [document, name] = process.argv.slice(2);
const store = ReferenceStore.fromSpec(JSON.parse(await readFile(document, "utf8")));
const array = await zarr.open.v2(zarr.root(store).resolve(name), { kind: "array" });
const { data, shape } = await zarr.get(array);
writeSync(2, JSON.stringify(shape) + "\n");
const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
for (let at = 0; at < bytes.length; ) at += writeSync(1, bytes, at);
