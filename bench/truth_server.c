/* A server whose token times are known: one thread, epoll, schedules in absolute time.
 *
 * Every request that generates is logged: when the kernel received its last byte, when this
 * process read it, and the instant before each write of tokens. Everything in the log is
 * CLOCK_MONOTONIC in nanoseconds; kernel stamps come as CLOCK_REALTIME and are moved over with
 * both clocks read side by side at the same receive. bench/truth.py reads the log.
 *
 *   OpenAI SSE     POST /v1/completions, /v1/chat/completions
 *   Ollama NDJSON  POST /api/generate, /api/chat
 *   TGI SSE        POST /generate_stream, /
 *
 * A reply has as many tokens as the request asks for; write j is due at
 * arrival + ttft + the sum of j gaps. With ttft and gap 0 connections take turns, write by write.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/time_types.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { COMPLETIONS, CHAT, GENERATE, OLLAMA_CHAT, TGI, DIALECTS };
enum { READ_BYTES = 1 << 18, OUT_BYTES = 1 << 26, MOST_TOKENS = 1000000, BATCH = 256 };
#define RESERVED (1ull << 36) /* address space of each log array; touched pages only cost */

typedef struct { /* one request in the log; bench/truth.py names the same fields */
    uint64_t arrival, received, ended; /* ended: after the last write, 0 when cut short */
    int64_t nonce;                     /* the number after --nonce's text, -1 when absent */
    uint64_t first_write;              /* index of its first instant in the array of writes */
    uint32_t tokens, written, per_write, connection, dialect, stamped;
} Entry;

typedef struct Conn {
    int fd;
    uint32_t number, dialect, prompt_tokens, usage, last_request;
    char *in, *rest; /* bytes of an unfinished request; bytes that the socket did not take */
    size_t in_len, rest_len;
    uint64_t due, rng;
    int64_t entry; /* -1 while no reply is under way */
    int queued, dead, want_out;
} Conn;

static struct {
    double jitter;
    uint64_t ttft, gap, seed;
    uint32_t port, per_write, tokens, early_head, per_event, no_stamps, close;
    const char *log, *model, *nonce;
} opt = {.per_write = 1, .model = "truth", .nonce = "\"seed\""};

static Entry *entries;
static uint64_t *writes, n_entries, n_writes, tokens_written, in_flight;
static Conn **heap;
static size_t heap_len, heap_cap;
static int epoll_fd, listener;
static volatile sig_atomic_t stopping;
static char in_scratch[READ_BYTES], *out, *block[DIALECTS], *token[DIALECTS], *last[DIALECTS];
static size_t out_len, block_len[DIALECTS], mark;

static uint64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}
static void die(const char *what) { perror(what); exit(1); }

#include "truth_frames.h"

/* ---- connections ---- */

static void watch(Conn *c, int want_out) {
    if (c->want_out == want_out) return;
    c->want_out = want_out;
    struct epoll_event ev = {.events = EPOLLIN | (want_out ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
}
static void hang_up(Conn *c) {
    if (!c->dead) {
        close(c->fd);
        if (c->entry >= 0) in_flight--;
        c->dead = 1;
    }
    if (c->queued) return; /* freed when its turn comes */
    free(c->in);
    free(c->rest);
    free(c);
}
/* True when the socket took everything; the rest waits for EPOLLOUT. -1: the peer is gone. */
static int deliver(Conn *c, const char *data, size_t n) {
    ssize_t taken = send(c->fd, data, n, MSG_NOSIGNAL);
    if (taken < 0 && errno != EAGAIN) return -1;
    if (taken < 0) taken = 0;
    if ((size_t)taken == n) return 1;
    char *rest = malloc(n - (size_t)taken);
    memcpy(rest, data + taken, n - (size_t)taken);
    free(c->rest);
    c->rest = rest;
    c->rest_len = n - (size_t)taken;
    watch(c, 1);
    return 0;
}

/* ---- the schedule: a binary heap by due time ---- */

static void sift_up(size_t i) {
    Conn *c = heap[i];
    for (; i && heap[(i - 1) / 2]->due > c->due; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = c;
}
static void schedule(Conn *c) {
    if (heap_len == heap_cap) heap = realloc(heap, (heap_cap = 2 * heap_cap + 64) * sizeof *heap);
    c->queued = 1;
    heap[heap_len] = c;
    sift_up(heap_len++);
}
static Conn *take_due(void) {
    Conn *top = heap[0], *c = heap[--heap_len];
    size_t i = 0;
    for (size_t k; (k = 2 * i + 1) < heap_len; i = k) {
        if (k + 1 < heap_len && heap[k + 1]->due < heap[k]->due) k++;
        if (heap[k]->due >= c->due) break;
        heap[i] = heap[k];
    }
    heap[i] = c;
    top->queued = 0;
    return top;
}
static uint64_t random_of(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}
static uint64_t next_gap(Conn *c) {
    if (opt.jitter == 0) return opt.gap;
    double u = (double)(random_of(&c->rng) >> 11) / (double)(1ull << 52) - 1;
    return (uint64_t)((double)opt.gap * (1 + opt.jitter * u));
}

static void read_requests(Conn *c, char *data, size_t n, uint64_t arrival, uint64_t received, int stamped);

static void reply_ended(Conn *c, Entry *e) {
    e->ended = clock_ns(CLOCK_MONOTONIC);
    c->entry = -1;
    in_flight--;
    if (c->last_request) { hang_up(c); return; }
    if (c->in_len) { /* a request sent ahead of the answer: it counts from now */
        char *early = c->in;
        size_t n = c->in_len;
        c->in = NULL, c->in_len = 0;
        read_requests(c, early, n, e->ended, e->ended, 0);
        free(early);
    }
}

/* One write of tokens; the clock is read just before it. */
static void fire(Conn *c) {
    Entry *e = &entries[c->entry];
    uint32_t left = e->tokens - e->written, n = left < e->per_write ? left : e->per_write;
    uint32_t d = c->dialect, first = e->written == 0, final = n == left;
    int plain = d != TGI && !final && !(first && !opt.early_head);
    uint64_t *instant = &writes[e->first_write + e->written / e->per_write];
    if (first) *instant = clock_ns(CLOCK_MONOTONIC); /* Ollama's counters look at it */
    out_len = 0;
    if (!plain) {
        if (first && !opt.early_head) head(d);
        if (!opt.per_event) chunk_opens();
        for (uint32_t i = 1; i <= n; i++) {
            if (d == TGI) tgi_event(e->written + i, e->tokens, c->prompt_tokens);
            else event(final && i == n ? last[d] : token[d]);
        }
        if (final) ending(c, e, clock_ns(CLOCK_MONOTONIC));
        if (!opt.per_event) chunk_closes();
        if (final) put("0\r\n\r\n", 5);
    }
    uint64_t now = *instant = clock_ns(CLOCK_MONOTONIC);
    int sent = plain ? deliver(c, block[d], block_len[d]) : deliver(c, out, out_len);
    e->written += n;
    tokens_written += n;
    if (sent < 0) { hang_up(c); return; }
    c->due = opt.gap ? c->due + next_gap(c) : now;
    if (sent && final) reply_ended(c, e);
    else if (sent) schedule(c);
}
static void drain(Conn *c) {
    char *rest = c->rest;
    size_t n = c->rest_len;
    c->rest = NULL, c->rest_len = 0;
    int sent = deliver(c, rest, n);
    free(rest);
    if (sent < 0) { hang_up(c); return; }
    if (!sent) return;
    watch(c, 0);
    if (c->entry < 0) return;
    Entry *e = &entries[c->entry];
    if (e->written == e->tokens) reply_ended(c, e);
    else if (!c->queued) schedule(c);
}

/* ---- requests ---- */

#include "truth_requests.h"

/* Handles every whole request in `data` and keeps what is left of it in c->in. */
static void read_requests(Conn *c, char *data, size_t n, uint64_t arrival, uint64_t received, int stamped) {
    while (n && c->entry < 0 && !c->last_request) {
        char *end = memmem(data, n, "\r\n\r\n", 4);
        if (!end) break;
        *end = 0;
        char *length = strcasestr(data, "\r\ncontent-length:");
        size_t need = (size_t)(end + 4 - data) + (length ? strtoul(length + 17, NULL, 10) : 0);
        int closing = opt.close || strcasestr(data, "\r\nconnection: close") != NULL;
        *end = '\r';
        if (n < need) break;
        int dialect = -1;
        for (size_t i = 0; i < sizeof ROUTES / sizeof *ROUTES; i++)
            if (!strncmp(data, ROUTES[i].path, strlen(ROUTES[i].path))) dialect = ROUTES[i].dialect;
        char *body = end + 4;
        uint64_t at[2] = {arrival, received};
        if (dialect >= 0) begin(c, dialect, body, need - (size_t)(body - data), at, stamped);
        else get(c, data);
        c->last_request |= (uint32_t)closing;
        data += need, n -= need;
    }
    if (!n) return;
    c->in = malloc(n + 1);
    memcpy(c->in, data, c->in_len = n);
}
static void readable(Conn *c) {
    char control[128];
    struct iovec io = {in_scratch, READ_BYTES - 1};
    struct msghdr msg = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control,
                         .msg_controllen = sizeof control};
    ssize_t n = recvmsg(c->fd, &msg, 0);
    uint64_t received = clock_ns(CLOCK_MONOTONIC), arrival = received;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { hang_up(c); return; }
    int stamped = 0;
    for (struct cmsghdr *m = CMSG_FIRSTHDR(&msg); m; m = CMSG_NXTHDR(&msg, m)) {
        if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_TIMESTAMPNS) continue;
        struct timespec t;
        memcpy(&t, CMSG_DATA(m), sizeof t);
        uint64_t ago = clock_ns(CLOCK_REALTIME) - ((uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec);
        if ((stamped = ago < 10000000000ull)) arrival = clock_ns(CLOCK_MONOTONIC) - ago;
    }
    if (arrival > received) arrival = received;
    char *data = in_scratch;
    size_t len = (size_t)n;
    char *before = c->in;
    if (before) {
        data = before = realloc(before, c->in_len + len + 1);
        memcpy(data + c->in_len, in_scratch, len);
        len += c->in_len;
        c->in = NULL, c->in_len = 0;
    }
    data[len] = 0;
    read_requests(c, data, len, arrival, received, stamped);
    free(before);
    if (c->last_request && c->entry < 0) hang_up(c);
}
static void accept_all(void) {
    static uint32_t number;
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Conn *c = calloc(1, sizeof *c);
        c->fd = fd, c->entry = -1, c->number = number++;
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev);
    }
}

/* ---- the process ---- */

static void write_log(uint64_t began, uint64_t offset) {
    if (!opt.log) return;
    FILE *f = fopen(opt.log, "wb");
    if (!f) die(opt.log);
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    uint64_t header[8] = {0x314854555254534cull, sizeof(Entry), n_entries, n_writes, began, now,
                          offset, clock_ns(CLOCK_REALTIME) - now}; /* "LSTRUTH1" */
    if (fwrite(header, sizeof header, 1, f) != 1 ||
        fwrite(entries, sizeof *entries, n_entries, f) != n_entries ||
        fwrite(writes, sizeof *writes, n_writes, f) != n_writes || fclose(f))
        die(opt.log);
}
static void on_signal(int number) { (void)number; stopping = 1; }
static void listen_on(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int on = 1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (!opt.no_stamps) setsockopt(listener, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&at, size) || listen(listener, 65535)) die("listen");
    getsockname(listener, (struct sockaddr *)&at, &size);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &ev);
    printf("%u\n", ntohs(at.sin_port));
    fflush(stdout);
}
static uint64_t ns_of(const char *ms) { return (uint64_t)(strtod(ms, NULL) * 1e6); }
static void options(int argc, char **argv) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'}, {"log", 1, 0, 'l'}, {"ttft", 1, 0, 't'}, {"gap", 1, 0, 'g'},
        {"jitter", 1, 0, 'j'}, {"seed", 1, 0, 's'}, {"per-write", 1, 0, 'w'},
        {"tokens", 1, 0, 'n'}, {"model", 1, 0, 'm'}, {"early-head", 0, 0, 'e'},
        {"nonce", 1, 0, 'i'}, {"chunk-per-event", 0, 0, 'c'}, {"no-stamps", 0, 0, 'k'},
        {"close", 0, 0, 'x'}, {0}};
    for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) switch (o) {
        case 'p': opt.port = (uint32_t)atoi(optarg); break;
        case 'l': opt.log = optarg; break;
        case 't': opt.ttft = ns_of(optarg); break;
        case 'g': opt.gap = ns_of(optarg); break;
        case 'j': opt.jitter = strtod(optarg, NULL); break;
        case 's': opt.seed = strtoull(optarg, NULL, 10); break;
        case 'w': opt.per_write = (uint32_t)atoi(optarg); break;
        case 'n': opt.tokens = (uint32_t)atoi(optarg); break;
        case 'm': opt.model = optarg; break;
        case 'i': opt.nonce = optarg; break;
        case 'e': opt.early_head = 1; break;
        case 'c': opt.per_event = 1; break;
        case 'k': opt.no_stamps = 1; break;
        case 'x': opt.close = 1; break;
        default: exit(2);
    }
    if (opt.per_write < 1 || opt.per_write > 4096 || opt.jitter < 0 || opt.jitter > 1 ||
        strlen(opt.model) > 200) {
        fprintf(stderr, "--per-write takes 1 to 4096, --jitter 0 to 1, --model 200 characters\n");
        exit(2);
    }
}
static void *reserve(size_t size) {
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) die("mmap");
    return at;
}
static void wait_and_serve(void) {
    struct epoll_event events[BATCH];
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    uint64_t left = !heap_len ? 3600000000000ull : heap[0]->due > now ? heap[0]->due - now : 0;
    struct __kernel_timespec limit = {(int64_t)(left / 1000000000), (int64_t)(left % 1000000000)};
    long n = syscall(SYS_epoll_pwait2, epoll_fd, events, BATCH, &limit, NULL, 0);
    if (n < 0 && errno != EINTR) die("epoll_pwait2 (Linux 5.11 or newer)");
    for (long i = 0; i < n; i++) {
        Conn *c = events[i].data.ptr;
        if (!c) accept_all();
        else if (c->rest && events[i].events & EPOLLOUT) drain(c);
        else readable(c);
    }
}
int main(int argc, char **argv) {
    options(argc, argv);
    uint64_t began = clock_ns(CLOCK_MONOTONIC), offset = clock_ns(CLOCK_REALTIME) - began;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1); /* epoll wakes at the nanosecond it was asked for */
    struct sigaction on = {.sa_handler = on_signal};
    sigaction(SIGTERM, &on, NULL);
    sigaction(SIGINT, &on, NULL);
    entries = reserve(RESERVED), writes = reserve(RESERVED), out = reserve(OUT_BYTES + 4096);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    prepare();
    listen_on();
    while (!stopping) {
        wait_and_serve();
        uint64_t now = clock_ns(CLOCK_MONOTONIC);
        for (int i = 0; i < BATCH && heap_len && heap[0]->due <= now; i++) {
            Conn *c = take_due();
            if (c->dead) hang_up(c);
            else fire(c);
        }
    }
    write_log(began, offset);
    return 0;
}
