// Tell refusals from answers, with @grpc/grpc-js and the protocol file, loaded at run time.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

import type { ProtoGrpcType } from "./build/types/inference.js";
import type { GRPCInferenceServiceClient as Client } from "./build/types/inference/GRPCInferenceService.js";
import type { ModelInferRequest } from "./build/types/inference/ModelInferRequest.js";
import type { ModelInferResponse__Output as Answer } from "./build/types/inference/ModelInferResponse.js";

// gRPC retries on its own: only when the server refused the work (its queue is full) or could not be reached, three
// attempts at most, and none while more than half of the recent calls fail, so that retries never feed an overload.
const SERVICE_CONFIG = {
  methodConfig: [
    {
      name: [{ service: "inference.GRPCInferenceService" }],
      retryPolicy: {
        maxAttempts: 3,
        initialBackoff: "0.1s",
        maxBackoff: "1s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
  retryThrottling: { maxTokens: 10, tokenRatio: 0.1 },
};

const ADVICE: Partial<Record<grpc.status, string>> = {
  [grpc.status.INVALID_ARGUMENT]: "the request is at fault: correct it, sending it again will not help",
  [grpc.status.NOT_FOUND]: "the server runs but has no such model: check --model",
  [grpc.status.UNAVAILABLE]: "no connection, or the queue is full: check --address, or try again in a while",
  [grpc.status.DEADLINE_EXCEEDED]: "no answer in time: allow more with --timeout, or send fewer texts at once",
};
const OTHERWISE = "the server or something before it failed: look at the server's log";

const USAGE = `usage: classify [--address HOST:PORT] [--model NAME] [--timeout SECONDS] [--max-length TOKENS]
                [--batch TEXTS] [--tls FILE] [TEXT ...]
Without a TEXT, each line of standard input is one. --tls trusts the PEM certificates in FILE.`;

interface Options {
  address: string;
  model: string;
  timeoutMs: number;
  maxLength?: number;
  batch: number;
  certificates?: Buffer;
  texts: string[];
}

async function main(): Promise<number> {
  const options = parse();
  const client = connect(options); // one connection for every call of the process
  try {
    const labels = await readLabels(client, options);
    const positive = await readPositiveLabel(client, options);
    for await (const texts of batches(readTexts(options.texts), options.batch)) {
      const answer = await infer(client, inferRequest(options.model, texts, options.maxLength), options.timeoutMs);
      printRows(texts, labels, positive, outputs(answer));
    }
    return 0;
  } catch (error) {
    const { code, details } = error as grpc.ServiceError;
    if (code === undefined) throw error;
    console.error(`classify: ${grpc.status[code]}: ${details}\n  ${ADVICE[code] ?? OTHERWISE}`);
    return 1;
  } finally {
    client.close();
  }
}

function connect(options: Options): Client {
  // Field names as in the file, int64 as numbers (which hold every shape there is), fields that were not sent as zeros.
  const definition = loadSync(fileURLToPath(new URL("../../../inference.proto", import.meta.url)), {
    keepCase: true,
    longs: Number,
    defaults: true,
  });
  const { inference } = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;
  const credentials = options.certificates
    ? grpc.credentials.createSsl(options.certificates)
    : grpc.credentials.createInsecure();
  return new inference.GRPCInferenceService(options.address, credentials, {
    "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
  });
}

function infer(client: Client, request: ModelInferRequest, timeoutMs: number): Promise<Answer> {
  return new Promise((resolve, reject) => {
    client.ModelInfer(request, { deadline: Date.now() + timeoutMs }, (error, answer) =>
      error ? reject(error) : resolve(answer!),
    );
  });
}

function inferRequest(model: string, texts: Buffer[], maxLength?: number): ModelInferRequest {
  const shape = [texts.length, 1];
  const request = {
    model_name: model,
    inputs: [{ name: "text", datatype: "BYTES", shape }],
    outputs: [{ name: "probabilities" }, { name: "token_count" }],
    raw_input_contents: [stringTensor(texts)],
  };
  if (maxLength !== undefined) {
    const lengths = Buffer.alloc(4 * texts.length);
    texts.forEach((_, row) => lengths.writeInt32LE(maxLength, 4 * row));
    request.inputs.push({ name: "max_length", datatype: "INT32", shape });
    request.raw_input_contents.push(lengths);
  }
  return request;
}

/** A string tensor: each text's length in bytes, uint32 little-endian, then its bytes. */
function stringTensor(texts: Buffer[]): Buffer {
  return Buffer.concat(
    texts.flatMap((text) => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(text.length);
      return [length, text];
    }),
  );
}

/** Label names by index: the classification extension gives a text's labels as "SCORE:INDEX:LABEL", best first. */
async function readLabels(client: Client, options: Options): Promise<string[]> {
  const request = inferRequest(options.model, [Buffer.from("label names")]);
  request.outputs![0].parameters = { classification: { int64_param: 1000 } }; // at most so many labels
  let raw = outputs(await infer(client, request, options.timeoutMs)).get("probabilities")!;
  const names: string[] = [];
  while (raw.length > 0) {
    const end = 4 + raw.readUInt32LE();
    const [, index, ...name] = raw.toString("utf8", 4, end).split(":");
    names[Number(index)] = name.join(":");
    raw = raw.subarray(end);
  }
  return names;
}

/** Name of the label that means a refusal, undefined for a model that has none. */
function readPositiveLabel(client: Client, options: Options): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    client.ModelConfig({ name: options.model }, { deadline: Date.now() + options.timeoutMs }, (error, answer) =>
      error ? reject(error) : resolve(answer!.config!.parameters.positive_label?.string_value),
    );
  });
}

/** Bytes of each output by name; their order is the server's own. */
function outputs(answer: Answer): Map<string, Buffer> {
  return new Map(answer.outputs.map(({ name }, i) => [name, answer.raw_output_contents[i]]));
}

/** One JSON object a line; `label` is the best one, and `score` that of the positive one, if the model has one. */
function printRows(
  texts: Buffer[],
  labels: string[],
  positive: string | undefined,
  answer: Map<string, Buffer>,
): void {
  const probabilities = answer.get("probabilities")!;
  const counts = answer.get("token_count")!;
  texts.forEach((text, row) => {
    const scores = labels.map((_, column) => probabilities.readFloatLE(4 * (row * labels.length + column)));
    const result = {
      label: labels[scores.indexOf(Math.max(...scores))],
      score: positive === undefined ? undefined : scores[labels.indexOf(positive)],
      scores: Object.fromEntries(labels.map((label, column) => [label, scores[column]])),
      token_count: counts.readInt32LE(4 * row),
      text: text.toString(),
    };
    process.stdout.write(`${JSON.stringify(result)}\n`);
  });
}

/** The arguments, or without any the lines of standard input; bytes as they are, which the server checks. */
async function* readTexts(texts: string[]): AsyncGenerator<Buffer> {
  if (texts.length > 0) {
    for (const text of texts) yield Buffer.from(text);
    return;
  }
  let rest = Buffer.alloc(0);
  for await (const chunk of process.stdin) {
    rest = Buffer.concat([rest, chunk]);
    for (let end = rest.indexOf("\n"); end >= 0; end = rest.indexOf("\n")) {
      yield rest.subarray(0, end);
      rest = rest.subarray(end + 1);
    }
  }
  if (rest.length > 0) yield rest;
}

async function* batches(texts: AsyncIterable<Buffer>, size: number): AsyncGenerator<Buffer[]> {
  let batch: Buffer[] = [];
  for await (const text of texts) {
    if (batch.push(text) === size) {
      yield batch;
      batch = [];
    }
  }
  if (batch.length > 0) yield batch;
}

function parse(): Options {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        address: { type: "string", default: "127.0.0.1:8001" },
        model: { type: "string", default: "rejection" },
        timeout: { type: "string", default: "10" },
        "max-length": { type: "string" },
        batch: { type: "string", default: "64" },
        tls: { type: "string" },
      },
    });
    const maxLength = values["max-length"];
    return {
      address: values.address,
      model: values.model,
      timeoutMs: 1000 * number("--timeout", values.timeout),
      maxLength: maxLength === undefined ? undefined : number("--max-length", maxLength),
      batch: number("--batch", values.batch),
      certificates: values.tls === undefined ? undefined : readFileSync(values.tls),
      texts: positionals,
    };
  } catch (error) {
    console.error(`classify: ${(error as Error).message}\n${USAGE}`);
    process.exit(2);
  }
}

function number(name: string, value: string): number {
  const parsed = Number(value);
  if (value === "" || Number.isNaN(parsed)) throw new Error(`${name} is '${value}', not a number`);
  return parsed;
}

process.exitCode = await main();
