/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the sham device: its memory, its streams and events, its operations.
 *
 * One lock for everything. It is held for moments; never while something is computed or copied.
 */
#include "sham.h"

#include "base/rng.h"
#include "ops/fallback.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MAX_BUFFERS = 1 << 16, RUBBISH = 0xA5, NOT_A_NUMBER = 0xFF };

#define REGION ((size_t)1 << 35)

struct block {
    uintptr_t address;
    size_t bytes;
    bool living;
};

struct point {
    uint64_t recorded; /* so often was event_record called */
    uint64_t reached;  /* and of these so many have come to pass */
    struct point *next;
};

struct sham {
    struct ml_device base;
    struct sham_options options;
    struct ml_ops own;
    struct ml_ops_filled filled;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* something was queued, done, held or released */
    char *region, *memory;  /* addresses; what is behind them */
    size_t used, page;
    struct block *blocks; /* [MAX_BUFFERS], in the order of their addresses */
    size_t n_blocks;
    struct point *points; /* of all events that there were */
    uint64_t streams, open_streams, computed;
};

enum kind { UPLOAD, DOWNLOAD, COPY, COMPUTE, RECORD, WAIT, FAIL, STOP };

struct command {
    struct command *next;
    enum kind kind;
    void *to;
    const void *from;
    size_t bytes;
    struct point *point;
    uint64_t count;
    enum ml_op op;
    struct ml_stream *cpu; /* of COMPUTE */
    const char *why;
    max_align_t clone[]; /* arguments of the operation */
};

struct queue {
    struct sham *sham;
    pthread_t thread;
    struct ml_rng rng;
    struct command *first, *last, *running;
    uint64_t queued, done;
    bool held;
    marlin_status status;
    struct marlin_error err;
};

_Noreturn static void die(const char *what) {
    (void)fprintf(stderr, "sham device: %s\n", what);
    abort();
}

static void *must(void *p) {
    if (!p || p == MAP_FAILED) die("out of memory");
    return p;
}

static struct sham *sham_of(const struct ml_device *d) {
    return (struct sham *)(uintptr_t)d;
}

/* ---- memory ---- */

/* The last block that begins at or before the address. */
static struct block *block_before(struct sham *d, uintptr_t address) {
    size_t low = 0, high = d->n_blocks;
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (d->blocks[middle].address <= address)
            low = middle;
        else
            high = middle;
    }
    return high > 0 && d->blocks[low].address <= address ? &d->blocks[low] : NULL;
}

static bool is_ours(struct sham *d, const void *address, size_t bytes) {
    const uintptr_t a = (uintptr_t)address;
    (void)pthread_mutex_lock(&d->lock);
    const struct block *b = block_before(d, a);
    const bool inside = b && b->living && a - b->address <= b->bytes && bytes <= b->bytes - (a - b->address);
    (void)pthread_mutex_unlock(&d->lock);
    return inside;
}

/* Where the bytes at a device address really are. */
static char *behind(struct sham *d, const void *address, size_t bytes, const char *user) {
    char text[160];
    if (is_ours(d, address, bytes)) return d->memory + ((uintptr_t)address - (uintptr_t)d->region);
    (void)snprintf(text, sizeof text, "%s of %zu bytes at %p, which are not within a living buffer", user,
                   bytes, address);
    die(text);
}

/* Ends at the end of a page, but for what alignment to 64 wants; an unmapped page follows. */
static marlin_status alloc(struct ml_device *device, size_t bytes, struct ml_buffer *out,
                           struct marlin_error *err) {
    struct sham *d = sham_of(device);
    const size_t room = (bytes + 63) / 64 * 64, pages = (room + d->page - 1) / d->page * d->page;
    if (bytes > REGION / 2)
        return ml_fail(err, MARLIN_ERR_MEMORY, "cannot allocate %zu bytes on sham", bytes);
    (void)pthread_mutex_lock(&d->lock);
    if (d->used + pages + d->page > REGION || d->n_blocks == MAX_BUFFERS) die("the region is used up");
    const size_t at = d->used + pages - room;
    if (pages && mprotect(d->memory + d->used, pages, PROT_READ | PROT_WRITE)) die("mprotect");
    d->used += pages + d->page;
    memset(d->memory + at, NOT_A_NUMBER, bytes);
    *out = (struct ml_buffer){.address = d->region + at, .bytes = bytes};
    d->blocks[d->n_blocks++] = (struct block){(uintptr_t)out->address, bytes, true};
    (void)pthread_mutex_unlock(&d->lock);
    return MARLIN_OK;
}

static void release(struct ml_device *device, struct ml_buffer *b) {
    struct sham *d = sham_of(device);
    if (b->address) {
        const size_t at = (size_t)((char *)b->address - d->region), first = at / d->page * d->page;
        const size_t bytes = (at - first + b->bytes + d->page - 1) / d->page * d->page;
        (void)pthread_mutex_lock(&d->lock);
        struct block *block = block_before(d, (uintptr_t)b->address);
        if (!block || !block->living || block->address != (uintptr_t)b->address)
            die("free of what was not allocated");
        block->living = false;
        if (bytes) (void)madvise(d->memory + first, bytes, MADV_DONTNEED);
        if (bytes && mprotect(d->memory + first, bytes, PROT_NONE)) die("mprotect");
        (void)pthread_mutex_unlock(&d->lock);
    }
    *b = (struct ml_buffer){0};
}

static void memory(struct ml_device *device, uint64_t *free_bytes, uint64_t *total_bytes) {
    const struct sham *d = sham_of(device);
    *free_bytes = REGION - d->used;
    *total_bytes = REGION;
}

/* ---- a stream's thread ---- */

/* Copies of keys, which the walk changes. */
struct keys {
    struct sham *sham;
    const char *op;
    void *copy;
};

static void *translate(void *user, const void *address, size_t bytes, enum ml_operand_use use) {
    struct keys *k = user;
    char *real = behind(k->sham, address, bytes, k->op);
    if (use != ML_OPERAND_KEY) return real;
    if (k->copy) die("an operation with two keys");
    k->copy = must(malloc(bytes));
    return memcpy(k->copy, real, bytes);
}

static void compute(struct sham *d, struct command *c) {
    const struct ml_operands *op = &ml_operands[c->op];
    struct keys keys = {.sham = d, .op = op->name};
    op->visit(c->clone, &(struct ml_visitor){translate, &keys});
    op->run(&ml_ops_cpu, c->cpu, c->clone);
    free(keys.copy);
}

static void fail_stream(struct queue *q, const char *why) {
    (void)pthread_mutex_lock(&q->sham->lock);
    if (q->status == MARLIN_OK) q->status = ml_fail(&q->err, MARLIN_ERR_IO, "%s", why);
    (void)pthread_mutex_unlock(&q->sham->lock);
}

static void record(struct sham *d, const struct command *c) {
    (void)pthread_mutex_lock(&d->lock);
    c->point->reached = c->count;
    (void)pthread_cond_broadcast(&d->changed);
    (void)pthread_mutex_unlock(&d->lock);
}

static void wait_for(struct sham *d, const struct command *c) {
    (void)pthread_mutex_lock(&d->lock);
    while (c->point->reached < c->count)
        (void)pthread_cond_wait(&d->changed, &d->lock);
    (void)pthread_mutex_unlock(&d->lock);
}

static void carry_out(struct queue *q, struct command *c) {
    struct sham *d = q->sham;
    switch (c->kind) {
    case UPLOAD:
        memcpy(behind(d, c->to, c->bytes, "upload"), c->from, c->bytes);
        break;
    case DOWNLOAD:
        memcpy(c->to, behind(d, c->from, c->bytes, "download"), c->bytes);
        break;
    case COPY:
        memmove(behind(d, c->to, c->bytes, "copy"), behind(d, c->from, c->bytes, "copy"), c->bytes);
        break;
    case COMPUTE:
        compute(d, c);
        break;
    case RECORD:
        record(d, c);
        break;
    case WAIT:
        wait_for(d, c);
        break;
    case FAIL:
        fail_stream(q, c->why);
        break;
    case STOP:
        break;
    }
}

static void delay(struct queue *q) {
    const uint64_t r = ml_rng_u64(&q->rng) >> 16;
    const unsigned most = q->sham->options.delay_us;
    if (r % 8 == 1) (void)sched_yield();
    if (r % 8 != 0 || most == 0) return;
    (void)nanosleep(&(struct timespec){.tv_nsec = (long)(r / 8 % (1000ull * most))}, NULL);
}

static struct command *next_command(struct queue *q) {
    struct sham *d = q->sham;
    (void)pthread_mutex_lock(&d->lock);
    while (!q->first || q->held)
        (void)pthread_cond_wait(&d->changed, &d->lock);
    struct command *c = q->running = q->first;
    q->first = c->next;
    (void)pthread_mutex_unlock(&d->lock);
    return c;
}

static void *stream_thread(void *arg) {
    struct queue *q = arg;
    for (bool going = true; going;) {
        struct command *c = next_command(q);
        delay(q);
        carry_out(q, c);
        going = c->kind != STOP;
        (void)pthread_mutex_lock(&q->sham->lock);
        q->running = NULL;
        q->done++;
        (void)pthread_cond_broadcast(&q->sham->changed);
        (void)pthread_mutex_unlock(&q->sham->lock);
        free(c);
    }
    return NULL;
}

/* ---- a stream, as its user sees it ---- */

static struct command *command(enum kind kind, size_t clone_bytes) {
    struct command *c = must(calloc(1, sizeof *c + clone_bytes));
    c->kind = kind;
    return c;
}

static void put(struct queue *q, struct command *c) {
    (void)pthread_mutex_lock(&q->sham->lock);
    if (q->first)
        q->last->next = c;
    else
        q->first = c;
    q->last = c;
    q->queued++;
    (void)pthread_cond_broadcast(&q->sham->changed);
    (void)pthread_mutex_unlock(&q->sham->lock);
}

static marlin_status stream_open(struct ml_device *device, struct ml_stream *out, struct marlin_error *err) {
    struct sham *d = sham_of(device);
    struct queue *q = must(calloc(1, sizeof *q));
    (void)err;
    q->sham = d;
    ml_rng_seed(&q->rng, d->options.seed + d->streams++);
    d->open_streams++;
    if (pthread_create(&q->thread, NULL, stream_thread, q)) die("no thread for a stream");
    *out = (struct ml_stream){.device = device, .queue = q};
    return MARLIN_OK;
}

static void stream_close(struct ml_stream *s) {
    struct queue *q = s->queue;
    if (q) {
        sham_release(s);
        put(q, command(STOP, 0));
        (void)pthread_join(q->thread, NULL);
        q->sham->open_streams--;
        free(q);
    }
    *s = (struct ml_stream){0};
}

static marlin_status stream_sync(struct ml_stream *s, struct marlin_error *err) {
    struct queue *q = s->queue;
    struct sham *d = q->sham;
    (void)pthread_mutex_lock(&d->lock);
    if (q->held) die("a wait for a stream that is held");
    while (q->done < q->queued)
        (void)pthread_cond_wait(&d->changed, &d->lock);
    const marlin_status st = q->status;
    if (st != MARLIN_OK && err) *err = q->err;
    q->status = MARLIN_OK;
    (void)pthread_mutex_unlock(&d->lock);
    return st;
}

static void copy_bytes(struct ml_stream *s, enum kind kind, void *to, const void *from, size_t bytes) {
    struct command *c = command(kind, 0);
    c->to = to;
    c->from = from;
    c->bytes = bytes;
    put(s->queue, c);
}

static void upload(struct ml_stream *s, void *to, const void *host, size_t bytes) {
    if (bytes) copy_bytes(s, UPLOAD, to, host, bytes);
}

static bool reads(const struct command *c, const char *host, size_t bytes) {
    const char *from = c->from;
    return c->kind == UPLOAD && from < host + bytes && host < from + c->bytes;
}

/* Host memory that an upload before still reads stays as it is for now. */
static bool is_being_read(struct queue *q, const char *host, size_t bytes) {
    (void)pthread_mutex_lock(&q->sham->lock);
    bool any = q->running && reads(q->running, host, bytes);
    for (const struct command *c = q->first; c && !any; c = c->next)
        any = reads(c, host, bytes);
    (void)pthread_mutex_unlock(&q->sham->lock);
    return any;
}

static void download(struct ml_stream *s, void *host, const void *from, size_t bytes) {
    if (bytes && !is_being_read(s->queue, host, bytes)) memset(host, RUBBISH, bytes);
    if (bytes) copy_bytes(s, DOWNLOAD, host, from, bytes);
}

static void copy(struct ml_stream *s, void *to, const void *from, size_t bytes) {
    if (bytes) copy_bytes(s, COPY, to, from, bytes);
}

void sham_hold(struct ml_stream *s) {
    struct queue *q = s->queue;
    (void)pthread_mutex_lock(&q->sham->lock);
    q->held = true;
    (void)pthread_mutex_unlock(&q->sham->lock);
}

void sham_release(struct ml_stream *s) {
    struct queue *q = s->queue;
    (void)pthread_mutex_lock(&q->sham->lock);
    q->held = false;
    (void)pthread_cond_broadcast(&q->sham->changed);
    (void)pthread_mutex_unlock(&q->sham->lock);
}

void sham_fail(struct ml_stream *s, const char *why) {
    struct command *c = command(FAIL, 0);
    c->why = why;
    put(s->queue, c);
}

/* ---- events ---- */

static marlin_status event_create(struct ml_device *device, struct ml_event *out, struct marlin_error *err) {
    struct sham *d = sham_of(device);
    struct point *p = must(calloc(1, sizeof *p));
    (void)err;
    (void)pthread_mutex_lock(&d->lock);
    p->next = d->points;
    d->points = p;
    (void)pthread_mutex_unlock(&d->lock);
    *out = (struct ml_event){.device = device, .point = p};
    return MARLIN_OK;
}

/* Streams may still come to the point: it stays until the device goes. */
static void event_free(struct ml_event *e) {
    *e = (struct ml_event){0};
}

static void event_record(struct ml_event *e, struct ml_stream *s) {
    struct command *c = command(RECORD, 0);
    c->point = e->point;
    c->count = ++c->point->recorded;
    put(s->queue, c);
}

static void event_wait(struct ml_event *e, struct ml_stream *s) {
    struct command *c = command(WAIT, 0);
    c->point = e->point;
    c->count = c->point->recorded;
    put(s->queue, c);
}

/* ---- operations ---- */

/* The CPU's, on the stream's thread alone: pools have one caller at a time. */
struct work {
    struct ml_device *cpu;
    struct ml_stream stream;
};

static void ops_close(struct ml_stream *s) {
    struct work *w = s->work;
    if (!w) return;
    (void)stream_sync(s, NULL);
    ml_ops_cpu.close(&w->stream);
    w->cpu->ops->stream_close(&w->stream);
    w->cpu->ops->destroy(w->cpu);
    free(w);
    s->work = NULL;
}

static marlin_status ops_open(struct ml_stream *s, struct ml_pool *pool, const struct ml_ops_sizes *sizes,
                              struct marlin_error *err) {
    struct work *w = must(calloc(1, sizeof *w));
    (void)pool;
    if (ml_device_open("cpu", &w->cpu, err) || w->cpu->ops->stream_open(w->cpu, &w->stream, err))
        die("no CPU to compute on");
    s->work = w;
    const marlin_status st = ml_ops_cpu.open(&w->stream, NULL, sizes, err);
    if (st != MARLIN_OK) ops_close(s);
    return st;
}

static marlin_status ops_flush(struct ml_stream *s, struct marlin_error *err) {
    struct work *w = s->work;
    const marlin_status st = stream_sync(s, err), cpu = ml_ops_cpu.flush(&w->stream, st ? NULL : err);
    return st ? st : cpu;
}

static void queue_op(struct ml_stream *s, enum ml_op op, const void *args) {
    struct queue *q = s->queue;
    struct work *w = s->work;
    struct command *c = command(COMPUTE, ml_operands[op].bytes(args));
    if (!w) die("an operation on a stream whose operations were not opened");
    c->op = op;
    c->cpu = &w->stream;
    (void)ml_operands[op].clone(c->clone, args);
    (void)pthread_mutex_lock(&q->sham->lock);
    q->sham->computed++;
    (void)pthread_mutex_unlock(&q->sham->lock);
    put(q, c);
}

#define QUEUE(name)                                                                                          \
    static void queue_##name(struct ml_stream *s, const struct ml_##name##_op *args) {                       \
        queue_op(s, ML_OP_##name, args);                                                                     \
    }
ML_OPS(QUEUE)

static const struct ml_ops all_ops = {.name = "sham",
                                      .open = ops_open,
                                      .close = ops_close,
                                      .flush = ops_flush,
#define ENTRY(name) .name = queue_##name,
                                      ML_OPS(ENTRY)
#undef ENTRY
};

uint64_t sham_computed(const struct ml_device *d) {
    return sham_of(d)->computed;
}

/* ---- the device ---- */

static void destroy(struct ml_device *device) {
    struct sham *d = sham_of(device);
    if (d->open_streams) die("destroyed before its streams");
    for (struct point *p = d->points, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    (void)munmap(d->region, REGION);
    (void)munmap(d->memory, REGION);
    (void)pthread_cond_destroy(&d->changed);
    (void)pthread_mutex_destroy(&d->lock);
    free(d->blocks);
    free(d);
}

static const struct ml_device_ops device_ops = {
    .name = "sham",
    .alloc = alloc,
    .free = release,
    .stream_open = stream_open,
    .stream_close = stream_close,
    .stream_sync = stream_sync,
    .upload = upload,
    .download = download,
    .copy = copy,
    .event_create = event_create,
    .event_free = event_free,
    .event_record = event_record,
    .event_wait = event_wait,
    .memory = memory,
    .destroy = destroy,
};

static char *reserve(void) {
    return must(mmap(NULL, REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
}

struct ml_device *sham_open(const struct sham_options *options) {
    struct sham *d = must(calloc(1, sizeof *d));
    d->options = *options;
    d->page = (size_t)sysconf(_SC_PAGESIZE);
    d->region = reserve();
    d->memory = reserve();
    d->blocks = must(calloc(MAX_BUFFERS, sizeof *d->blocks));
    if (pthread_mutex_init(&d->lock, NULL) || pthread_cond_init(&d->changed, NULL)) die("no lock");
    d->own = all_ops;
    d->own.bytes = ml_ops_cpu.bytes;
#define DROP(name)                                                                                           \
    if (options->missing >> ML_OP_##name & 1) d->own.name = NULL;
    ML_OPS(DROP)
#undef DROP
    ml_ops_fill(&d->filled, options->missing == SHAM_NOTHING ? NULL : &d->own);
    d->base = (struct ml_device){.ops = &device_ops, .compute = &d->filled.ops};
    return &d->base;
}
