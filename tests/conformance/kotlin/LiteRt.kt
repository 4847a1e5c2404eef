// The signatures of LiteRT 2.3.0 that the Kotlin sample calls, without bodies: enough for a compiler to check it.
package com.google.ai.edge.litert

import android.content.res.AssetManager

enum class Accelerator { NONE, CPU, GPU, NPU }

abstract class JniHandle : AutoCloseable {
    override fun close() {}
}

class Environment : JniHandle()

class TensorBuffer : JniHandle() {
    fun writeFloat(data: FloatArray): Unit = TODO("$data")
    fun readFloat(): FloatArray = TODO()
}

class CompiledModel private constructor() : JniHandle() {
    class Options(val accelerators: Set<Accelerator>) {
        constructor(vararg accelerators: Accelerator) : this(accelerators.toSet())
    }

    fun createInputBuffer(inputName: String, signature: String? = null): TensorBuffer = TODO("$inputName $signature")
    fun createOutputBuffer(outputName: String, signature: String? = null): TensorBuffer = TODO("$outputName $signature")
    fun run(inputs: Map<String, TensorBuffer>, outputs: Map<String, TensorBuffer>, signature: String? = null): Unit =
        TODO("$inputs $outputs $signature")

    companion object {
        fun create(
            assetManager: AssetManager,
            assetName: String,
            options: Options = Options(Accelerator.CPU),
            optionalEnv: Environment? = null
        ): CompiledModel = TODO("$assetManager $assetName $options $optionalEnv")
    }
}
