// A libcuda.so.1 for tests: device memory is host memory, three kernels by name, captured graphs, errors on demand.
// Every call that tests ask about is a line in the file that STUB_LOG names. gcc -shared -fPIC -Wl,-soname,libcuda.so.1
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NO_BINARY = 209, NOT_FOUND = 500, NOT_SUPPORTED = 801, ILLEGAL_ADDRESS = 700 };

static size_t limit_bytes = 1 << 20, used;
static int faulted, capturing, depth;
typedef struct { int kind; void* a; void* b; int n; } Work;
typedef struct { int count; Work work[64]; } Graph;
static Graph* captured;

static void say(const char* text, long number) {
    const char* path = getenv("STUB_LOG");
    FILE* file = path ? fopen(path, "a") : 0;
    if (!file) return;
    fprintf(file, "%s %ld\n", text, number);
    fclose(file);
}
#define LIVE if (faulted) return ILLEGAL_ADDRESS
#define API(name) int name

API(cuInit)(unsigned flags) { return getenv("STUB_INIT") ? atoi(getenv("STUB_INIT")) : OK; }
API(cuDriverGetVersion)(int* v) { *v = 13000; return OK; }
API(cuDeviceGetCount)(int* n) { *n = getenv("STUB_COUNT") ? atoi(getenv("STUB_COUNT")) : 1; return OK; }
API(cuDeviceGet)(int* device, int ordinal) { *device = ordinal; return OK; }
API(cuDeviceGetName)(char* name, int length, int device) { snprintf(name, length, "Stub GPU"); return OK; }
API(cuDeviceGetAttribute)(int* value, int attribute, int device) {
    const char* major = getenv("STUB_MAJOR");
    *value = attribute == 75 ? (major ? atoi(major) : 9) : attribute == 76 ? 0 : attribute == 97 ? 232448 : 0;
    return OK;
}
API(cuDevicePrimaryCtxRetain)(void** context, int device) { *context = (void*)0x10; return OK; }
API(cuCtxPushCurrent)(void* context) { ++depth; return OK; }
API(cuCtxPopCurrent)(void** context) { --depth; *context = (void*)0x10; return OK; }
API(cuGetErrorName)(int error, const char** text) { *text = "NAME"; return OK; }
API(cuGetErrorString)(int error, const char** text) { *text = error == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : "stub"; return OK; }

API(cuMemAlloc)(u64* address, size_t size) {
    LIVE;
    if (used + size > limit_bytes) return OUT_OF_MEMORY;
    size_t* block = aligned_alloc(256, (size + 511) / 256 * 256);
    block[0] = size;
    used += size;
    say("alloc", size);
    *address = (u64)block + 256;
    return OK;
}
API(cuMemFree)(u64 address) { size_t* block = (size_t*)(address - 256); say("free", block[0]); used -= block[0]; free(block); return OK; }
API(cuMemGetInfo)(size_t* available, size_t* total) { *available = limit_bytes - used; *total = limit_bytes; return OK; }
API(cuMemHostAlloc)(void** address, size_t size, unsigned flags) { say("pinned", size); *address = calloc(1, size); return OK; }
API(cuMemFreeHost)(void* address) { say("unpinned", 0); free(address); return OK; }
API(cuMemcpyHtoDAsync)(u64 to, const void* from, size_t size, void* stream) { LIVE; say("upload", size); memcpy((void*)to, from, size); return OK; }
API(cuMemcpyDtoHAsync)(void* to, u64 from, size_t size, void* stream) { LIVE; say("download", size); memcpy(to, (void*)from, size); return OK; }
API(cuMemcpyDtoDAsync)(u64 to, u64 from, size_t size, void* stream) { LIVE; say("copy", size); memcpy((void*)to, (void*)from, size); return OK; }

// cuda.h's CUDA_MEMCPY2D
typedef struct {
    size_t srcX, srcY; int srcType; const void* srcHost; u64 src; void* srcArray; size_t srcPitch;
    size_t dstX, dstY; int dstType; void* dstHost; u64 dst; void* dstArray; size_t dstPitch, width, height;
} Rectangle;
API(cuMemcpy2DAsync)(const Rectangle* r, void* stream) {
    LIVE;
    if (getenv("STUB_NO_PITCHES") || r->srcType != 2 || r->dstType != 2 || r->srcPitch < r->width || r->dstPitch < r->width || stream != (void*)0x30) return INVALID;
    say("rows", r->height);
    for (size_t k = 0; k < r->height; ++k) memcpy((char*)r->dst + k * r->dstPitch, (char*)r->src + k * r->srcPitch, r->width);
    return OK;
}
API(cuMemcpy2DAsync_v2)(const Rectangle* r, void* stream) { return cuMemcpy2DAsync(r, stream); }

static const char* names[] = {"scaled", "total", "fault", 0};
API(cuModuleLoadData)(void** module, const void* image) { LIVE; if (memcmp(image, "STUB", 4)) return NO_BINARY; *module = (void*)0x20; say("load", 0); return OK; }
API(cuModuleUnload)(void* module) { say("unload", 0); return OK; }
API(cuModuleGetFunction)(void** function, void* module, const char* name) {
    for (int k = 0; names[k]; ++k)
        if (!strcmp(names[k], name)) { *function = (void*)(long)(k + 1); return OK; }
    return NOT_FOUND;
}
static int number(const char* name, int otherwise) { return getenv(name) ? atoi(getenv(name)) : otherwise; }
API(cuFuncGetAttribute)(int* value, int attribute, void* function) {  // 0: threads, 1: static shared memory, 8: dynamic shared memory that is allowed
    *value = attribute == 0 ? 1024 : attribute == 1 ? number("STUB_STATIC", 0) : attribute == 8 ? 49152 : 0;
    return OK;
}
API(cuFuncSetAttribute)(void* function, int attribute, int value) { say("shared", value); return attribute == 8 ? OK : INVALID; }

static void perform(Work w) {
    float *a = w.a, *b = w.b;
    if (w.kind == 3) { faulted = 1; return; }
    if (w.kind == 2) b[0] = 0;
    for (int k = 0; k < w.n; ++k)
        if (w.kind == 1) b[k] = 2 * a[k];
        else b[0] += a[k];
}
API(cuLaunchKernel)(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream, void** parameters, void** extra) {
    LIVE;
    Work work = {(int)(long)f, 0, 0, 0};
    if (work.kind != 3) work = (Work){work.kind, *(void**)parameters[0], *(void**)parameters[1], *(int*)parameters[2]};
    say(capturing ? "captured" : "launch", gx * 1000 + bx);
    if (capturing) captured->work[captured->count++] = work;
    else perform(work);
    return OK;
}
// cuda.h's CUlaunchConfig and CUlaunchAttribute, as far as they are used.
typedef struct { int id; char pad[4]; union { char pad[64]; int value; } value; } Attribute;
typedef struct { unsigned gx, gy, gz, bx, by, bz, shared; void* stream; Attribute* attributes; unsigned count; } Config;
API(cuLaunchKernelEx)(const Config* c, void* f, void** parameters, void** extra) {
    if (!capturing || c->count != 1 || c->attributes->id != 6 || c->attributes->value.value != 1) return INVALID;  // 6: programmatic stream serialization
    if (getenv("STUB_NO_OVERLAP")) return NOT_SUPPORTED;
    say("early", c->shared);
    return cuLaunchKernel(f, c->gx, c->gy, c->gz, c->bx, c->by, c->bz, c->shared, c->stream, parameters, extra);
}

API(cuStreamCreate)(void** stream, unsigned flags) { *stream = (void*)0x30; return flags == 1 ? OK : INVALID; }
API(cuStreamSynchronize)(void* stream) { LIVE; say("sync", (long)stream); return OK; }
API(cuStreamBeginCapture)(void* stream, int mode) { LIVE; capturing = 1; captured = calloc(1, sizeof(Graph)); return OK; }
API(cuStreamEndCapture)(void* stream, void** graph) { capturing = 0; *graph = captured; return OK; }
API(cuStreamWaitEvent)(void* stream, void* event, unsigned flags) { say("wait", (long)stream); return OK; }
API(cuGraphInstantiateWithFlags)(void** run, void* graph, u64 flags) { *run = malloc(sizeof(Graph)); memcpy(*run, graph, sizeof(Graph)); return OK; }
API(cuGraphInstantiate)(void** run, void* graph, u64 flags) { return cuGraphInstantiateWithFlags(run, graph, flags); }
API(cuGraphDestroy)(void* graph) { free(graph); return OK; }
API(cuGraphExecDestroy)(void* run) { say("ungraph", 0); free(run); return OK; }
API(cuGraphLaunch)(void* run, void* stream) {
    LIVE;
    Graph* graph = run;
    say("graph", graph->count);
    for (int k = 0; k < graph->count; ++k) perform(graph->work[k]);
    return OK;
}
API(cuEventCreate)(void** event, unsigned flags) { *event = malloc(1); return OK; }
API(cuEventRecord)(void* event, void* stream) { LIVE; say("record", (long)stream); return OK; }
API(cuEventSynchronize)(void* event) { LIVE; return OK; }
API(cuEventElapsedTime)(float* ms, void* a, void* b) { *ms = 2.5f; return OK; }
API(cuEventDestroy)(void* event) { free(event); return OK; }

// The first bytes say what was asked for: type, rank, address, swizzle.
API(cuTensorMapEncodeTiled)(void* map, int type, unsigned rank, void* address, const u64* dims, const u64* strides, const unsigned* box,
                            const unsigned* steps, int interleave, int swizzle, int promotion, int outside) {
    if ((u64)map % 64 || (u64)address % 16) return INVALID;
    u64 said[8] = {type, rank, (u64)address, swizzle, dims[0], rank > 1 ? strides[0] : 0, box[rank - 1], steps[rank - 1]};
    memcpy(map, said, sizeof said);
    return OK;
}

int cuGetProcAddress_v2(const char* symbol, void** function, int version, u64 flags, void* status) {
    *function = dlsym(RTLD_DEFAULT, symbol);
    Dl_info here;
    if (dladdr((void*)cuGetProcAddress_v2, &here)) {
        void* self = dlopen(here.dli_fname, RTLD_LAZY);
        *function = dlsym(self, symbol);
    }
    if (getenv("STUB_LACKS") && !strcmp(symbol, getenv("STUB_LACKS"))) *function = 0;
    if (status) *(int*)status = *function ? 0 : 1;
    return *function ? OK : NOT_FOUND;
}
int cuGetProcAddress(const char* symbol, void** function, int version, u64 flags) { return cuGetProcAddress_v2(symbol, function, version, flags, 0); }
