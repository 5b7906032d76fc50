/* What a request asks of truth_server.c: the numbers in its body, the routes, the pages.
 * Included once, where connections and the schedule are known. */

static int64_t number_after(const char *body, size_t n, const char *key) {
    const char *at = memmem(body, n, key, strlen(key));
    if (!at) return -1;
    for (at += strlen(key); at < body + n && (*at == ' ' || *at == ':'); at++) {}
    int64_t value = 0;
    const char *digits = at;
    for (; at < body + n && *at >= '0' && *at <= '9'; at++) value = value * 10 + (*at - '0');
    return at > digits ? value : -1;
}
static uint32_t words_after(const char *body, size_t n, const char *key) {
    const char *at = memmem(body, n, key, strlen(key)), *end = body + n;
    if (!at) return 1;
    at += strlen(key);
    while (at < end && (*at == ' ' || *at == ':')) at++;
    uint32_t words = 1;
    for (at++; at < end && *at != '"'; at++) {
        words += *at == ' ';
        if (*at == '\\') at++;
    }
    return words;
}
static void page(Conn *c, int status, const char *json) {
    char text[2048];
    int n = snprintf(text, sizeof text, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n%s", status, status == 200 ? "OK" : "Error",
                     strlen(json), json);
    if (deliver(c, text, (size_t)n) < 0) c->last_request = 1;
}
static const struct { const char *path; int dialect; } ROUTES[] = {
    {"POST /v1/completions ", COMPLETIONS}, {"POST /v1/chat/completions ", CHAT},
    {"POST /api/generate ", GENERATE},      {"POST /api/chat ", OLLAMA_CHAT},
    {"POST /generate_stream ", TGI},        {"POST / ", TGI},
};
static void get(Conn *c, const char *path) {
    char text[1024] = "{}";
#define IS(p) (!strncmp(path, p " ", sizeof p))
    if (IS("GET /v1/models"))
        snprintf(text, sizeof text, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\","
                 "\"max_model_len\":1048576}]}", opt.model);
    else if (IS("GET /version") || IS("GET /api/version"))
        snprintf(text, sizeof text, "{\"version\":\"0.0.0-truth\"}");
    else if (IS("GET /api/tags") || IS("GET /api/ps"))
        snprintf(text, sizeof text, "{\"models\":[{\"name\":\"%s\",\"model\":\"%s\",\"size\":1,"
                 "\"details\":{}}]}", opt.model, opt.model);
    else if (IS("GET /info"))
        snprintf(text, sizeof text, "{\"model_id\":\"%s\",\"version\":\"0.0.0-truth\","
                 "\"max_concurrent_requests\":1048576,\"max_total_tokens\":1048576}", opt.model);
    else if (IS("GET /stats"))
        snprintf(text, sizeof text, "{\"requests\":%llu,\"in_flight\":%llu,\"tokens\":%llu}",
                 (unsigned long long)n_entries, (unsigned long long)in_flight,
                 (unsigned long long)tokens_written);
    else if (!IS("GET /health") && !IS("POST /api/show")) {
        page(c, 404, "{\"error\":\"no such page\"}");
        return;
    }
    page(c, 200, text);
}
static void begin(Conn *c, int d, const char *body, size_t n, const uint64_t at[2], int stamped) {
    static const char *LIMIT[] = {"\"max_tokens\"", "\"max_tokens\"", "\"num_predict\"",
                                  "\"num_predict\"", "\"max_new_tokens\""};
    static const char *PROMPT[] = {"\"prompt\"", "\"content\"", "\"prompt\"", "\"content\"", "\"inputs\""};
    int64_t tokens = opt.tokens ? opt.tokens : number_after(body, n, LIMIT[d]);
    if (tokens < 0 && d == CHAT) tokens = number_after(body, n, "\"max_completion_tokens\"");
    if (tokens < 0) tokens = 128;
    if (tokens < 1 || tokens > MOST_TOKENS || memmem(body, n, "\"stream\":false", 14)) {
        page(c, 400, "{\"error\":{\"message\":\"streams of 1 to 1000000 tokens only\"}}");
        return;
    }
    Entry *e = &entries[c->entry = (int64_t)n_entries++];
    *e = (Entry){.arrival = at[0], .received = at[1], .nonce = number_after(body, n, opt.nonce),
                 .first_write = n_writes, .tokens = (uint32_t)tokens, .per_write = opt.per_write,
                 .connection = c->number, .dialect = (uint32_t)d, .stamped = (uint32_t)stamped};
    n_writes += (e->tokens + opt.per_write - 1) / opt.per_write;
    c->dialect = (uint32_t)d;
    c->prompt_tokens = words_after(body, n, PROMPT[d]);
    c->usage = memmem(body, n, "\"include_usage\"", 15) != NULL;
    c->rng = opt.seed * 0x9e3779b97f4a7c15ull + (uint64_t)e->nonce;
    c->due = at[0] + opt.ttft;
    in_flight++;
    out_len = 0;
    if (opt.early_head) head(c->dialect);
    if (opt.early_head && deliver(c, out, out_len) != 1) c->last_request = 1;
    schedule(c);
}
