/* A whole answer: its chunked body decoded, its events read, one record line written. */
#ifndef LOADSTONE_STREAM_H
#define LOADSTONE_STREAM_H

#include "event.h"

#define LONGEST_REASON 32

/* What a stream came to. */
typedef struct {
    int64_t prompt, completion, content;
    char finish[LONGEST_REASON];
    int finish_size;
} Said;

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Decode exactly one chunked body into `out`, as long as `body` at least; `ends` turn from where
   each read ended in `body` to where it ended in `out`. Returns the bytes, -1 when not plain. */
static int64_t dechunk(const char *body, int64_t size, char *out, int64_t *ends, int64_t reads)
{
    int64_t at = 0, done = 0, read = 0;
    for (;;) {
        int64_t chunk = 0, start = at;
        int digit;
        for (; at < size && (digit = hex_digit(body[at])) >= 0; at++) {
            chunk = 16 * chunk + digit;
            if (at - start > 7)
                return -1;
        }
        if (at == start || size - at < 4 || body[at] != '\r' || body[at + 1] != '\n')
            return -1;
        at += 2;
        for (; read < reads && ends[read] <= at; read++)
            ends[read] = done;
        if (chunk == 0) {
            if (size - at != 2 || body[at] != '\r' || body[at + 1] != '\n')
                return -1;
            for (; read < reads; read++)
                ends[read] = done;
            return done;
        }
        if (size - at < chunk + 2)
            return -1;
        memcpy(out + done, body + at, chunk);
        for (; read < reads && ends[read] <= at + chunk; read++)
            ends[read] = done + ends[read] - at;
        at += chunk;
        done += chunk;
        if (body[at] != '\r' || body[at + 1] != '\n')
            return -1;
        at += 2;
    }
}

static int is_utf8(const unsigned char *p, const unsigned char *end)
{
    while (p < end) {
        int more = *p < 0x80 ? 0 : *p >= 0xC2 && *p < 0xE0 ? 1 : *p >= 0xE0 && *p < 0xF0 ? 2
                 : *p >= 0xF0 && *p < 0xF5 ? 3 : -1;
        if (more < 0 || end - p <= more)
            return 0;
        if ((*p == 0xE0 && p[1] < 0xA0) || (*p == 0xED && p[1] > 0x9F) ||
            (*p == 0xF0 && p[1] < 0x90) || (*p == 0xF4 && p[1] > 0x8F))
            return 0;
        for (p++; more > 0; more--, p++)
            if ((*p & 0xC0) != 0x80)
                return 0;
    }
    return 1;
}

/* Read the events of one stream. `counts[i]` becomes how many chunks with content read i
   completed. Whether all of it is plain and complete. */
static int read_events(const char *p, int64_t size, const int64_t *ends, int64_t reads,
                       int64_t *counts, Said *said)
{
    const char *start = p, *stop = p + size, *before = NULL, *after = NULL;
    size_t before_size = 0, after_size = 0;
    int64_t read = 0;
    Event event = {.prompt = -1, .completion = -1};
    memset(counts, 0, reads * sizeof *counts);
    said->content = said->finish_size = 0;
    while (p < stop) {
        const char *data, *end, *from;
        if (!(data = word(p, stop, "data:")) || !(end = memchr(data, '\n', stop - data)))
            return 0;
        if (end + 1 >= stop || end[1] != '\n' || end[-1] == '\r')
            return 0;
        data += *data == ' ';
        p = end + 2;
        while (read < reads && ends[read] < end + 2 - start)
            read++;
        if (end - data == 6 && !memcmp(data, "[DONE]", 6))
            break;
        if (before && (size_t)(end - data) > before_size + after_size &&
            !memcmp(data, before, before_size) &&
            !memcmp(end - after_size, after, after_size)) {
            from = data + before_size;
            if (!memchr(from, '"', end - after_size - from) && end[-(int64_t)after_size - 1] != '\\') {
                counts[read]++;
                said->content++;
                continue;
            }
        }
        if (!scan_event(data, end, &event) ||
            (event.high && !is_utf8((const unsigned char *)data, (const unsigned char *)end)))
            return 0;
        if (event.text) {
            counts[read]++;
            said->content++;
            before = data, before_size = event.text - data;
            after = event.text_end, after_size = end - event.text_end;
            if (event.finish || event.completion >= 0)
                before = NULL; /* the next one will differ in more than its text */
        }
        if (event.finish) {
            said->finish_size = (int)(event.finish_end - event.finish);
            if (said->finish_size > LONGEST_REASON || memchr(event.finish, '\\', said->finish_size))
                return 0;
            memcpy(said->finish, event.finish, said->finish_size);
        }
    }
    said->prompt = event.prompt;
    said->completion = event.completion;
    return said->finish_size > 0 && said->prompt >= 0 && said->completion == said->content &&
           !(said->finish_size == 5 && (!memcmp(said->finish, "abort", 5) ||
                                        !memcmp(said->finish, "error", 5)));
}

static char *put_text(char *out, const char *text, int64_t size)
{
    memcpy(out, text, size);
    return out + size;
}

static char *put_count(char *out, uint64_t value)
{
    char reversed[20];
    int size = 0;
    do
        reversed[size++] = '0' + (char)(value % 10);
    while (value /= 10);
    while (size)
        *out++ = reversed[--size];
    return out;
}

/* Seconds to the nanosecond. */
static char *put_seconds(char *out, int64_t nanoseconds)
{
    if (nanoseconds < 0)
        *out++ = '-', nanoseconds = -nanoseconds;
    out = put_count(out, nanoseconds / 1000000000);
    nanoseconds %= 1000000000;
    *out++ = '.';
    for (int i = 8; i >= 0; i--, nanoseconds /= 10)
        out[i] = '0' + (char)(nanoseconds % 10);
    return out + 9;
}

#endif
