// Attention, forward: FlashAttention-2 (arXiv:2307.08691, algorithm 1) with grouped heads
// (arXiv:2305.13245). Constants and tiles: see the shared part before this one.
//
//   out[b, i, h] = sum over j of softmax_j(scale q[b, i, h] . k[b, j, h / group]) v[b, j, h / group]
//   lse[b, h, i] = ln of the sum of exp(scale q . k); a query without keys has out 0 and lse -infinity
//
// q, out [batch, queries, heads, HEAD_DIM]; k, v [batch, keys, kv_heads, HEAD_DIM];
// lse [batch, heads, queries] f32; documents i32 [batch, queries] and [batch, keys], read only with
// HAS_DOCUMENTS. `shift` is the position of query 0 less that of key 0. The scale is positive.
//
// Grid (heads, batch, ceil(queries / ROWS)), THREADS threads,
// 2 STRIDE (ROWS + 4 COLUMNS) + 8 COLUMNS bytes of dynamic shared memory.

#define STAGE_BYTES (2 * TILE_BYTES(COLUMNS) + COLUMNS * 4)

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_forward(const element* q, const element* k, const element* v, const int* query_documents,
                  const int* key_documents, element* out, float* lse, int queries, int keys, int heads,
                  int kv_heads, int shift, int window, float scale) {
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int head = blockIdx.x, sequence = blockIdx.y, kv_head = head / (heads / kv_heads);
    // Under causality the last queries see most: they start first.
    const int tile = IS_CAUSAL ? gridDim.z - 1 - blockIdx.z : blockIdx.z;
    const int first = tile * ROWS, own = first + warp * ATOMS * 16;
    const int q_distance = heads * HEAD_DIM, kv_distance = kv_heads * HEAD_DIM;
    const Mask mask = {queries, keys, shift, window};

    q += (static_cast<long long>(sequence) * queries * heads + head) * HEAD_DIM;
    k += (static_cast<long long>(sequence) * keys * kv_heads + kv_head) * HEAD_DIM;
    v += (static_cast<long long>(sequence) * keys * kv_heads + kv_head) * HEAD_DIM;
    key_documents += static_cast<long long>(sequence) * keys;

    int begin, end;
    mask.range_of_keys(first, min(first + ROWS, queries) - 1, begin, end);
    const Place q_tile = place_of(shared), stages = q_tile + TILE_BYTES(ROWS);
    auto load_stage = [&](int key, int stage) {
        Place to = stages + stage * STAGE_BYTES;
        load_tile<COLUMNS>(to, k, key, keys, kv_distance);
        load_tile<COLUMNS>(to + TILE_BYTES(COLUMNS), v, key, keys, kv_distance);
        if (HAS_DOCUMENTS) load_numbers(to + 2 * TILE_BYTES(COLUMNS), key_documents, key, keys);
    };
    load_tile<ROWS>(q_tile, q, first, queries, q_distance);
    if (begin < end) load_stage(begin, 0);
    close_copies();

    float sum[ATOMS][HEAD_DIM / 8][4] = {}, total[ATOMS][2] = {}, most[ATOMS][2];
    int document[ATOMS][2] = {};
#pragma unroll
    for (int atom = 0; atom < ATOMS; ++atom)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            most[atom][half] = -INFINITE;
            int row = own + atom * 16 + half * 8 + lane / 4;
            if (HAS_DOCUMENTS && row < queries)
                document[atom][half] = query_documents[static_cast<long long>(sequence) * queries + row];
        }

    const Place q_rows = q_tile + TILE_BYTES(warp * ATOMS * 16) + offset_of_rows(lane);
    const float factor = scale * LOG2_E;
    int stage = 0;
    for (int key = begin; key < end; key += COLUMNS, stage ^= 1) {
        wait_for_copies<0>();
        __syncthreads();
        if (key + COLUMNS < end) load_stage(key + COLUMNS, stage ^ 1);
        close_copies();
        if (mask.admits_none(own, own + ATOMS * 16 - 1, key, key + COLUMNS - 1)) continue;

        const int place = TILE_BYTES(ROWS) + stage * STAGE_BYTES;
        float score[ATOMS][COLUMNS / 8][4];
        multiply_transposed<COLUMNS>(score, q_rows, q_tile + place + offset_of_columns(lane));

        if (HAS_DOCUMENTS || !mask.admits_all(own, own + ATOMS * 16 - 1, key, key + COLUMNS - 1)) {
            const int* documents = reinterpret_cast<const int*>(shared + place + 2 * TILE_BYTES(COLUMNS));
            const int row = hidden(own + lane / 4), pair = hidden(lane % 4 * 2);
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    int column = n * 8 + pair + i % 2;
                    int of_key = HAS_DOCUMENTS ? documents[column] : 0;
#pragma unroll
                    for (int atom = 0; atom < ATOMS; ++atom) {
                        bool is_admitted = mask.admits(row + atom * 16 + i / 2 * 8, key + column);
                        if (HAS_DOCUMENTS) is_admitted &= of_key == document[atom][i / 2];
                        if (!is_admitted) score[atom][n][i] = -INFINITE;
                    }
                }
        }

#pragma unroll
        for (int atom = 0; atom < ATOMS; ++atom)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int i = 2 * half;
                float largest = most[atom][half];
#pragma unroll
                for (int n = 0; n < COLUMNS / 8; ++n)
                    largest = max(largest, max(score[atom][n][i], score[atom][n][i + 1]));
                largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
                largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
                // Rows that have seen nothing yet: 0 in place of -infinity makes their weights 0.
                float offset = largest == -INFINITE ? 0.0f : largest * factor;
                float shrink = exp2_fast(most[atom][half] * factor - offset);
                most[atom][half] = largest;
                float added = 0;
#pragma unroll
                for (int n = 0; n < COLUMNS / 8; ++n)
#pragma unroll
                    for (int j = i; j < i + 2; ++j) {
                        score[atom][n][j] = exp2_fast(score[atom][n][j] * factor - offset);
                        added += score[atom][n][j];
                    }
                total[atom][half] = total[atom][half] * shrink + added;
#pragma unroll
                for (int n = 0; n < HEAD_DIM / 8; ++n) {
                    sum[atom][n][i] *= shrink;
                    sum[atom][n][i + 1] *= shrink;
                }
            }
        accumulate<COLUMNS>(sum, score,
                            q_tile + place + TILE_BYTES(COLUMNS) + offset_of_rows(lane));
    }

    out += (static_cast<long long>(blockIdx.y) * queries * heads + blockIdx.x) * HEAD_DIM;
    lse += (static_cast<long long>(blockIdx.y) * heads + blockIdx.x) * queries;

    // The tile of queries becomes that of the result. Without keys its copy may still be under way.
    if (begin >= end) {
        wait_for_copies<0>();
        __syncthreads();
    }
    float inverse[ATOMS][2];
#pragma unroll
    for (int atom = 0; atom < ATOMS; ++atom)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float whole = total[atom][half];
            whole += __shfl_xor_sync(0xffffffffu, whole, 1);
            whole += __shfl_xor_sync(0xffffffffu, whole, 2);
            inverse[atom][half] = whole > 0 ? 1 / whole : 0.0f;
            int row = own + atom * 16 + half * 8 + lane / 4;
            if (lane % 4 == 0 && row < queries)
                lse[row] = whole > 0 ? most[atom][half] * scale + logf(whole) : -INFINITE;
        }
    store_rows(sum, inverse, shared, out, own, queries, q_distance);
}
