// Attention, backward, second of three: gradients of keys and values. FlashAttention-2
// (arXiv:2307.08691, algorithm 2) with grouped heads (arXiv:2305.13245). A block owns ROWS keys and
// visits the queries that see them, of each head of the group in turn, so that sums have one order and
// are rounded once. Scores are transposed here: rows are keys, columns are queries.
//
// Where that makes too few blocks for the device, as the first keys of a causal mask have most to do, the
// heads of a group may be split: with IS_SPLIT 1, each of `splits` blocks takes heads / kv_heads / splits
// of them and writes sums of f32, which `backward_sum.cu` adds up.
//
//   p = exp(scale q . k - lse)    dv = sum p d_out    dk = scale sum p (d_out . v - delta) q
//
// Constants, tensors, documents and `shift`: as in the forward pass; `statistics` is from the first
// kernel. dk, dv as k, v; with IS_SPLIT, f32 [splits, batch, keys, kv_heads, HEAD_DIM]. COLUMNS divides 128.
//
// CHUNK, which divides COLUMNS and is a multiple of 16, queries are worked on at once: fewer need fewer
// registers.
//
// Grid (kv_heads splits, batch, ceil(keys / ROWS)), THREADS threads,
// 2 STRIDE (2 ROWS + 4 COLUMNS) + 24 COLUMNS bytes of dynamic shared memory. Without IS_SPLIT, splits is 1.

#define STATISTICS_AT (2 * TILE_BYTES(COLUMNS))
#define DOCUMENTS_AT (STATISTICS_AT + COLUMNS * 8)
#define STAGE_BYTES (DOCUMENTS_AT + COLUMNS * 4)

#if IS_SPLIT
// Writes the rows of a warp, times a factor, as f32. `first` is the warp's first row.
__device__ __forceinline__ void store_sums(const float (&sum)[ATOMS][HEAD_DIM / 8][4], float factor,
                                           float* to, int first, int length, int distance) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int atom = 0; atom < ATOMS; ++atom)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int row = first + atom * 16 + half * 8 + lane / 4;
            if (row >= length) continue;
            float* line = to + static_cast<long long>(row) * distance + lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < HEAD_DIM / 8; ++n)
                *reinterpret_cast<Pair*>(line + n * 8) = {sum[atom][n][2 * half] * factor,
                                                          sum[atom][n][2 * half + 1] * factor};
        }
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_backward_keys(const element* q, const element* k, const element* v, const element* d_out,
                        const float* statistics, const int* query_documents, const int* key_documents,
                        void* dk, void* dv, int queries, int padded, int keys, int heads,
                        int kv_heads, int shift, int window, float scale) {
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int splits = IS_SPLIT ? gridDim.x / kv_heads : 1, sequence = blockIdx.y;
    const int kv_head = blockIdx.x / splits, split = blockIdx.x % splits;
    // The heads of this block.
    const int group = heads / kv_heads / splits;
    const int first = blockIdx.z * ROWS, own = first + warp * ATOMS * 16;
    const int q_distance = heads * HEAD_DIM, kv_distance = kv_heads * HEAD_DIM;
    const Mask mask = {queries, keys, shift, window};

    // From here on, heads count from the first of the block.
    const long long head = (kv_head * splits + split) * group;
    q += (static_cast<long long>(sequence) * queries * heads + head) * HEAD_DIM;
    d_out += (static_cast<long long>(sequence) * queries * heads + head) * HEAD_DIM;
    statistics += (static_cast<long long>(sequence) * heads + head) * padded;
    const long long plane = static_cast<long long>(gridDim.y) * heads * padded;
    const long long kv_start = (static_cast<long long>(sequence) * keys * kv_heads + kv_head) * HEAD_DIM;
    k += kv_start;
    v += kv_start;
    query_documents += static_cast<long long>(sequence) * queries;

    int begin, end;
    mask.range_of_queries(first, min(first + ROWS, keys) - 1, begin, end);
    const int tiles = begin < end ? (end - begin + COLUMNS - 1) / COLUMNS : 0;
    const Place k_tile = place_of(shared), v_tile = k_tile + TILE_BYTES(ROWS);
    const Place stages = v_tile + TILE_BYTES(ROWS);
    auto load_stage = [&](int member, int query, int stage) {
        Place to = stages + stage * STAGE_BYTES;
        load_tile<COLUMNS>(to, q + member * HEAD_DIM, query, queries, q_distance);
        load_tile<COLUMNS>(to + TILE_BYTES(COLUMNS), d_out + member * HEAD_DIM, query, queries, q_distance);
        const float* numbers = statistics + static_cast<long long>(member) * padded + query;
        for (int i = threadIdx.x; i < COLUMNS / 2; i += THREADS) {
            const float* from = numbers + (i < COLUMNS / 4 ? i * 4 : plane + i * 4 - COLUMNS);
            copy_async<16>(to + STATISTICS_AT + i * 16, from, true);
        }
        if (HAS_DOCUMENTS) load_numbers(to + DOCUMENTS_AT, query_documents, query, queries);
    };
    load_tile<ROWS>(k_tile, k, first, keys, kv_distance);
    load_tile<ROWS>(v_tile, v, first, keys, kv_distance);
    if (tiles > 0) load_stage(0, begin, 0);
    close_copies();

    float k_sum[ATOMS][HEAD_DIM / 8][4] = {}, v_sum[ATOMS][HEAD_DIM / 8][4] = {};
    int document[ATOMS][2] = {};
    if (HAS_DOCUMENTS)
#pragma unroll
        for (int atom = 0; atom < ATOMS; ++atom)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int row = own + atom * 16 + half * 8 + lane / 4;
                if (row < keys)
                    document[atom][half] = key_documents[static_cast<long long>(sequence) * keys + row];
            }

    const int own_rows = TILE_BYTES(warp * ATOMS * 16) + offset_of_rows(lane);
    const float factor = scale * LOG2_E;
    int member = 0, query = begin, stage = 0;
    for (int count = group * tiles; count > 0; --count, stage ^= 1) {
        wait_for_copies<0>();
        __syncthreads();
        const int here = query;
        query += COLUMNS;
        if (query >= end) {
            query = begin;
            ++member;
        }
        if (count > 1) load_stage(member, query, stage ^ 1);
        close_copies();

#pragma unroll 1
        for (int chunk = 0; chunk < COLUMNS; chunk += CHUNK) {
            const int start = here + chunk;
            if (mask.admits_none(start, start + CHUNK - 1, own, own + ATOMS * 16 - 1)) continue;
            const int place = 2 * TILE_BYTES(ROWS) + stage * STAGE_BYTES;
            const Place q_now = k_tile + place + TILE_BYTES(chunk);
            const Place d_out_now = q_now + TILE_BYTES(COLUMNS);
            const float* own_lse =
                reinterpret_cast<const float*>(shared + place + STATISTICS_AT) + chunk + lane % 4 * 2;
            const int* documents = reinterpret_cast<const int*>(shared + place + DOCUMENTS_AT) + chunk;

            float weight[ATOMS][CHUNK / 8][4], slope[ATOMS][CHUNK / 8][4];
            multiply_transposed<CHUNK>(weight, k_tile + own_rows, q_now + offset_of_columns(lane));
#pragma unroll
            for (int n = 0; n < CHUNK / 8; ++n) {
                const Pair lse = *reinterpret_cast<const Pair*>(own_lse + n * 8);
#pragma unroll
                for (int i = 0; i < 4; ++i)
#pragma unroll
                    for (int atom = 0; atom < ATOMS; ++atom)
                        weight[atom][n][i] =
                            exp2_fast(weight[atom][n][i] * factor - (i % 2 ? lse.b : lse.a));
            }
            // Keys past the end need no mask: they reach only rows that are not stored.
            const int last_key = min(own + ATOMS * 16, keys) - 1;
            if (HAS_DOCUMENTS || !mask.admits_all(start, start + CHUNK - 1, own, last_key)) {
                const int row = hidden(own + lane / 4), pair = hidden(lane % 4 * 2);
#pragma unroll
                for (int n = 0; n < CHUNK / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        int column = n * 8 + pair + i % 2;
                        int of_query = HAS_DOCUMENTS ? documents[column] : 0;
#pragma unroll
                        for (int atom = 0; atom < ATOMS; ++atom) {
                            bool is_admitted =
                                mask.admits(start + column, row + atom * 16 + i / 2 * 8);
                            if (HAS_DOCUMENTS) is_admitted &= of_query == document[atom][i / 2];
                            if (!is_admitted) weight[atom][n][i] = 0;
                        }
                    }
            }
            accumulate<CHUNK>(v_sum, weight, d_out_now + offset_of_rows(lane));

            multiply_transposed<CHUNK>(slope, v_tile + own_rows, d_out_now + offset_of_columns(lane));
#pragma unroll
            for (int n = 0; n < CHUNK / 8; ++n) {
                const Pair delta = *reinterpret_cast<const Pair*>(own_lse + COLUMNS + n * 8);
#pragma unroll
                for (int i = 0; i < 4; ++i)
#pragma unroll
                    for (int atom = 0; atom < ATOMS; ++atom)
                        slope[atom][n][i] =
                            weight[atom][n][i] * (slope[atom][n][i] - (i % 2 ? delta.b : delta.a));
            }
            accumulate<CHUNK>(k_sum, slope, q_now + offset_of_rows(lane));
        }
    }

#if IS_SPLIT
    const long long to = split * (static_cast<long long>(gridDim.y) * keys * kv_distance) + kv_start;
    store_sums(k_sum, scale, static_cast<float*>(dk) + to, own, keys, kv_distance);
    store_sums(v_sum, 1, static_cast<float*>(dv) + to, own, keys, kv_distance);
#else
    // The tiles of keys and values become those of their gradients.
    if (tiles == 0) {
        wait_for_copies<0>();
        __syncthreads();
    }
    float ones[ATOMS][2], scales[ATOMS][2];
#pragma unroll
    for (int atom = 0; atom < ATOMS; ++atom)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            ones[atom][half] = 1;
            scales[atom][half] = scale;
        }
    element *k_to = static_cast<element*>(dk) + kv_start, *v_to = static_cast<element*>(dv) + kv_start;
    store_rows(k_sum, scales, shared, k_to, own, keys, kv_distance);
    store_rows(v_sum, ones, shared + TILE_BYTES(ROWS), v_to, own, keys, kv_distance);
#endif
}
