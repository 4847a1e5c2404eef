// A bundle's engines on iOS and macOS: encoder, K refinement steps, all ages. Not compiled here: there is no Swift
// compiler on the machines that build edgeage. Written against the LiteRT Swift package of release/2.3.0.
//
// The bundle is a folder reference in the app target (edge64.agebundle, copied as it is). Finding and aligning the
// face is the app's part: docs/apps.md says to which frame.

import Foundation
import LiteRT

/// What this sample reads of manifest.json; the other fields are left alone.
struct Manifest: Decodable {
  struct Profile: Decodable {
    let groups: [String]
  }

  struct Refinement: Decodable {
    let steps: Int
    let step: Double?
    let decay: Double?
    let method: String?
    let momentum: Double?  // absent in older bundles
  }

  struct Port: Decodable {
    let name: String
    let shape: [Int]
  }

  struct File: Decodable {
    let file: String
    let format: String
    let precision: String
    let io: String
    let inputs: [Port]
    let outputs: [Port]
  }

  struct Entry: Decodable {
    let files: [File]
  }

  let schema: Int
  let profile: Profile
  let refinement: Refinement
  let engines: [String: Entry]
}

enum AgingError: Error {
  case bundle(String)
}

/// One engine, called by the names that the manifest gives to its ports; float32 in and out.
final class AgingEngine {
  private let model: CompiledModel
  private let inputs: [String: (index: Int, buffer: TensorBuffer)]
  private let outputs: [String: (index: Int, buffer: TensorBuffer)]

  init(named name: String, in bundle: URL, manifest: Manifest, environment: Environment, options: Options) throws {
    guard
      let file = manifest.engines[name]?.files.first(where: {
        $0.format == "tflite" && $0.precision == "int8" && $0.io == "float32"
      })
    else { throw AgingError.bundle("no INT8 TFLite file with float I/O for the \(name)") }
    let path = bundle.appendingPathComponent(file.file).path
    model = try CompiledModel(filePath: path, environment: environment, options: options)
    // A file of one engine has one signature, number 0. The order of its ports is not promised: by name.
    var inputs: [String: (index: Int, buffer: TensorBuffer)] = [:]
    for (index, buffer) in try model.createInputBuffers().enumerated() {
      inputs[try model.inputName(inputIndex: index)] = (index, buffer)
    }
    var outputs: [String: (index: Int, buffer: TensorBuffer)] = [:]
    for (index, buffer) in try model.createOutputBuffers().enumerated() {
      outputs[try model.outputName(outputIndex: index)] = (index, buffer)
    }
    guard Set(inputs.keys) == Set(file.inputs.map { $0.name }),
      Set(outputs.keys) == Set(file.outputs.map { $0.name })
    else { throw AgingError.bundle("\(file.file) has other ports than its manifest says") }
    self.inputs = inputs
    self.outputs = outputs
  }

  /// Outputs by name; images are flat, row by row, RGB in [-1, 1].
  func run(_ feeds: [String: [Float]]) throws -> [String: [Float]] {
    guard Set(feeds.keys) == Set(inputs.keys) else {
      throw AgingError.bundle("the engine takes \(inputs.keys.sorted())")
    }
    for (name, input) in inputs {
      try input.buffer.write(feeds[name]!)
    }
    try model.run(inputs: ordered(inputs), outputs: ordered(outputs))
    return try outputs.mapValues { try $0.buffer.read() }
  }

  private func ordered(_ ports: [String: (index: Int, buffer: TensorBuffer)]) -> [TensorBuffer] {
    return ports.values.sorted { $0.index < $1.index }.map { $0.buffer }
  }
}

/// The six ages of one aligned face. Not for several threads at once: engines keep their buffers.
final class AgingSession {
  let groups: [String]
  private let refinement: Manifest.Refinement
  private let engines: [String: AgingEngine]
  private let pixelGuard = 1.5  // times the mean squared pixel error of the first latent

  init(bundle: URL) throws {
    let text = try Data(contentsOf: bundle.appendingPathComponent("manifest.json"))
    let manifest = try JSONDecoder().decode(Manifest.self, from: text)
    guard manifest.schema == 1 else {
      throw AgingError.bundle("this sample reads schema 1, the bundle has \(manifest.schema)")
    }
    groups = manifest.profile.groups
    refinement = manifest.refinement
    let environment = try Environment()
    let options = try Options()
    try options.setHardwareAccelerators([.cpu])
    let needed =
      ["encoder", "generator_all"] + (refinement.steps > 0 ? ["embedder", "generator", "refine"] : [])
    var engines: [String: AgingEngine] = [:]
    for name in needed {
      engines[name] = try AgingEngine(
        named: name, in: bundle, manifest: manifest, environment: environment, options: options)
    }
    self.engines = engines
  }

  /// `face`: RGB in [-1, 1] (value / 127.5 - 1), row by row; `group`: index of its own age group in `groups`.
  func age(face: [Float], group: Int) throws -> [[Float]] {
    let encoded = try run("encoder", ["image": face], "z")
    let z = refinement.steps > 0 ? try refine(encoded, oneHot(group), face) : encoded
    let everyZ = Array(repeating: z, count: groups.count).flatMap { $0 }
    let everyY = groups.indices.flatMap { oneHot($0) }
    let images = try run("generator_all", ["z": everyZ, "y": everyY], "image")
    return groups.indices.map { Array(images[$0 * face.count..<($0 + 1) * face.count]) }
  }

  /// Fixed steps against the gradient; the best latent by cosine whose pixels did not drift.
  private func refine(_ first: [Float], _ y: [Float], _ face: [Float]) throws -> [Float] {
    guard let step = refinement.step, let decay = refinement.decay else {
      throw AgingError.bundle("the manifest's refinement lacks step or decay")
    }
    let target = try run("embedder", ["image": face], "embedding")
    var latents = [first]
    var cosines: [Double] = []
    let momentum = refinement.momentum ?? 0
    var mean = [Double](repeating: 0, count: first.count)  // of the directions so far, not normalised
    for k in 0..<refinement.steps {
      let found = try engines["refine"]!.run(["z": latents[k], "y": y, "target": target, "image": face])
      cosines.append(cosine(found["embedding"]!, target))
      guard let direction = try direction(found["gradient"]!) else { break }
      mean = zip(mean, direction).map { momentum * $0 + $1 }
      let change = momentum > 0 ? normalised(mean) : direction
      let length = Float(step * pow(decay, Double(k)))
      latents.append(zip(latents[k], change).map { $0 - length * Float($1) })
    }
    if latents.count > cosines.count {  // where the last step led, for the price of a forward pass
      let made = try generate(latents.last!, y)
      cosines.append(cosine(try run("embedder", ["image": made], "embedding"), target))
    }
    let limit = pixelGuard * error(try generate(first, y), face)
    let better = cosines.indices.filter { cosines[$0] > cosines[0] }.sorted { cosines[$0] > cosines[$1] }
    for candidate in better where error(try generate(latents[candidate], y), face) <= limit {
      return latents[candidate]
    }
    return first
  }

  /// A root mean square of 1; nil for a gradient that is zero or clipped at int8's ends in most entries.
  private func direction(_ gradient: [Float]) throws -> [Double]? {
    let largest = gradient.map { abs($0) }.max() ?? 0
    let clipped = gradient.filter { abs($0) >= largest * (127.0 / 128.0) * (1 - 1e-6) }.count
    let nonzero = gradient.filter { $0 != 0 }.count
    if largest == 0 || (nonzero >= 8 && 2 * clipped > gradient.count) { return nil }
    switch refinement.method {
    case "normalised":
      return normalised(gradient.map { Double($0) })
    case "sign":
      return gradient.map { $0 > 0 ? 1 : ($0 < 0 ? -1 : 0) }
    default:
      throw AgingError.bundle("this sample steps \"normalised\" or \"sign\"")
    }
  }

  private func generate(_ z: [Float], _ y: [Float]) throws -> [Float] {
    return try run("generator", ["z": z, "y": y], "image")
  }

  private func run(_ engine: String, _ feeds: [String: [Float]], _ output: String) throws -> [Float] {
    return try engines[engine]!.run(feeds)[output]!
  }

  private func oneHot(_ group: Int) -> [Float] {
    return groups.indices.map { $0 == group ? 1 : 0 }
  }
}

/// With a root mean square of 1.
private func normalised(_ values: [Double]) -> [Double] {
  let square = values.reduce(0.0) { $0 + $1 * $1 }
  let size = (square / Double(values.count)).squareRoot()
  return values.map { $0 / size }
}

private func cosine(_ a: [Float], _ b: [Float]) -> Double {
  var dot = 0.0
  var squareA = 0.0
  var squareB = 0.0
  for (x, y) in zip(a, b) {
    dot += Double(x) * Double(y)
    squareA += Double(x) * Double(x)
    squareB += Double(y) * Double(y)
  }
  let lengths = (squareA * squareB).squareRoot()
  return lengths > 0 ? dot / lengths : 0
}

private func error(_ made: [Float], _ face: [Float]) -> Double {
  return zip(made, face).reduce(0.0) { $0 + pow(Double($1.0 - $1.1), 2) } / Double(made.count)
}
