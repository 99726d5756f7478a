// transformers.js: the vectors of an export under every pooling and precision it has.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, folder, given, made] = process.argv.slice(2);
const { env, pipeline } = await import(
  pathToFileURL(createRequire(join(packages, "package.json")).resolve("@huggingface/transformers"))
);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const texts = JSON.parse(readFileSync(given, "utf-8"));
// The last one has no dtype of its own: it is found by the name of its file.
const files = {
  fp32: ["model.onnx", { dtype: "fp32" }],
  fp16: ["model_fp16.onnx", { dtype: "fp16" }],
  q8: ["model_quantized.onnx", { dtype: "q8" }],
  blockwise: ["model_int8_blockwise.onnx", { dtype: "fp32", model_file_name: "model_int8_blockwise" }],
};
const vectors = {};
for (const [dtype, [file, options]] of Object.entries(files)) {
  if (!existsSync(join(folder, "onnx", file))) continue;
  const extract = await pipeline("feature-extraction", basename(folder), { ...options, device: "cpu" });
  for (const pooling of ["mean", "cls", "last_token"]) {
    for (const normalize of [false, true]) {
      const tensor = await extract(texts, { pooling, normalize });
      vectors[`${dtype}, ${pooling}${normalize ? ", normalized" : ""}`] = tensor.tolist();
    }
  }
}
writeFileSync(made, JSON.stringify(vectors));
