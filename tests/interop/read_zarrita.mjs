// Read one array of a reference document with zarrita.js:
// `node read_zarrita.mjs REFS.json ARRAY [2|3]`, where the number is the Zarr format.
// Writes the shape as one line of JSON to standard error and the samples, in C order and in the
// byte order of this machine, to standard output.
import { readFile } from "node:fs/promises";
import { writeSync } from "node:fs";
import ReferenceStore from "@zarrita/storage/ref";
import * as zarr from "zarrita";

const [document, name, format] = process.argv.slice(2);
const store = ReferenceStore.fromSpec(JSON.parse(await readFile(document, "utf8")));
const open = format === "3" ? zarr.open.v3 : zarr.open.v2;
const array = await open(zarr.root(store).resolve(name), { kind: "array" });
const { data, shape, stride } = await zarr.get(array);
writeSync(2, JSON.stringify(shape) + "\n");
// what a transpose leaves is a view with strides of its own
const size = shape.reduce((a, b) => a * b, 1);
const samples = new data.constructor(size);
for (let flat = 0; flat < size; flat++) {
  let rest = flat, at = 0;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    at += (rest % shape[axis]) * stride[axis];
    rest = Math.floor(rest / shape[axis]);
  }
  samples[flat] = data[at];
}
const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
for (let at = 0; at < bytes.length; ) at += writeSync(1, bytes, at);
