/* What one write of truth_server.c holds: HTTP chunks around the events of three protocols.
 * Included once, after the options, the log and the output buffer it composes into. */

static void put(const char *data, size_t n) {
    if (out_len + n > OUT_BYTES) { fprintf(stderr, "a write is over %d bytes\n", OUT_BYTES); exit(1); }
    memcpy(out + out_len, data, n);
    out_len += n;
}
#define PUTF(...) (out_len += (size_t)snprintf(out + out_len, 1024, __VA_ARGS__))
static void chunk_opens(void) { mark = out_len; out_len += 10; } /* room for "xxxxxxxx\r\n" */
static void chunk_closes(void) {
    char size[16];
    size_t n = out_len - mark - 10, digits = (size_t)snprintf(size, sizeof size, "%zx\r\n", n);
    memcpy(out + mark, size, digits);
    memmove(out + mark + digits, out + mark + 10, n);
    out_len = mark + digits + n;
    put("\r\n", 2);
}
static void event_opens(void) { if (opt.per_event) chunk_opens(); }
static void event_closes(void) { if (opt.per_event) chunk_closes(); }
static void event(const char *data) { event_opens(); put(data, strlen(data)); event_closes(); }

static const char *TEXT = " tok";
#define ID "data: {\"id\":\"truth-0\",\"object\":\"%s\",\"created\":1767225600,\"model\":\"%s\","
#define OLLAMA "{\"model\":\"%s\",\"created_at\":\"2026-01-01T00:00:00.000000Z\","

static void head(uint32_t dialect) {
    const char *type = dialect == GENERATE || dialect == OLLAMA_CHAT ? "application/x-ndjson"
                                                                     : "text/event-stream";
    PUTF("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n%s\r\n", type,
         opt.close ? "Connection: close\r\n" : "");
    if (dialect != CHAT) return;
    chunk_opens();
    PUTF(ID "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
         "\"finish_reason\":null}]}\n\n", "chat.completion.chunk", opt.model);
    chunk_closes();
}

/* Frames that are the same for every request are rendered once. */
static void prepare(void) {
    for (int d = 0; d < TGI; d++) {
        for (int final = 0; final < 2; final++) {
            char *to = malloc(1024);
            const char *why = final ? "\"length\"" : "null";
            if (d == COMPLETIONS)
                snprintf(to, 1024, ID "\"choices\":[{\"index\":0,\"text\":\"%s\",\"logprobs\":null,"
                         "\"finish_reason\":%s}]}\n\n", "text_completion", opt.model, TEXT, why);
            else if (d == CHAT)
                snprintf(to, 1024, ID "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},"
                         "\"finish_reason\":%s}]}\n\n", "chat.completion.chunk", opt.model, TEXT, why);
            else if (d == GENERATE)
                snprintf(to, 1024, OLLAMA "\"response\":\"%s\",\"done\":false}\n", opt.model, TEXT);
            else
                snprintf(to, 1024, OLLAMA "\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},"
                         "\"done\":false}\n", opt.model, TEXT);
            *(final ? &last[d] : &token[d]) = to;
        }
        out_len = 0;
        if (!opt.per_event) chunk_opens();
        for (uint32_t i = 0; i < opt.per_write; i++) event(token[d]);
        if (!opt.per_event) chunk_closes();
        block[d] = malloc(out_len);
        memcpy(block[d], out, block_len[d] = out_len);
    }
}

static void tgi_event(uint32_t index, uint32_t total, uint32_t prompt) {
    event_opens();
    PUTF("data: {\"index\":%u,\"token\":{\"id\":7,\"text\":\"%s\",\"logprob\":-0.5,\"special\":false},"
         "\"generated_text\":", index, TEXT);
    if (index < total) {
        PUTF("null,\"details\":null}\n\n");
    } else {
        put("\"", 1);
        for (uint32_t i = 0; i < total; i++) put(TEXT, 4);
        PUTF("\",\"details\":{\"finish_reason\":\"length\",\"generated_tokens\":%u,\"seed\":0,"
             "\"input_length\":%u}}\n\n", total, prompt);
    }
    event_closes();
}

/* What follows the last token: usage and [DONE], or Ollama's counters, which are the truth. */
static void ending(const Conn *c, const Entry *e, uint64_t now) {
    if (c->dialect <= CHAT) {
        if (c->usage) {
            event_opens();
            PUTF(ID "\"choices\":[],\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u,"
                 "\"completion_tokens\":%u}}\n\n",
                 c->dialect == CHAT ? "chat.completion.chunk" : "text_completion", opt.model,
                 c->prompt_tokens, c->prompt_tokens + e->tokens, e->tokens);
            event_closes();
        }
        event("data: [DONE]\n\n");
    } else if (c->dialect != TGI) {
        uint64_t first = writes[e->first_write];
        event_opens();
        PUTF(OLLAMA "%s,\"done\":true,\"done_reason\":\"length\",\"total_duration\":%llu,"
             "\"prompt_eval_count\":%u,\"prompt_eval_duration\":%llu,\"eval_count\":%u,"
             "\"eval_duration\":%llu}\n", opt.model,
             c->dialect == GENERATE ? "\"response\":\"\""
                                    : "\"message\":{\"role\":\"assistant\",\"content\":\"\"}",
             (unsigned long long)(now - e->arrival), c->prompt_tokens,
             (unsigned long long)(first - e->arrival), e->tokens, (unsigned long long)(now - first));
        event_closes();
    }
}

