// Asks Perfetto's trace processor, the one of its UI, what it makes of a trace.
//
//     node perfetto.js DIRECTORY TRACE QUERY...
//
// DIRECTORY has the UI's engine_bundle.js and *.wasm. Prints the rows of each query as JSON, a line a query.
'use strict';
const fs = require('fs');
const path = require('path');
const vm = require('vm');

const [dir, trace, ...queries] = process.argv.slice(2);
const print = line => fs.writeSync(1, line + '\n');
// What the trace processor says is no answer.
console.log = console.error;
// The bundle is a web worker, and refuses what looks like node.
delete globalThis.process;
Object.assign(globalThis, {
  self: globalThis,
  WorkerGlobalScope: class {},
  location: new URL('file:///engine_bundle.js'),
  // It asks for its WebAssembly synchronously.
  XMLHttpRequest: class {
    open(method, name) { this.name = name; }
    send() { this.response = fs.readFileSync(path.join(dir, path.basename(this.name))); }
  },
});

// Protocol buffers, as far as perfetto's trace_processor.proto needs them.
const varint = value => {
  const out = [];
  let rest = BigInt(value);
  for (; rest > 127n; rest >>= 7n) out.push(Number(rest & 127n) | 128);
  return Buffer.from([...out, Number(rest)]);
};
const number = (field, value) => Buffer.concat([varint(field << 3), varint(value)]);
const bytes = (field, value) =>
  Buffer.concat([varint((field << 3) | 2), varint(value.length), Buffer.from(value)]);
function readVarint(buffer, at) {
  let value = 0n;
  for (let shift = 0n; ; shift += 7n) {
    const byte = buffer[at++];
    value |= BigInt(byte & 127) << shift;
    if (byte < 128) return [value, at];
  }
}
/** [field, value]: a BigInt, or the bytes. */
function* fields(buffer) {
  for (let at = 0; at < buffer.length;) {
    let key, value;
    [key, at] = readVarint(buffer, at);
    switch (key & 7n) {
      case 0n: [value, at] = readVarint(buffer, at); break;
      case 1n: value = buffer.subarray(at, at += 8); break;
      case 2n: {
        let length;
        [length, at] = readVarint(buffer, at);
        value = buffer.subarray(at, at += Number(length));
        break;
      }
      default: throw new Error(`wire type ${key & 7n}`);
    }
    yield [Number(key >> 3n), value];
  }
}

// The methods of TraceProcessorRpc that are called.
const APPEND = 1, FINALIZE = 2, QUERY = 3;
let sequence = 0;
let replies = [];
const port = { postMessage: reply => replies.push(Buffer.from(reply)) };
function ask(method, ...args) {
  replies = [];
  const rpc = Buffer.concat([number(1, sequence++), number(2, method), ...args]);
  port.onmessage({ data: new Uint8Array(bytes(1, rpc)) });
  const messages = replies.flatMap(reply => [...fields(reply)]).map(([, message]) => [...fields(message)]);
  for (const [field, value] of messages.flat()) {
    if (field === 5) throw new Error(`trace processor: ${value}`);
  }
  return messages.flat();
}

// Kinds of cells: QueryResult.CellsBatch.
const NULL = 1, VARINT = 2, STRING = 4;
function rows(sql) {
  const columns = [];
  const values = [];
  for (const [, result] of ask(QUERY, bytes(103, bytes(1, Buffer.from(sql)))).filter(([field]) => field === 203)) {
    for (const [field, value] of fields(result)) {
      if (field === 1) columns.push(value.toString());
      if (field === 2 && value.length) throw new Error(`${sql}: ${value}`);
      if (field === 3) values.push(...cells(value));
    }
  }
  const table = [];
  for (let at = 0; at < values.length; at += columns.length) table.push(values.slice(at, at + columns.length));
  return table;
}
function cells(batch) {
  const kinds = [], numbers = [];
  let strings = [];
  for (const [field, value] of fields(batch)) {
    const into = { 1: kinds, 2: numbers }[field];
    for (let at = 0; into && at < value.length;) {
      let one;
      [one, at] = readVarint(value, at);
      into.push(one);
    }
    if (field === 5) strings = value.toString().split('\0');
  }
  return kinds.map(kind => {
    switch (Number(kind)) {
      case NULL: return null;
      case VARINT: return Number(BigInt.asIntN(64, numbers.shift()));
      case STRING: return strings.shift();
      default: throw new Error(`a cell of kind ${kind}`);
    }
  });
}

vm.runInThisContext(fs.readFileSync(path.join(dir, 'engine_bundle.js'), 'utf8'));
globalThis.onmessage({ data: port });
// It is ready when the promises that it left are kept.
setImmediate(() => {
  ask(APPEND, bytes(101, fs.readFileSync(trace)));
  ask(FINALIZE);
  for (const sql of queries) print(JSON.stringify(rows(sql)));
});
