// The part of Android that the Kotlin sample uses.
package android.content.res

class AssetManager {
    fun open(fileName: String): java.io.InputStream = TODO(fileName)
}
