// What the attention kernels share: fragments of tensor cores, copies to shared memory, masks.
// A kernel is compiled from `#define` lines, this file and one `.cu` file, joined in this order.
//
// Constants that must be defined before this file:
//   HEAD_DIM       elements of a head; a multiple of 16
//   BF16 or F16    one of them defined: the type of all tensors but the statistics, which are f32
//   IS_CAUSAL, HAS_WINDOW, HAS_DOCUMENTS    0 or 1
//   WARPS          warps of a block
//   ATOMS          a warp owns ATOMS * 16 rows of the tile that stays in shared memory
//   COLUMNS        rows of the tiles that stream through; a multiple of 16
//   BLOCKS         blocks that a multiprocessor shall hold at once
//
// A block owns ROWS = WARPS * ATOMS * 16 queries (or keys) and visits the keys (or queries) in tiles of
// COLUMNS, two of them in shared memory: one is computed on while the next is copied. Scores are a
// matrix of ROWS x COLUMNS whose accumulators, rounded, are the left operand of the next product
// without leaving the registers.
//
// Rows in shared memory are 16 bytes longer than the head. The distance between rows is then an odd
// multiple of 16 bytes for each multiple of 16 elements, so that the eight rows of an 8 x 8 matrix lie
// in different banks, and each offset within a tile is a constant.
//
// Fragments follow "mma.m16n8k16" in the PTX manual: lane l holds row l / 4 (and 8 more) and columns
// 2 (l % 4), 2 (l % 4) + 1 of a 16 x 8 accumulator.

#if defined(BF16) == defined(F16)
#error "define either BF16 or F16"
#endif

#define ROWS (WARPS * ATOMS * 16)
#define THREADS (WARPS * 32)
#define STRIDE (HEAD_DIM + 8)
#define TILE_BYTES(rows) ((rows) * STRIDE * 2)
#define K_STEPS (HEAD_DIM / 16)

typedef unsigned short element;

struct __align__(8) Pair {
    float a, b;
};

static_assert(HEAD_DIM % 16 == 0, "tensor cores take 16 elements at once");
static_assert(COLUMNS % 16 == 0, "tensor cores take 16 rows at once");

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

// Each instruction that a C++ compiler of the host lacks has a stand-in here.
#ifdef EMULATED

#define INFINITE INFINITY

typedef char* Place;

static Place place_of(void* shared) { return static_cast<char*>(shared); }

static element round_to_element(float x) {
#ifdef BF16
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
#else
    _Float16 narrow = static_cast<_Float16>(x);
    element bits;
    memcpy(&bits, &narrow, sizeof bits);
    return bits;
#endif
}

static float widen(element bits) {
#ifdef BF16
    unsigned wide = static_cast<unsigned>(bits) << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
#else
    _Float16 narrow;
    memcpy(&narrow, &bits, sizeof narrow);
    return static_cast<float>(narrow);
#endif
}

static unsigned pack(float low, float high) {
    return round_to_element(low) | static_cast<unsigned>(round_to_element(high)) << 16;
}

static float exp2_fast(float x) { return exp2f(x); }

static int hidden(int x) { return x; }

// The copy happens as late as the hardware may do it: when the thread waits for it.
template <int BYTES>
static void copy_async(Place to, const void* from, bool is_there) {
    emulated::copy_later(to, from, BYTES, is_there);
}
static void close_copies() { emulated::close_copies(); }
template <int OPEN>
static void wait_for_copies() {
    emulated::wait_for_copies(OPEN);
}

template <bool TRANSPOSED>
static void load_matrices(unsigned (&to)[4], Place row) {
    Place rows[32];
    emulated::gather(row, rows);
    int group = emulated::lane() / 4, pair = emulated::lane() % 4 * 2;
    for (int i = 0; i < 4; ++i) {
        element low, high;
        if (TRANSPOSED) {
            memcpy(&low, rows[i * 8 + pair] + group * 2, 2);
            memcpy(&high, rows[i * 8 + pair + 1] + group * 2, 2);
        } else {
            memcpy(&low, rows[i * 8 + group] + pair * 2, 2);
            memcpy(&high, rows[i * 8 + group] + pair * 2 + 2, 2);
        }
        to[i] = low | static_cast<unsigned>(high) << 16;
    }
}

static float half_of(unsigned pair, int k) { return widen(k % 2 ? pair >> 16 : pair & 0xffff); }

static void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    struct Operands {
        unsigned a[4], b[2];
    } own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const Operands* all[32];
    // Whoever goes on first must not take its operands away: copies, then a second wait.
    emulated::gather<const Operands*>(&own, all);
    int group = emulated::lane() / 4, pair = emulated::lane() % 4 * 2;
    float sums[4];
    for (int i = 0; i < 4; ++i) {
        float sum = c[i];
        for (int k = 0; k < 16; ++k) {
            int lane = k % 8 / 2, upper = k / 8;
            unsigned left = all[group * 4 + lane]->a[i / 2 + upper * 2];
            unsigned right = all[(pair + i % 2) * 4 + lane]->b[upper];
            sum += half_of(left, k) * half_of(right, k);
        }
        sums[i] = sum;
    }
    __syncwarp();
    for (int i = 0; i < 4; ++i) c[i] = sums[i];
}

#else

#define INFINITE __int_as_float(0x7f800000)

typedef unsigned Place;

__device__ __forceinline__ Place place_of(void* shared) {
    return static_cast<Place>(__cvta_generic_to_shared(shared));
}

__device__ __forceinline__ float widen(element bits) {
#ifdef BF16
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
#else
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#endif
}

__device__ __forceinline__ unsigned pack(float low, float high) {
    unsigned pair;
#ifdef BF16
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
    return pair;
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The same number, of which the compiler knows nothing: what is computed from it stays where it is written,
// and takes no register across a loop.
__device__ __forceinline__ int hidden(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

// Copies to shared memory without waiting; writes zeros where nothing is there.
template <int BYTES>
__device__ __forceinline__ void copy_async(Place to, const void* from, bool is_there) {
    int there = is_there ? BYTES : 0;
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(BYTES),
                     "r"(there)
                     : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most OPEN groups of this thread's copies are under way.
template <int OPEN>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
}

// Loads four 8 x 8 matrices; lane l gives the place of row l % 8 of matrix l / 8.
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], Place row) {
    if constexpr (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(row)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(row)
                     : "memory");
}

// c[16 x 8] += a[16 x 16] b[16 x 8]
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                             unsigned b1) {
#ifdef BF16
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
    asm volatile(MMA "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif

// Copies rows `first ..` of a matrix in global memory to a tile of COUNT rows; `distance` is that of its
// rows, in elements. Rows from `length` on become zero.
template <int COUNT>
__device__ __forceinline__ void load_tile(Place tile, const element* from, int first, int length,
                                          int distance) {
    constexpr int pieces = HEAD_DIM / 8, step = THREADS / pieces;
    const int thread = hidden(threadIdx.x);
    if constexpr (THREADS % pieces == 0 && COUNT % step == 0) {
        const int piece = thread % pieces, row = thread / pieces;
        int offset = (first + row) * distance + piece * 8;
        tile += (row * STRIDE + piece * 8) * 2;
        const int rest = length - first - row;
#pragma unroll
        for (int i = 0; i < COUNT; i += step) {
            copy_async<16>(tile + TILE_BYTES(i), from + offset, i < rest);
            offset = hidden(offset + step * distance);
        }
    } else {
        for (int index = thread; index < COUNT * pieces; index += THREADS) {
            const int row = index / pieces, piece = index % pieces;
            const int offset = (first + row) * distance + piece * 8;
            copy_async<16>(tile + (row * STRIDE + piece * 8) * 2, from + offset, first + row < length);
        }
    }
}

// Copies `numbers[first ..]` to COLUMNS words; those from `length` on become zero.
__device__ __forceinline__ void load_numbers(Place words, const int* numbers, int first, int length) {
    for (int i = threadIdx.x; i < COLUMNS; i += THREADS)
        copy_async<4>(words + i * 4, numbers + first + i, first + i < length);
}

// Where a lane's row begins when it loads a left operand (16 rows x 16 elements) of a tile, or, transposed,
// a right operand whose summed dimension are the tile's rows.
__device__ __forceinline__ int offset_of_rows(int lane) {
    return ((lane & 15) * STRIDE + (lane >> 4) * 8) * 2;
}

// The same for a right operand whose summed dimension are the elements of a row.
__device__ __forceinline__ int offset_of_columns(int lane) {
    return (((lane & 7) + (lane >> 4) * 8) * STRIDE + (lane >> 3 & 1) * 8) * 2;
}

// Scores or the like: result[ATOMS * 16 x COUNT] = rows columns^T, both sides in shared memory.
// `rows` and `columns` hold the offsets of the lane.
template <int COUNT>
__device__ __forceinline__ void multiply_transposed(float (&result)[ATOMS][COUNT / 8][4], Place rows,
                                                    Place columns) {
#pragma unroll
    for (int atom = 0; atom < ATOMS; ++atom)
#pragma unroll
        for (int n = 0; n < COUNT / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) result[atom][n][i] = 0;
#pragma unroll
    for (int step = 0; step < K_STEPS; ++step) {
        unsigned left[ATOMS][4];
#pragma unroll
        for (int atom = 0; atom < ATOMS; ++atom)
            load_matrices<false>(left[atom], rows + TILE_BYTES(atom * 16) + step * 32);
#pragma unroll
        for (int n = 0; n < COUNT / 16; ++n) {
            unsigned right[4];
            load_matrices<false>(right, columns + TILE_BYTES(n * 16) + step * 32);
#pragma unroll
            for (int atom = 0; atom < ATOMS; ++atom) {
                multiply_add(result[atom][2 * n], left[atom], right[0], right[1]);
                multiply_add(result[atom][2 * n + 1], left[atom], right[2], right[3]);
            }
        }
    }
}

// sum[ATOMS * 16 x HEAD_DIM] += weights[ATOMS * 16 x COUNT] tile[COUNT x HEAD_DIM]. The weights are
// accumulators; `tile` holds the offset of the lane.
template <int COUNT>
__device__ __forceinline__ void accumulate(float (&sum)[ATOMS][HEAD_DIM / 8][4],
                                           const float (&weights)[ATOMS][COUNT / 8][4], Place tile) {
#pragma unroll
    for (int step = 0; step < COUNT / 16; ++step) {
        unsigned left[ATOMS][4];
#pragma unroll
        for (int atom = 0; atom < ATOMS; ++atom)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float(&pair)[4] = weights[atom][2 * step + i / 2];
                left[atom][i] = pack(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
            }
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 16; ++n) {
            unsigned right[4];
            load_matrices<true>(right, tile + TILE_BYTES(step * 16) + n * 32);
#pragma unroll
            for (int atom = 0; atom < ATOMS; ++atom) {
                multiply_add(sum[atom][2 * n], left[atom], right[0], right[1]);
                multiply_add(sum[atom][2 * n + 1], left[atom], right[2], right[3]);
            }
        }
    }
}

// Writes the rows of a warp, times a factor for each, to global memory, by way of the warp's own rows of a
// tile that no other warp reads. `first` is the warp's first row.
__device__ __forceinline__ void store_rows(const float (&sum)[ATOMS][HEAD_DIM / 8][4],
                                           const float (&factor)[ATOMS][2], char* tile, element* to,
                                           int first, int length, int distance) {
    constexpr int pieces = HEAD_DIM / 8;
    int lane = threadIdx.x % 32;
    char* own = tile + TILE_BYTES(static_cast<int>(threadIdx.x) / 32 * ATOMS * 16);
    __syncwarp();
#pragma unroll
    for (int atom = 0; atom < ATOMS; ++atom)
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int row = atom * 16 + half * 8 + lane / 4;
                const float(&value)[4] = sum[atom][n];
                *reinterpret_cast<unsigned*>(own + TILE_BYTES(row) + n * 16 + lane % 4 * 4) =
                    pack(value[2 * half] * factor[atom][half], value[2 * half + 1] * factor[atom][half]);
            }
    __syncwarp();
    struct alignas(16) Piece {
        unsigned words[4];
    };
    for (int index = lane; index < ATOMS * 16 * pieces; index += 32) {
        int row = index / pieces, piece = index % pieces;
        if (first + row < length)
            *reinterpret_cast<Piece*>(to + static_cast<long long>(first + row) * distance + piece * 8) =
                *reinterpret_cast<const Piece*>(own + TILE_BYTES(row) + piece * 16);
    }
}

// Which pairs of query and key are admitted, documents aside. Query i and key j stand
// `i + shift - j` positions apart.
struct Mask {
    int queries, keys, shift, window;

    __device__ __forceinline__ bool admits(int query, int key) const {
        int distance = query + shift - key;
        bool is_admitted = key < keys;
        if (IS_CAUSAL) is_admitted &= distance >= 0;
        if (HAS_WINDOW) is_admitted &= distance < window && (IS_CAUSAL || -distance < window);
        return is_admitted;
    }

    // Whether all pairs of two ranges are admitted; the last ones belong to them.
    __device__ __forceinline__ bool admits_all(int first_query, int last_query, int first_key,
                                               int last_key) const {
        int least = first_query + shift - last_key, most = last_query + shift - first_key;
        bool is_admitted = last_key < keys;
        if (IS_CAUSAL) is_admitted &= least >= 0;
        if (HAS_WINDOW) is_admitted &= most < window && (IS_CAUSAL || -least < window);
        return is_admitted;
    }

    // Whether no pair of two ranges is admitted by its positions.
    __device__ __forceinline__ bool admits_none(int first_query, int last_query, int first_key,
                                                int last_key) const {
        int least = first_query + shift - last_key, most = last_query + shift - first_key;
        if (IS_CAUSAL && most < 0) return true;
        return HAS_WINDOW && (least >= window || -most >= window);
    }

    // The keys that queries `first ..= last` may see, from a multiple of COLUMNS on.
    __device__ __forceinline__ void range_of_keys(int first, int last, int& begin, int& end) const {
        begin = HAS_WINDOW ? max(first + shift - window + 1, 0) / COLUMNS * COLUMNS : 0;
        end = keys;
        if (IS_CAUSAL) end = min(end, last + shift + 1);
        else if (HAS_WINDOW) end = min(end, last + shift + window);
    }

    // The queries that may see keys `first ..= last`, from a multiple of COLUMNS on.
    __device__ __forceinline__ void range_of_queries(int first, int last, int& begin, int& end) const {
        int least = IS_CAUSAL ? first - shift : HAS_WINDOW ? first - shift - window + 1 : 0;
        begin = max(least, 0) / COLUMNS * COLUMNS;
        end = HAS_WINDOW ? min(queries, last - shift + window) : queries;
    }
};
