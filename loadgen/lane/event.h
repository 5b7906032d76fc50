/* One event of an OpenAI stream, read strictly: what is not plain is left to Python.

   A scanner, no parser: it looks at the few fields that matter and walks over the rest, holding
   it to RFC 8259. Every function returns where it stopped, or NULL for "not plain". */
#ifndef LOADSTONE_EVENT_H
#define LOADSTONE_EVENT_H

#include <stdint.h>
#include <string.h>

#define DEEPEST 32

typedef struct {
    const char *text, *text_end;     /* what was generated, its quotes left out; NULL: nothing */
    const char *finish, *finish_end; /* the finish reason, likewise */
    int64_t prompt, completion;      /* -1: not told */
    int high;                        /* a byte of more than 7 bits was seen */
} Event;

static const char *blank(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p;
}

static int hex4(const char *p, const char *end)
{
    int value = 0;
    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = 16 * value + digit;
    }
    return value;
}

/* `p` stands after the opening quote; returns the closing one. Surrogates are left to Python. */
static const char *text_end(const char *p, const char *end, Event *event)
{
    for (; p < end; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"')
            return p;
        if (c < 0x20)
            return NULL;
        if (c >= 0x80)
            event->high = 1;
        if (c != '\\')
            continue;
        if (++p >= end)
            return NULL;
        if (*p == 'u') {
            int unit = hex4(p + 1, end);
            if (unit < 0 || (unit >= 0xD800 && unit < 0xE000))
                return NULL;
            p += 4;
        } else if (!strchr("\"\\/bfnrt", *p) || !*p) {
            return NULL;
        }
    }
    return NULL;
}

static const char *digits(const char *p, const char *end)
{
    const char *start = p;
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p > start ? p : NULL;
}

static const char *number(const char *p, const char *end)
{
    if (p < end && *p == '-')
        p++;
    if (p < end && *p == '0')
        p++;
    else if (!(p = digits(p, end)))
        return NULL;
    if (p < end && *p == '.' && !(p = digits(p + 1, end)))
        return NULL;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        p = digits(p, end);
    }
    return p;
}

static const char *word(const char *p, const char *end, const char *expected)
{
    size_t size = strlen(expected);
    return (size_t)(end - p) >= size && !memcmp(p, expected, size) ? p + size : NULL;
}

static const char *any(const char *p, const char *end, Event *event, int depth);

/* Calls `field` with each key of an object; `p` stands at its brace. Keys with escapes, which may
   be written in two ways, are left to Python. */
typedef const char *(*Field)(const char *key, size_t size, const char *p, const char *end,
                             Event *event, int depth);

static const char *object(const char *p, const char *end, Event *event, int depth, Field field)
{
    if (depth > DEEPEST || p >= end || *p != '{')
        return NULL;
    p = blank(p + 1, end);
    if (p < end && *p == '}')
        return p + 1;
    for (;;) {
        const char *key, *close;
        if (p >= end || *p != '"' || !(close = text_end(key = p + 1, end, event)))
            return NULL;
        if (memchr(key, '\\', close - key))
            return NULL;
        p = blank(close + 1, end);
        if (p >= end || *p != ':')
            return NULL;
        p = field(key, close - key, blank(p + 1, end), end, event, depth + 1);
        if (!p || (p = blank(p, end)) >= end)
            return NULL;
        if (*p == '}')
            return p + 1;
        if (*p != ',')
            return NULL;
        p = blank(p + 1, end);
    }
}

static const char *any_field(const char *key, size_t size, const char *p, const char *end,
                             Event *event, int depth)
{
    (void)key, (void)size;
    return any(p, end, event, depth);
}

static const char *any(const char *p, const char *end, Event *event, int depth)
{
    if (p >= end || depth > DEEPEST)
        return NULL;
    switch (*p) {
    case '"':
        p = text_end(p + 1, end, event);
        return p ? p + 1 : NULL;
    case '{':
        return object(p, end, event, depth, any_field);
    case '[':
        p = blank(p + 1, end);
        if (p < end && *p == ']')
            return p + 1;
        for (;;) {
            p = any(p, end, event, depth + 1);
            if (!p || (p = blank(p, end)) >= end)
                return NULL;
            if (*p == ']')
                return p + 1;
            if (*p != ',')
                return NULL;
            p = blank(p + 1, end);
        }
    case 't':
        return word(p, end, "true");
    case 'f':
        return word(p, end, "false");
    case 'n':
        return word(p, end, "null");
    default:
        return number(p, end);
    }
}

static int is(const char *key, size_t size, const char *name)
{
    return size == strlen(name) && !memcmp(key, name, size);
}

/* A field that says nothing: null, or empty. */
static const char *nothing(const char *p, const char *end)
{
    const char *found = word(p, end, "null");
    if (!found)
        found = word(p, end, "\"\"");
    if (!found)
        found = word(p, end, "[]");
    return found ? found : word(p, end, "{}");
}

/* null, or a text: where it stands. */
static const char *maybe_text(const char *p, const char *end, Event *event, const char **from,
                              const char **to)
{
    const char *close;
    if (p >= end || *p != '"')
        return word(p, end, "null");
    if (!(close = text_end(p + 1, end, event)))
        return NULL;
    if (close > p + 1)
        *from = p + 1, *to = close;
    return close + 1;
}

static const char *count_field(const char *p, const char *end, int64_t *value)
{
    const char *start = p;
    int64_t found = 0;
    for (; p < end && *p >= '0' && *p <= '9' && p - start < 16; p++)
        found = 10 * found + (*p - '0');
    if (p == start || (*start == '0' && p - start > 1))
        return NULL;
    *value = found;
    return p < end && strchr(",} \t", *p) && *p ? p : NULL;
}

static const char *usage_field(const char *key, size_t size, const char *p, const char *end,
                               Event *event, int depth)
{
    if (is(key, size, "prompt_tokens"))
        return count_field(p, end, &event->prompt);
    if (is(key, size, "completion_tokens"))
        return count_field(p, end, &event->completion);
    if (is(key, size, "prompt_tokens_details"))
        return nothing(p, end);
    return any(p, end, event, depth);
}

static const char *delta_field(const char *key, size_t size, const char *p, const char *end,
                               Event *event, int depth)
{
    if (is(key, size, "content"))
        return event->text ? NULL : maybe_text(p, end, event, &event->text, &event->text_end);
    if (is(key, size, "reasoning_content") || is(key, size, "reasoning") ||
        is(key, size, "tool_calls") || is(key, size, "function_call") || is(key, size, "refusal"))
        return nothing(p, end);
    return any(p, end, event, depth);
}

static const char *choice_field(const char *key, size_t size, const char *p, const char *end,
                                Event *event, int depth)
{
    if (is(key, size, "text"))
        return event->text ? NULL : maybe_text(p, end, event, &event->text, &event->text_end);
    if (is(key, size, "delta"))
        return event->text ? NULL : object(p, end, event, depth, delta_field);
    if (is(key, size, "finish_reason"))
        return event->finish ? NULL
                             : maybe_text(p, end, event, &event->finish, &event->finish_end);
    return any(p, end, event, depth);
}

static const char *top_field(const char *key, size_t size, const char *p, const char *end,
                             Event *event, int depth)
{
    if (is(key, size, "choices")) {
        if (!(p = word(p, end, "[")))
            return NULL;
        p = blank(p, end);
        if (p < end && *p == ']')
            return p + 1;
        if (event->text || event->finish || !(p = object(p, end, event, depth + 1, choice_field)))
            return NULL;
        return word(blank(p, end), end, "]"); /* more than one choice is not plain */
    }
    if (is(key, size, "usage")) {
        const char *found = word(p, end, "null");
        if (found)
            return found;
        event->prompt = event->completion = -1;
        return object(p, end, event, depth, usage_field);
    }
    if (is(key, size, "error") || is(key, size, "metrics") || is(key, size, "timings"))
        return nothing(p, end);
    return any(p, end, event, depth);
}

/* Whether the event is plain; what it says is added to `event`, whose counts stay where it tells
   none. */
static int scan_event(const char *p, const char *end, Event *event)
{
    event->text = event->text_end = event->finish = event->finish_end = NULL;
    event->high = 0;
    p = object(p, end, event, 0, top_field);
    return p && blank(p, end) == end;
}

#endif
