// Functions of Kotlin's library since 1.4, for Debian's compiler, which is 1.3.
package org.edgeage.sample

inline fun FloatArray.sumOf(selector: (Float) -> Double): Double = map { selector(it) }.sum()
inline fun <T> Iterable<T>.sumOf(selector: (T) -> Double): Double = map { selector(it) }.sum()
inline fun FloatArray.maxOf(selector: (Float) -> Float): Float = map { selector(it) }.max()!!
