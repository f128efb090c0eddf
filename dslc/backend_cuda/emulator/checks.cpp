// The checks of every access: inside a buffer or shared memory, of what has been written, in order with the accesses of other threads. Bodies for the
// calls that -fsanitize=thread makes at every access (ThreadSanitizer's own library is not linked), and for the hooks of checks.h.
//
// Order is kept by clocks: a thread counts what it does between the places where it meets others, and knows up to which count it comes behind each other
// one. The copy engine and the tensor cores of each warpgroup are threads of their own, behind those of the block. Two accesses of a byte, one of them
// a write, need an order; atomics may meet atomics, and blocks have no order. Of the reads of a byte the last two are kept. The copy engine and the
// tensor cores read and write shared memory by another way than threads do: between a thread's store and their access that thread must have fenced.
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <string>

#include "cuda.h"

namespace emulator {
namespace {

struct Access {
    uint32_t block;  // its number + 1, 0 for none
    uint32_t clock;
    uint32_t place;  // in the module's code
    uint16_t thread;
    bool atomic, under_way, engine;  // engine: by the copy engine or the tensor cores
    uint16_t fences;                 // that its thread had made
};
struct Cell { Access write, reads[2]; };

// Zeros; pages that nobody needs are never made.
template <typename T> struct Pages {
    T* at = nullptr;
    size_t bytes;
    explicit Pages(size_t count) : bytes(count * sizeof(T)) {
        if (bytes) at = (T*)mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == (T*)MAP_FAILED) fprintf(stderr, "the emulator's checks need more memory than there is\n"), abort();
    }
    Pages(Pages&& other) : at(other.at), bytes(other.bytes) { other.bytes = 0; }
    ~Pages() { if (bytes) munmap(at, bytes); }
};

// What is known of some memory: of four bytes at once until they are accessed apart, and again when they are written together.
struct Cells {
    Pages<Cell> words, bytes;
    Pages<bool> apart;
    explicit Cells(size_t size) : words(size / 4 + 1), bytes(size + 4), apart(size / 4 + 1) {}

    // Calls `one(cell, its first byte)` for all that some bytes are.
    template <typename One> void each(size_t first, size_t size, bool writes, One one) {
        for (size_t k = first, end = first + size; k < end;) {
            size_t word = k / 4, last = std::min(end, 4 * word + 4);
            bool whole = last - k == 4;
            if (whole && !apart.at[word]) {
                one(words.at[word], k);
                k = last;
                continue;
            }
            if (!apart.at[word]) std::fill_n(bytes.at + 4 * word, 4, words.at[word]), apart.at[word] = true;
            for (; k < last; k++) one(bytes.at[k], k);
            if (whole && writes) words.at[word] = bytes.at[4 * word], apart.at[word] = false;
        }
    }
};

using Clocks = std::vector<uint32_t>;
struct Meeting { Clocks given, ended; };
struct Variable { const char* from; size_t size; const char* name; };  // in shared memory

}  // namespace

struct Checker {
    size_t threads, all;  // of the block; with the copy engine and the tensor cores
    uint32_t block = 0;
    std::vector<Clocks> known;  // by each thread, of each; of itself its own count
    std::vector<char> far;      // threads that know of other warps by more than barriers of the block
    Clocks floor, least;        // what all know since the last barrier of the block; what all warps of a warpgroup know
    std::vector<Clocks> fences;  // by each thread: its own counts at them
    std::map<const void*, Meeting> meetings;
    std::map<const void*, size_t> unfenced;  // mbarriers, and the thread that made each
    std::vector<Variable> variables;         // of the kernel, as far as a thread has come to their declarations
    Access unwritten{};  // the block's first read of what nobody had written: a fault in the end, unless the write that comes too late says more
    size_t unwritten_byte;
    std::vector<uint32_t> early;  // by each thread: one behind the place of its first access to a buffer in this block, 0 where there was none
    size_t dynamic_from;  // shared memory: the static part, then the dynamic one
    Cells shared;
    std::vector<Cells> buffers;
    uintptr_t image, image_end;

    explicit Checker(const Block& b)
        : threads(b.threads), all(threads + 1 + (threads + 127) / 128), known(all, Clocks(all)), far(all), floor(all), least(all), fences(all), early(all),
          dynamic_from((b.shared.size + 15) / 16 * 16), shared(dynamic_from + b.dynamic_size) {
        for (size_t t = 0; t < all; t++) known[t][t] = 1;
        for (int k = 0; k < b.buffer_count; k++) buffers.emplace_back(b.buffers[k].size);
        Dl_info found;
        dladdr((void*)&run_grid, &found);
        image = image_end = (uintptr_t)found.dli_fbase;
        dl_iterate_phdr([](dl_phdr_info* module, size_t, void* data) {
            Checker& c = *(Checker*)data;
            for (int i = 0; module->dlpi_addr == c.image && i < module->dlpi_phnum; i++)
                if (module->dlpi_phdr[i].p_type == PT_LOAD) c.image_end = std::max(c.image_end, c.image + module->dlpi_phdr[i].p_vaddr + module->dlpi_phdr[i].p_memsz);
            return 0;
        }, this);
    }
    size_t copy_engine() const { return threads; }
    size_t tensor_cores(int warpgroup) const { return threads + 1 + warpgroup; }
    uint32_t place(void* code) const { return uint32_t((uintptr_t)code - image - 1); }
};

namespace {

// Where an access is: the cells of its bytes, and the buffer, none for shared memory.
struct Region {
    Cells* cells;
    size_t first;
    const Buffer* buffer;
    std::string name() const { return buffer ? buffer->name : "shared memory"; }
};

std::string text(const char* format, ...) {
    char out[512];
    va_list values;
    va_start(values, format);
    vsnprintf(out, sizeof out, format, values);
    va_end(values);
    return out;
}

std::string who(const Checker& c, const Access& a) {
    std::string out = a.thread < c.threads ? text("thread %d", a.thread) : a.thread == c.copy_engine() ? "the copy engine" : "a warpgroup's product";
    if (a.block == c.block) return out;
    unsigned rank = a.block - 1, x = block->grid.x, y = block->grid.y;
    return out + text(" of block (%u, %u, %u)", rank % x, rank / x % y, rank / x / y);
}

[[noreturn]] void unordered(Checker& c, const Region& r, size_t byte, const Access& before, bool wrote, const Access& now, bool writes) {
    const char *first = wrote ? "a write" : "a read", *second = now.under_way ? "a copy there" : writes ? "a write" : "a read", *missing = "no barrier between them";
    if (before.thread == c.copy_engine()) missing = "no wait for the copy between them";
    if (before.thread > c.copy_engine()) missing = "no wait for the product between them";
    if (before.block != c.block) missing = "blocks have no order";
    block->fault->places[0] = now.place, block->fault->places[1] = before.place;
    std::string earlier = who(c, before), later = who(c, now);
    fail("", 0, "race on byte %zu of %s: %s by %s and %s by %s, %s", byte, r.name().c_str(), first, earlier.c_str(), second, later.c_str(), missing);
}

[[noreturn]] void bad(const Access& now, const std::string& message) {
    block->fault->places[0] = now.place;
    fail("", 0, "%s", message.c_str());
}

// Says of an access that lies in nothing what it lies next to.
[[noreturn]] void outside(const Access& now, const char* at, size_t size, bool writes) {
    const Block& b = *block;
    std::vector<Buffer> known(b.buffers, b.buffers + b.buffer_count);
    if (b.dynamic_size) known.push_back({b.dynamic_shared, b.dynamic_size, "dynamic shared memory", 1, 0, nullptr});
    for (const Variable& v : b.checker->variables) known.push_back({(char*)v.from, v.size, v.name, 1, 0, nullptr});
    const Buffer* nearest = nullptr;
    size_t least = 1 << 20;
    for (const Buffer& k : known) {
        size_t away = at < k.from ? k.from - at : at < k.from + k.size ? 0 : at - (k.from + k.size);
        if (away < least) least = away, nearest = &k;
    }
    std::string access = text("out of bounds: %s of %zu bytes ", writes ? "a write" : "a read", size);
    if (!nearest) bad(now, access + "at an address that lies in none of the kernel's buffers");
    long long begins = at - nearest->from, end = nearest->size;
    bad(now, access + text("at byte %lld of %s, which has %lld bytes", begins, nearest->name, end));
}

// An access of some bytes: whether they may be touched at all, then each against what is kept of it.
void touch(Checker& c, const Region& r, size_t size, const Access& now, bool writes, const Clocks& known) {
    auto comes_behind = [&](const Access& before) {
        if (before.block != c.block) return !before.block || !r.buffer;  // shared memory is another one in each block
        return before.thread == now.thread || before.clock <= c.floor[before.thread] || before.clock <= known[before.thread];
    };
    if (r.buffer && !r.buffer->steady && !c.early[now.thread]) c.early[now.thread] = now.place + 1;
    if (r.buffer && r.buffer->known) {
        bool* given = r.buffer->known + r.first;
        size_t first = writes ? size : std::find(given, given + size, false) - given;
        if (first < size) bad(now, text("a read of byte %zu of %s by %s, which nothing has written in this run", r.first + first, r.buffer->name, who(c, now).c_str()));
        std::fill_n(given, size, true);
    }
    auto fenced = [&](const Access& before) {
        const Clocks& at = c.fences[before.thread];
        return before.fences < at.size() && (before.thread == now.thread || at[before.fences] <= c.floor[before.thread] || at[before.fences] <= known[before.thread]);
    };
    if (writes && r.buffer && !r.buffer->written) bad(now, text("a write to %s, which this kernel may only read", r.buffer->name));
    r.cells->each(r.first, size, writes, [&](Cell& cell, size_t k) {
        const Access& wrote = cell.write;
        if (wrote.under_way && wrote.block == c.block) {
            block->fault->places[1] = wrote.place;
            bad(now, text("%s of byte %zu of %s by %s while the copy there that %s issued is under way", writes ? "a write" : "a read", k,
                          r.name().c_str(), who(c, now).c_str(), who(c, wrote).c_str()));
        }
        if (!r.buffer && !writes && wrote.block != c.block && c.unwritten.block != c.block) c.unwritten = now, c.unwritten_byte = k;
        if (!comes_behind(wrote) && !(now.atomic && wrote.atomic)) unordered(c, r, k, wrote, true, now, writes);
        if (now.engine && !r.buffer && wrote.block == c.block && !wrote.engine && !fenced(wrote)) {
            block->fault->places[1] = wrote.place;
            bad(now, text("%s of byte %zu of shared memory by %s, for which no fence makes visible what %s has written there", writes ? "a write" : "a read", k,
                          who(c, now).c_str(), who(c, wrote).c_str()));
        }
        if (now.engine && r.buffer && wrote.block && !wrote.engine) {
            block->fault->places[1] = wrote.place;
            bad(now, text("a read of byte %zu of %s by the copy engine, which %s has written in this launch", k, r.buffer->name, who(c, wrote).c_str()));
        }
        for (const Access& read : cell.reads)
            if (writes && !comes_behind(read) && !(now.atomic && read.atomic)) unordered(c, r, k, read, false, now, true);
        if (writes) cell.write = now;
        if (writes && !now.atomic) {
            cell.reads[0] = cell.reads[1] = {};  // what comes behind this write comes behind them
            return;
        }
        if (cell.reads[0].thread != now.thread || cell.reads[0].block != now.block) cell.reads[1] = cell.reads[0];
        cell.reads[0] = now;
    });
}

// Whether `at` lies in shared memory or a buffer, all `size` bytes of it.
bool found(Checker& c, const char* at, size_t size, Region& r) {
    const Block& b = *block;
    size_t in_dynamic = at - b.dynamic_shared, in_static = at - (char*)b.shared.from;
    if (in_dynamic < b.dynamic_size) r = {&c.shared, c.dynamic_from + in_dynamic, nullptr};
    if (in_dynamic < b.dynamic_size) return in_dynamic + size <= b.dynamic_size;
    for (const Variable& v : c.variables)
        if (size_t(at - v.from) < v.size) {
            r = {&c.shared, in_static, nullptr};
            return size_t(at - v.from) + size <= v.size;
        }
    const Buffer* next = std::upper_bound(b.buffers, b.buffers + b.buffer_count, at, [](const char* x, const Buffer& k) { return x < k.from; });
    if (next == b.buffers) return false;
    const Buffer& k = next[-1];
    r = {&c.buffers[&k - b.buffers], size_t(at - k.from), &k};
    return r.first + size <= k.size;
}

Access by_thread(const Checker& c, void* code, bool atomic = false) {
    return {c.block, c.known[fiber->rank][fiber->rank], c.place(code), (uint16_t)fiber->rank, atomic, false, false, (uint16_t)c.fences[fiber->rank].size()};
}

[[noreturn]] void at_no_multiple(Checker& c, const Access& now, const void* place, size_t size) {
    Region r;
    std::string where = !found(c, (const char*)place, 1, r) ? "" : r.buffer ? text(" (byte %zu of %s)", r.first, r.buffer->name) : " (shared memory)";
    bad(now, text("misaligned: an access of %zu bytes by %s at an address%s that is no multiple of its size", size, who(c, now).c_str(), where.c_str()));
}

// An access that a kernel makes. What is neither its own (its stack, its indices), nor shared memory, nor in a buffer is out of bounds.
void access(void* address, size_t size, bool writes, bool atomic, void* code, size_t alignment = 1) {
    Block* b = block;
    Fiber* f = fiber;
    if (!b || b == (Block*)-1 || !f || f->inside) return;  // -1: while a launcher fills shared memory
    const char* at = (const char*)address;
    if (size_t(at - b->stacks) < b->stacks_size || at == (char*)&block || at == (char*)&fiber) return;
    if (size_t(at - (char*)b->fibers.data()) < b->fibers.size() * sizeof(Fiber) || size_t(at - (char*)b) < sizeof(Block)) return;
    Inside guard;
    Checker& c = *b->checker;
    Region r;
    Access now = by_thread(c, code, atomic);
    if ((uintptr_t)at % alignment) at_no_multiple(c, now, at, size);
    if (found(c, at, size, r)) touch(c, r, size, now, writes, c.known[f->rank]);
    else if (writes || (uintptr_t)at < c.image || (uintptr_t)at >= c.image_end) outside(now, at, size, writes);
}

// The region of an access that the emulator makes.
Region region(Checker& c, const void* place, size_t size, const Access& now, bool writes) {
    Region r;
    if (!found(c, (const char*)place, size, r)) outside(now, (const char*)place, size, writes);
    return r;
}

void raise_to(Clocks& known, const Clocks& others) {
    for (size_t k = 0; k < others.size(); k++) known[k] = std::max(known[k], others[k]);
}

}  // namespace

void begin_block() {
    Block& b = *block;
    if (!b.checker) b.checker = new Checker(b);
    Checker& c = *b.checker;
    c.block = 1 + b.index.x + b.grid.x * (b.index.y + b.grid.y * b.index.z);
    c.meetings.clear(), c.unfenced.clear();
    for (Clocks& one : c.fences) one.clear();
    std::fill(c.early.begin(), c.early.end(), 0);
}

void end_block() {
    Checker& c = *block->checker;
    if (c.unwritten.block != c.block) return;
    bad(c.unwritten, text("a read of byte %zu of shared memory by %s, which nobody had written", c.unwritten_byte, who(c, c.unwritten).c_str()));
}

void end_launch(Block& b) { delete b.checker; }

void reads(const void* place, size_t size, void* code) {
    Checker& c = *block->checker;
    Access now = by_thread(c, code);
    touch(c, region(c, place, size, now, false), size, now, false, c.known[now.thread]);
}

namespace {
void issued(void* to, size_t size, bool engine, void* code) {
    Checker& c = *block->checker;
    Access now = by_thread(c, code);
    now.under_way = true, now.engine = engine;
    touch(c, region(c, to, size, now, true), size, now, true, c.known[now.thread]);
}

void landed(Checker& c, void* to, size_t size, size_t thread, uint32_t clock) {
    Region r = region(c, to, size, {}, true);
    r.cells->each(r.first, size, false, [&](Cell& cell, size_t) {
        cell.write.under_way = false, cell.write.thread = thread, cell.write.clock = clock, cell.write.fences = (uint16_t)c.fences[thread].size();
    });
}
}  // namespace

void tile_reads(const void* place, size_t size, void* code) {
    Checker& c = *block->checker;
    Access now = by_thread(c, code);
    now.engine = true;
    touch(c, region(c, place, size, now, false), size, now, false, c.known[now.thread]);
}

void copy_issued(void* to, size_t size, void* code) { issued(to, size, false, code); }

void tile_issued(void* to, size_t size, void* code) { issued(to, size, true, code); }

void misaligned(const void* place, size_t size) {
    Checker& c = *block->checker;
    at_no_multiple(c, by_thread(c, EMULATOR_CODE), place, size);
}

void declared(const void* variable, size_t size, const char* name) {
    if (fiber->inside) return;
    auto& known = block->checker->variables;
    for (const Variable& v : known)
        if (v.from == variable) return;
    known.push_back({(const char*)variable, size, name});
}

void launches_waited(void* code) {
    Checker& c = *block->checker;
    Access now = by_thread(c, code);
    if (!c.early[now.thread]) return;
    block->fault->places[1] = c.early[now.thread] - 1;
    bad(now, text("a wait for the launches before, behind an access of %s to global memory", who(c, now).c_str()));
}

void within(const void* place, void* code) {
    Checker& c = *block->checker;
    region(c, place, 1, by_thread(c, code), false);
}

void proxy_fence() {
    Checker& c = *block->checker;
    size_t t = fiber->rank;
    c.fences[t].push_back(c.known[t][t]);
    std::erase_if(c.unfenced, [=](const auto& made) { return made.second == t; });
}

void barrier_made(const void* mbarrier) { block->checker->unfenced[mbarrier] = fiber->rank; }

void barrier_used(const void* mbarrier, const char* file, int line) {
    if (block->checker->unfenced.count(mbarrier)) fail(file, line, "a copy through an mbarrier whose initialization no fence makes visible to the copy engine");
}

void copy_landed(void* to, size_t size) {
    Checker& c = *block->checker;
    landed(c, to, size, fiber->rank, c.known[fiber->rank][fiber->rank]);
}

void tile_landed(void* to, size_t size, const void* mbarrier) {
    Checker& c = *block->checker;
    size_t engine = c.copy_engine();
    landed(c, to, size, engine, ++c.known[engine][engine]);
    Clocks& given = c.meetings[mbarrier].given;
    given.resize(c.all);
    given[engine] = c.known[engine][engine];
}

void block_met() {
    Checker& c = *block->checker;
    for (size_t t = 0; t < c.threads; t++) {
        for (size_t k = c.threads; k < c.all; k++) c.floor[k] = std::max(c.floor[k], c.known[t][k]);
        c.floor[t] = c.known[t][t]++;
    }
}

void lanes_met(int first, unsigned lanes) {
    Checker& c = *block->checker;
    bool far = false;
    for (int i = 0; i < 32; i++) far |= (lanes >> i & 1) && c.far[first + i];
    auto join = [&](size_t from, size_t to) {
        Clocks most(to - from);
        for (int i = 0; i < 32; i++)
            for (size_t k = from; (lanes >> i & 1) && k < to; k++) most[k - from] = std::max(most[k - from], c.known[first + i][k]);
        for (int i = 0; i < 32; i++)
            if (lanes >> i & 1) std::copy(most.begin(), most.end(), c.known[first + i].begin() + from);
    };
    if (far) {
        join(0, c.all);
    } else {
        join(first, std::min((size_t)first + 32, c.threads));
        join(c.threads, c.all);
    }
    for (int i = 0; i < 32; i++)
        if (lanes >> i & 1) c.known[first + i][first + i]++, c.far[first + i] = far;
}

void arrived(const void* barrier) {
    Checker& c = *block->checker;
    Clocks &given = c.meetings[barrier].given, &mine = c.known[fiber->rank];
    given.resize(c.all);
    raise_to(given, mine);
    raise_to(given, c.floor);
    mine[fiber->rank]++;
}

void phase_ended(const void* barrier) {
    Meeting& m = block->checker->meetings[barrier];
    m.ended = m.given;
}

void waited(const void* barrier) {
    Checker& c = *block->checker;
    raise_to(c.known[fiber->rank], c.meetings[barrier].ended);
    c.far[fiber->rank] = true;
}

void product_issued(int warpgroup) {
    Checker& c = *block->checker;
    size_t cores = c.tensor_cores(warpgroup);
    for (size_t k = 0; k < c.all; k++) {
        c.least[k] = c.known[warpgroup * 128][k];
        for (int i = 32; i < 128; i += 32) c.least[k] = std::min(c.least[k], c.known[warpgroup * 128 + i][k]);
    }
    c.known[cores][cores]++;
}

void product_reads(int warpgroup, const void* place, size_t size, void* code) {
    Checker& c = *block->checker;
    size_t cores = c.tensor_cores(warpgroup);
    Access now{c.block, c.known[cores][cores], c.place(code), (uint16_t)cores, false, false, true, 0};
    touch(c, region(c, place, size, now, false), size, now, false, c.least);
}

void product_waited(int warpgroup, int products_before) {
    Checker& c = *block->checker;
    size_t cores = c.tensor_cores(warpgroup);
    for (int t = 0; t < 128; t++) c.known[warpgroup * 128 + t][cores] = c.known[cores][cores] - products_before;
}

}  // namespace emulator

#define PLAIN(n)                                                                                                \
    void __tsan_read##n(void* p) { emulator::access(p, n, false, false, EMULATOR_CODE, n); }                             \
    void __tsan_write##n(void* p) { emulator::access(p, n, true, false, EMULATOR_CODE, n); }                             \
    void __tsan_unaligned_read##n(void* p) { emulator::access(p, n, false, false, EMULATOR_CODE); }                      \
    void __tsan_unaligned_write##n(void* p) { emulator::access(p, n, true, false, EMULATOR_CODE); }
#define ATOMIC(bits, T)                                                                                         \
    T __tsan_atomic##bits##_load(const volatile T* p, int) {                                                    \
        emulator::access((void*)p, bits / 8, false, true, EMULATOR_CODE, bits / 8);                                              \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                            \
    }                                                                                                           \
    void __tsan_atomic##bits##_store(volatile T* p, T x, int) {                                                 \
        emulator::access((void*)p, bits / 8, true, true, EMULATOR_CODE, bits / 8);                                                 \
        __atomic_store_n(p, x, __ATOMIC_SEQ_CST);                                                               \
    }                                                                                                           \
    T __tsan_atomic##bits##_fetch_add(volatile T* p, T x, int) { return __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST); } \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* old, T x, int, int) {                   \
        emulator::access((void*)p, bits / 8, true, true, EMULATOR_CODE, bits / 8);                                                 \
        return __atomic_compare_exchange_n(p, old, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);               \
    }
extern "C" {
extern __attribute__((visibility("default"))) const int emulator_checks = 1;  // tells the driver that this module checks
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, unsigned long n) { emulator::access(p, n, false, false, EMULATOR_CODE); }
void __tsan_write_range(void* p, unsigned long n) { emulator::access(p, n, true, false, EMULATOR_CODE); }
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
PLAIN(1) PLAIN(2) PLAIN(4) PLAIN(8) PLAIN(16)
ATOMIC(8, unsigned char) ATOMIC(16, unsigned short) ATOMIC(32, unsigned) ATOMIC(64, unsigned long)
}
