// What CUDA C++ knows without an include, for a C++ compiler of the host. A block's threads run one
// after the other, or, where they wait for each other, as coroutines that take turns.
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <utility>
#include <vector>

// Kernels that use instructions of the hardware choose stand-ins by this name.
#define EMULATED

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __forceinline__ inline

struct dim3 {
    unsigned x, y, z;
};

static thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

namespace emulated {

// `Extent` in `kernel.rs`.
struct Extent {
    unsigned blocks[3], threads[3], shared_bytes;
};

static thread_local char* shared;

enum class State { ready, at_block, at_warp, done };

struct Thread {
    ucontext_t context;
    State state;
    dim3 index;
    // What the thread gives to others of its warp, and whether it does.
    alignas(16) char value[16];
    bool gives;
};

static const int most_threads = 1024;
static const size_t stack_bytes = 64 << 10;
static thread_local Thread* threads;
static thread_local char* stacks;
static thread_local int count, current;
static thread_local ucontext_t scheduler;

// A copy that may happen any time until its thread waits for it, and here happens then.
struct Copy {
    char* to;
    const void* from;
    int bytes;
    bool is_there;
};

// For each thread, groups of copies; the last is still open.
static thread_local std::vector<std::vector<Copy>> copies[most_threads];

static void wait(State state) {
    Thread& own = threads[current];
    own.state = state;
    swapcontext(&own.context, &scheduler);
}

// Lets every thread run until it waits or ends; then those of a warp go on, or all of the block.
static void run_in_turns(void (*body)()) {
    for (int i = 0; i < count; ++i) {
        Thread& thread = threads[i];
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = stacks + i * stack_bytes;
        thread.context.uc_stack.ss_size = stack_bytes;
        thread.context.uc_link = &scheduler;
        thread.state = State::ready;
        thread.gives = false;
        copies[i].clear();
        makecontext(&thread.context, body, 0);
    }
    while (true) {
        bool is_over = true, has_warp = false;
        for (current = 0; current < count; ++current) {
            Thread& thread = threads[current];
            if (thread.state != State::ready) continue;
            threadIdx = thread.index;
            // Whoever comes back without waiting has ended.
            thread.state = State::done;
            swapcontext(&scheduler, &thread.context);
        }
        for (int i = 0; i < count; ++i) {
            is_over &= threads[i].state == State::done;
            has_warp |= threads[i].state == State::at_warp;
        }
        if (is_over) return;
        State next = has_warp ? State::at_warp : State::at_block;
        for (int i = 0; i < count; ++i)
            if (threads[i].state == next) threads[i].state = State::ready;
    }
}

static void run_blocks(const Extent& extent, void (*body)(), bool waits) {
    gridDim = {extent.blocks[0], extent.blocks[1], extent.blocks[2]};
    blockDim = {extent.threads[0], extent.threads[1], extent.threads[2]};
    count = blockDim.x * blockDim.y * blockDim.z;
    shared = static_cast<char*>(aligned_alloc(512, (extent.shared_bytes + 1023) / 512 * 512));
    if (waits && !threads) {
        threads = static_cast<Thread*>(calloc(most_threads, sizeof(Thread)));
        stacks = static_cast<char*>(aligned_alloc(64, most_threads * stack_bytes));
    }
    auto index = [](int i) {
        return dim3{i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    };
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
                memset(shared, 0x7f, extent.shared_bytes);
                if (waits) {
                    for (int i = 0; i < count; ++i) threads[i].index = index(i);
                    run_in_turns(body);
                } else {
                    for (int i = 0; i < count; ++i) {
                        threadIdx = index(i);
                        body();
                    }
                }
            }
    free(shared);
}

// Gives a value to the warp and takes that of another thread; its own where there is none.
template <class T>
static T exchange(T value, int lane) {
    Thread& own = threads[current];
    int place = current / warpSize * warpSize + lane;
    memcpy(own.value, &value, sizeof value);
    own.gives = true;
    wait(State::at_warp);
    bool is_there = 0 <= lane && lane < warpSize && place < count && threads[place].gives;
    T result = value;
    if (is_there) memcpy(&result, threads[place].value, sizeof result);
    wait(State::at_warp);
    own.gives = false;
    return result;
}

// Gives a value to the warp and takes those of all its threads; every one of them must take part.
template <class T>
static void gather(T value, T (&all)[warpSize]) {
    static_assert(sizeof value <= sizeof Thread::value);
    memcpy(threads[current].value, &value, sizeof value);
    wait(State::at_warp);
    const Thread* first = threads + current / warpSize * warpSize;
    for (int lane = 0; lane < warpSize; ++lane) memcpy(&all[lane], first[lane].value, sizeof value);
    wait(State::at_warp);
}

static std::vector<std::vector<Copy>>& own_copies() {
    std::vector<std::vector<Copy>>& own = copies[current];
    if (own.empty()) own.emplace_back();
    return own;
}

static void copy_later(char* to, const void* from, int bytes, bool is_there) {
    own_copies().back().push_back({to, from, bytes, is_there});
}

static void close_copies() { own_copies().emplace_back(); }

// Leaves at most `open` closed groups under way.
static void wait_for_copies(size_t open) {
    std::vector<std::vector<Copy>>& own = own_copies();
    while (own.size() > open + 1) {
        for (const Copy& copy : own.front()) {
            if (copy.is_there) memcpy(copy.to, copy.from, copy.bytes);
            else memset(copy.to, 0, copy.bytes);
        }
        own.erase(own.begin());
    }
}

// The threads of the warp that give something else than zero.
static unsigned ballot(int predicate) {
    Thread& own = threads[current];
    memcpy(own.value, &predicate, sizeof predicate);
    own.gives = true;
    wait(State::at_warp);
    unsigned result = 0;
    int first = current / warpSize * warpSize;
    for (int lane = 0; lane < warpSize && first + lane < count; ++lane) {
        int given;
        memcpy(&given, threads[first + lane].value, sizeof given);
        if (threads[first + lane].gives && given) result |= 1u << lane;
    }
    wait(State::at_warp);
    own.gives = false;
    return result;
}

// A block runs alone, so these need no lock. The place may be declared as one that is only read.
template <class T, class V>
static T atomic_add(const T* place, V value) {
    T old = *place;
    *const_cast<T*>(place) = old + value;
    return old;
}
template <class T, class V>
static T atomic_min(const T* place, V value) {
    T old = *place;
    *const_cast<T*>(place) = T(value) < old ? T(value) : old;
    return old;
}
template <class T, class V>
static T atomic_max(const T* place, V value) {
    T old = *place;
    *const_cast<T*>(place) = old < T(value) ? T(value) : old;
    return old;
}

static int lane() { return current % warpSize; }

template <class... A>
struct Arguments {
    static constexpr size_t count = sizeof...(A);
    static inline const size_t sizes[] = {sizeof(A)..., 0};
    template <size_t... I>
    static void call(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
        kernel(*static_cast<A*>(values[I])...);
    }
    static void call(void (*kernel)(A...), void** values) {
        call(kernel, values, std::index_sequence_for<A...>());
    }
};

template <class... A>
static Arguments<A...> arguments(void (*)(A...)) {
    return {};
}

}  // namespace emulated

#define EMULATED_KERNEL(name)                                                          \
    static thread_local void** emulated_values;                                        \
    static void emulated_body() {                                                      \
        decltype(emulated::arguments(name))::call(name, emulated_values);              \
    }                                                                                  \
    extern "C" const size_t* emulated_sizes(size_t* count) {                           \
        *count = decltype(emulated::arguments(name))::count;                           \
        return decltype(emulated::arguments(name))::sizes;                             \
    }                                                                                  \
    extern "C" void emulated_launch(void** values, const emulated::Extent* extent) {   \
        emulated_values = values;                                                      \
        emulated::run_blocks(*extent, emulated_body, EMULATED_WAITS);                  \
    }

static inline void __syncthreads() { emulated::wait(emulated::State::at_block); }
static inline void __syncwarp(unsigned = ~0u) { emulated::wait(emulated::State::at_warp); }
static inline void __threadfence() {}
static inline unsigned __activemask() { return ~0u; }

template <class T>
static T __shfl_sync(unsigned, T value, int lane) {
    return emulated::exchange(value, lane % warpSize);
}
template <class T>
static T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulated::exchange(value, emulated::lane() ^ mask);
}
template <class T>
static T __shfl_up_sync(unsigned, T value, unsigned delta) {
    return emulated::exchange(value, emulated::lane() - static_cast<int>(delta));
}
template <class T>
static T __shfl_down_sync(unsigned, T value, unsigned delta) {
    return emulated::exchange(value, emulated::lane() + static_cast<int>(delta));
}
static inline unsigned __ballot_sync(unsigned, int predicate) { return emulated::ballot(predicate); }
static inline int __any_sync(unsigned, int predicate) { return emulated::ballot(predicate) != 0; }
static inline int __all_sync(unsigned, int predicate) { return emulated::ballot(!predicate) == 0; }

template <class T>
static T max(T a, T b) {
    return a < b ? b : a;
}
template <class T>
static T min(T a, T b) {
    return b < a ? b : a;
}
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline float min(float a, float b) { return fminf(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline float rsqrt(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
// The C library has these names already.
#define __expf expf
#define __logf logf
#define __sinf sinf
#define __cosf cosf
#define __tanhf tanhf
#define __powf powf
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) { return 1 / sqrtf(x); }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned long long>(a) * b >> 32;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
static inline int __ffs(unsigned x) { return __builtin_ffs(x); }
