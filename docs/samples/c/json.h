/* Just enough JSON to read a bundle's manifest: walks the text, allocates nothing. */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>

/* A value is a pointer to its first character in the NUL-terminated text. These give NULL if `value` is NULL, is of
 * another kind, lacks the member or item, or if the text is broken on the way to it. */
const char *json_value(const char *text);
const char *json_member(const char *value, const char *key);
const char *json_item(const char *value, size_t index);

/* False if `value` is NULL or of another kind; text without escapes, cut to nothing longer than `size`. */
bool json_number(const char *value, double *number);
bool json_text(const char *value, char *text, size_t size);
bool json_is(const char *value, const char *text);

#endif
