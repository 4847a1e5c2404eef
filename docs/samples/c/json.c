#include "json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 32

static const char *skip_space(const char *at)
{
    return at + strspn(at, " \t\r\n");
}

/* Behind a string whose opening quote is at `at`. */
static const char *skip_string(const char *at)
{
    for (++at; *at != '\0' && *at != '"'; ++at)
        if (*at == '\\' && *++at == '\0')
            return NULL;
    return *at == '"' ? at + 1 : NULL;
}

static const char *skip_value(const char *at, int depth);

/* Behind an object or array; at the value of `key`, or at item number `index`, if one is asked for. */
static const char *walk(const char *at, const char *key, size_t index, bool wanted, int depth)
{
    char close = *at == '{' ? '}' : ']';
    bool object = *at == '{';
    at = skip_space(at + 1);
    if (*at == close)
        return wanted ? NULL : at + 1;
    for (size_t i = 0;; ++i) {
        bool here = wanted && !object && i == index;
        if (object) {
            const char *name = at;
            if (*at != '"' || (at = skip_string(at)) == NULL)
                return NULL;
            here = wanted && strncmp(name + 1, key, strlen(key)) == 0 && name + strlen(key) + 2 == at;
            at = skip_space(at);
            if (*at != ':')
                return NULL;
            at = skip_space(at + 1);
        }
        if (here)
            return at;
        if ((at = skip_value(at, depth + 1)) == NULL)
            return NULL;
        at = skip_space(at);
        if (*at == close)
            return wanted ? NULL : at + 1;
        if (*at != ',')
            return NULL;
        at = skip_space(at + 1);
    }
}

static const char *skip_value(const char *at, int depth)
{
    if (depth > MAX_DEPTH)
        return NULL;
    if (*at == '"')
        return skip_string(at);
    if (*at == '{' || *at == '[')
        return walk(at, NULL, 0, false, depth);
    size_t length = strcspn(at, ",]} \t\r\n");
    return length > 0 ? at + length : NULL;
}

const char *json_value(const char *text)
{
    return text == NULL ? NULL : skip_space(text);
}

const char *json_member(const char *value, const char *key)
{
    return value == NULL || *value != '{' ? NULL : walk(value, key, 0, true, 0);
}

const char *json_item(const char *value, size_t index)
{
    return value == NULL || *value != '[' ? NULL : walk(value, NULL, index, true, 0);
}

bool json_number(const char *value, double *number)
{
    if (value == NULL || (*value != '-' && (*value < '0' || *value > '9')))
        return false;
    char *end;
    *number = strtod(value, &end);
    return end != value;
}

bool json_text(const char *value, char *text, size_t size)
{
    const char *end = value == NULL || *value != '"' ? NULL : skip_string(value);
    if (end == NULL || (size_t)(end - value - 1) > size)
        return false;
    memcpy(text, value + 1, (size_t)(end - value - 2));
    text[end - value - 2] = '\0';
    return true;
}

bool json_is(const char *value, const char *text)
{
    char found[64];
    return json_text(value, found, sizeof found) && strcmp(found, text) == 0;
}
