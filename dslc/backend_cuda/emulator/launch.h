// A grid: its blocks are claimed one by one by OS threads, in the order asked for. Shared memory is thread-local storage of the module, filled with
// NaNs before each block.
#pragma once
#include <tuple>
#include <utility>

#include "fiber.h"

namespace emulator {

inline void* dynamic_shared() { return block->dynamic_shared; }

struct Grid {
    dim3 grid, shape;
    size_t shared_bytes;
    Order order;
    unsigned seed;
    void (*body)(void**);
    void** parameters;
    const Buffer* buffers;
    int buffer_count;
};

// Runs all blocks on so many OS threads; in the checking build on one.
void run_grid(const Grid& g, int workers, Fault* fault);

template <auto kernel> struct Call;
template <typename... A, void (*kernel)(A...)> struct Call<kernel> {
    template <size_t... I> static void spread(void** p, std::index_sequence<I...>) {
        std::tuple<std::remove_const_t<A>...> given(*static_cast<std::remove_const_t<A>*>(p[I])...);
        fiber->inside = 0;
        kernel(std::get<I>(given)...);
        fiber->inside = 1;
    }
    static void body(void** p) { spread(p, std::index_sequence_for<A...>{}); }
};

}  // namespace emulator

// Makes a kernel callable by the driver: `parameters` are pointers to the arguments, as for cuLaunchKernel.
#define EMULATOR_EXPORT(kernel)                                                                                                              \
    extern "C" __attribute__((visibility("default"))) void emulated_##kernel(const unsigned* shape, size_t shared_bytes, int order, unsigned seed, \
                                                                            int workers, void** parameters, const emulator::Buffer* buffers,      \
                                                                            int buffer_count, emulator::Fault* fault) {                      \
        emulator::run_grid({dim3(shape[0], shape[1], shape[2]), dim3(shape[3], shape[4], shape[5]), shared_bytes, (emulator::Order)order, seed, \
                            emulator::Call<kernel>::body, parameters, buffers, buffer_count}, workers, fault);                               \
    }
