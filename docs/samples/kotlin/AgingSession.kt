/*
 * A bundle's engines on Android: encoder, K refinement steps, all ages. Not compiled here: there is no Android SDK on
 * the machines that build edgeage. Written against LiteRT 2.3.0 (com.google.ai.edge.litert:litert:2.3.0).
 *
 * The bundle lies in the app's assets as it is on disk (app/src/main/assets/edge64.agebundle). Finding and aligning
 * the face is the app's part: docs/apps.md says to which frame.
 */
package org.edgeage.sample

import android.content.res.AssetManager
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.TensorBuffer
import java.io.Closeable
import kotlin.math.abs
import kotlin.math.pow
import kotlin.math.sqrt
import org.json.JSONObject

private const val PIXEL_GUARD = 1.5 // times the mean squared pixel error of the first latent

/** One engine, called by the names that the manifest gives to its signature and ports; float32 in and out. */
class AgingEngine(assets: AssetManager, bundle: String, entry: JSONObject) : Closeable {
    private val signature: String
    private val model: CompiledModel
    private val inputs: Map<String, TensorBuffer>
    private val outputs: Map<String, TensorBuffer>

    init {
        val file = entry.getJSONArray("files").objects().first {
            it.getString("format") == "tflite" && it.getString("precision") == "int8" && it.getString("io") == "float32"
        }
        signature = file.getString("signature")
        model = CompiledModel.create(assets, "$bundle/${file.getString("file")}", CompiledModel.Options(Accelerator.CPU))
        val names = { ports: String -> file.getJSONArray(ports).objects().map { it.getString("name") } }
        inputs = names("inputs").associateWith { model.createInputBuffer(it, signature) }
        outputs = names("outputs").associateWith { model.createOutputBuffer(it, signature) }
    }

    /** Outputs by name; images are flat, row by row, RGB in [-1, 1]. */
    fun run(vararg feeds: Pair<String, FloatArray>): Map<String, FloatArray> {
        require(feeds.map { it.first }.toSet() == inputs.keys) { "$signature takes ${inputs.keys}" }
        for ((name, values) in feeds) inputs.getValue(name).writeFloat(values)
        model.run(inputs, outputs, signature)
        return outputs.mapValues { (_, buffer) -> buffer.readFloat() }
    }

    override fun close() {
        inputs.values.forEach { it.close() }
        outputs.values.forEach { it.close() }
        model.close()
    }
}

/** The six ages of one aligned face. Not for several threads at once: engines keep their buffers. */
class AgingSession(assets: AssetManager, private val bundle: String = "edge64.agebundle") : Closeable {
    private val manifest = JSONObject(assets.open("$bundle/manifest.json").bufferedReader().use { it.readText() })
    private val refinement = manifest.getJSONObject("refinement")
    private val steps = refinement.getInt("steps")
    private val momentum = refinement.optDouble("momentum", 0.0) // absent in older bundles
    private val engines: Map<String, AgingEngine>

    val groups: List<String> =
        manifest.getJSONObject("profile").getJSONArray("groups").let { list -> (0 until list.length()).map(list::getString) }

    init {
        val schema = manifest.getInt("schema")
        require(schema == 1) { "this sample reads schema 1, the bundle has $schema" }
        val entries = manifest.getJSONObject("engines")
        val needed = listOf("encoder", "generator_all") +
            if (steps > 0) listOf("embedder", "generator", "refine") else emptyList()
        engines = needed.associateWith { AgingEngine(assets, bundle, entries.getJSONObject(it)) }
    }

    /** `face`: RGB in [-1, 1] (value / 127.5 - 1), row by row; `group`: index of its own age group in [groups]. */
    fun age(face: FloatArray, group: Int): List<FloatArray> {
        val encoded = engine("encoder").run("image" to face).getValue("z")
        val z = if (steps > 0) refine(encoded, oneHot(group), face) else encoded
        val everyZ = FloatArray(groups.size * z.size) { z[it % z.size] }
        val everyY = FloatArray(groups.size * groups.size) { if (it / groups.size == it % groups.size) 1f else 0f }
        val images = engine("generator_all").run("z" to everyZ, "y" to everyY).getValue("image")
        return groups.indices.map { images.copyOfRange(it * face.size, (it + 1) * face.size) }
    }

    /** Fixed steps against the gradient; the best latent by cosine whose pixels did not drift. */
    private fun refine(first: FloatArray, y: FloatArray, face: FloatArray): FloatArray {
        val target = engine("embedder").run("image" to face).getValue("embedding")
        val latents = mutableListOf(first)
        val cosines = mutableListOf<Double>()
        var mean = DoubleArray(first.size) // of the directions so far, not normalised
        for (k in 0 until steps) {
            val found = engine("refine").run("z" to latents[k], "y" to y, "target" to target, "image" to face)
            cosines += cosine(found.getValue("embedding"), target)
            val direction = direction(found.getValue("gradient")) ?: break
            mean = DoubleArray(mean.size) { momentum * mean[it] + direction[it] }
            val step = if (momentum > 0) normalised(mean) else direction
            val length = (refinement.getDouble("step") * refinement.getDouble("decay").pow(k)).toFloat()
            latents += FloatArray(first.size) { latents[k][it] - length * step[it].toFloat() }
        }
        if (latents.size > cosines.size) { // where the last step led, for the price of a forward pass
            val made = generate(latents.last(), y)
            cosines += cosine(engine("embedder").run("image" to made).getValue("embedding"), target)
        }
        val limit = PIXEL_GUARD * error(generate(first, y), face)
        val better = cosines.indices.filter { cosines[it] > cosines[0] }.sortedByDescending { cosines[it] }
        return latents[better.firstOrNull { error(generate(latents[it], y), face) <= limit } ?: 0]
    }

    /** A root mean square of 1; null for a gradient that is zero or clipped at int8's ends in most entries. */
    private fun direction(gradient: FloatArray): DoubleArray? {
        val largest = gradient.maxOf { abs(it) }
        val clipped = gradient.count { abs(it) >= largest * (127f / 128f) * (1 - 1e-6f) }
        if (largest == 0f || (gradient.count { it != 0f } >= 8 && 2 * clipped > gradient.size)) return null
        return when (val method = refinement.getString("method")) {
            "normalised" -> normalised(DoubleArray(gradient.size) { gradient[it].toDouble() })
            "sign" -> DoubleArray(gradient.size) { kotlin.math.sign(gradient[it]).toDouble() }
            else -> error("this sample steps \"normalised\" or \"sign\", the bundle says \"$method\"")
        }
    }

    private fun generate(z: FloatArray, y: FloatArray) = engine("generator").run("z" to z, "y" to y).getValue("image")

    private fun engine(name: String) = engines.getValue(name)

    private fun oneHot(group: Int) = FloatArray(groups.size) { if (it == group) 1f else 0f }

    override fun close() = engines.values.forEach { it.close() }
}

/** With a root mean square of 1. */
private fun normalised(values: DoubleArray): DoubleArray {
    val size = sqrt(values.map { it * it }.sum() / values.size)
    return DoubleArray(values.size) { values[it] / size }
}

private fun cosine(a: FloatArray, b: FloatArray): Double {
    val lengths = sqrt(a.sumOf { it.toDouble() * it } * b.sumOf { it.toDouble() * it })
    return if (lengths > 0) a.indices.sumOf { a[it].toDouble() * b[it] } / lengths else 0.0
}

private fun error(made: FloatArray, face: FloatArray): Double =
    made.indices.sumOf { (made[it] - face[it]).toDouble().pow(2) } / made.size

private fun org.json.JSONArray.objects(): List<JSONObject> = (0 until length()).map(::getJSONObject)
