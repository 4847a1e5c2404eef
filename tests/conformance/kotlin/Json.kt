// The part of org.json, which Android brings, that the Kotlin sample uses.
package org.json

class JSONArray {
    fun length(): Int = TODO()
    fun getJSONObject(index: Int): JSONObject = TODO("$index")
    fun getString(index: Int): String = TODO("$index")
}

class JSONObject(val json: String) {
    fun getString(name: String): String = TODO(name)
    fun getInt(name: String): Int = TODO(name)
    fun getDouble(name: String): Double = TODO(name)
    fun optDouble(name: String, fallback: Double): Double = TODO("$name $fallback")
    fun getJSONArray(name: String): JSONArray = TODO(name)
    fun getJSONObject(name: String): JSONObject = TODO(name)
}
