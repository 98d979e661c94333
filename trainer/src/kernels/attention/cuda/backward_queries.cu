// Attention, backward, third of three: gradients of queries. FlashAttention-2 (arXiv:2307.08691,
// algorithm 2), with the loops turned round: a block owns ROWS queries and visits the keys they see. The
// scores are computed a second time for it, two products of seven, and no sum needs atomics or an order
// between blocks.
//
//   p = exp(scale q . k - lse)    dq = scale sum p (d_out . v - delta) k
//
// Constants, tensors, documents and `shift`: as in the forward pass; `statistics` is from the first
// kernel. dq as q. CHUNK, which divides COLUMNS and is a multiple of 16, keys are
// worked on at once.
//
// Grid (heads, batch, ceil(queries / ROWS)), THREADS threads,
// 2 STRIDE (2 ROWS + 4 COLUMNS) + 8 COLUMNS bytes of dynamic shared memory.

#define STAGE_BYTES (2 * TILE_BYTES(COLUMNS) + COLUMNS * 4)

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_backward_queries(const element* q, const element* k, const element* v, const element* d_out,
                           const float* statistics, const int* query_documents,
                           const int* key_documents, element* dq, int queries, int padded, int keys,
                           int heads, int kv_heads, int shift, int window, float scale) {
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int head = blockIdx.x, sequence = blockIdx.y, kv_head = head / (heads / kv_heads);
    // Under causality the last queries see most: they start first.
    const int tile = IS_CAUSAL ? gridDim.z - 1 - blockIdx.z : blockIdx.z;
    const int first = tile * ROWS, own = first + warp * ATOMS * 16;
    const int q_distance = heads * HEAD_DIM, kv_distance = kv_heads * HEAD_DIM;
    const Mask mask = {queries, keys, shift, window};

    const long long q_start = (static_cast<long long>(sequence) * queries * heads + head) * HEAD_DIM;
    q += q_start;
    d_out += q_start;
    dq += q_start;
    k += (static_cast<long long>(sequence) * keys * kv_heads + kv_head) * HEAD_DIM;
    v += (static_cast<long long>(sequence) * keys * kv_heads + kv_head) * HEAD_DIM;
    statistics += (static_cast<long long>(sequence) * heads + head) * padded;
    const float* deltas = statistics + static_cast<long long>(gridDim.y) * heads * padded;
    key_documents += static_cast<long long>(sequence) * keys;

    int begin, end;
    mask.range_of_keys(first, min(first + ROWS, queries) - 1, begin, end);
    const Place q_tile = place_of(shared), d_out_tile = q_tile + TILE_BYTES(ROWS);
    const Place stages = d_out_tile + TILE_BYTES(ROWS);
    auto load_stage = [&](int key, int stage) {
        Place to = stages + stage * STAGE_BYTES;
        load_tile<COLUMNS>(to, k, key, keys, kv_distance);
        load_tile<COLUMNS>(to + TILE_BYTES(COLUMNS), v, key, keys, kv_distance);
        if (HAS_DOCUMENTS) load_numbers(to + 2 * TILE_BYTES(COLUMNS), key_documents, key, keys);
    };
    load_tile<ROWS>(q_tile, q, first, queries, q_distance);
    load_tile<ROWS>(d_out_tile, d_out, first, queries, q_distance);
    if (begin < end) load_stage(begin, 0);
    close_copies();

    float sum[ATOMS][HEAD_DIM / 8][4] = {}, lse[ATOMS][2], delta[ATOMS][2], scales[ATOMS][2];
    int document[ATOMS][2] = {};
#pragma unroll
    for (int atom = 0; atom < ATOMS; ++atom)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int row = own + atom * 16 + half * 8 + lane / 4;
            lse[atom][half] = row < queries ? statistics[row] : INFINITE;
            delta[atom][half] = row < queries ? deltas[row] : 0.0f;
            scales[atom][half] = scale;
            if (HAS_DOCUMENTS && row < queries)
                document[atom][half] = query_documents[static_cast<long long>(sequence) * queries + row];
        }

    const int own_rows = TILE_BYTES(warp * ATOMS * 16) + offset_of_rows(lane);
    const float factor = scale * LOG2_E;
    int stage = 0;
    for (int key = begin; key < end; key += COLUMNS, stage ^= 1) {
        wait_for_copies<0>();
        __syncthreads();
        if (key + COLUMNS < end) load_stage(key + COLUMNS, stage ^ 1);
        close_copies();

#pragma unroll 1
        for (int chunk = 0; chunk < COLUMNS; chunk += CHUNK) {
            const int start = key + chunk;
            if (mask.admits_none(own, own + ATOMS * 16 - 1, start, start + CHUNK - 1)) continue;
            const int place = 2 * TILE_BYTES(ROWS) + stage * STAGE_BYTES;
            const Place k_now = q_tile + place + TILE_BYTES(chunk), v_now = k_now + TILE_BYTES(COLUMNS);
            const int* documents =
                reinterpret_cast<const int*>(shared + place + 2 * TILE_BYTES(COLUMNS)) + chunk;

            float weight[ATOMS][CHUNK / 8][4], slope[ATOMS][CHUNK / 8][4];
            multiply_transposed<CHUNK>(weight, q_tile + own_rows, k_now + offset_of_columns(lane));
#pragma unroll
            for (int atom = 0; atom < ATOMS; ++atom)
#pragma unroll
                for (int n = 0; n < CHUNK / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        weight[atom][n][i] = exp2_fast(weight[atom][n][i] * factor - lse[atom][i / 2]);
            if (HAS_DOCUMENTS || !mask.admits_all(own, own + ATOMS * 16 - 1, start, start + CHUNK - 1)) {
                const int row = hidden(own + lane / 4), pair = hidden(lane % 4 * 2);
#pragma unroll
                for (int n = 0; n < CHUNK / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        int column = n * 8 + pair + i % 2;
                        int of_key = HAS_DOCUMENTS ? documents[column] : 0;
#pragma unroll
                        for (int atom = 0; atom < ATOMS; ++atom) {
                            bool is_admitted =
                                mask.admits(row + atom * 16 + i / 2 * 8, start + column);
                            if (HAS_DOCUMENTS) is_admitted &= of_key == document[atom][i / 2];
                            if (!is_admitted) weight[atom][n][i] = 0;
                        }
                    }
            }
            multiply_transposed<CHUNK>(slope, d_out_tile + own_rows, v_now + offset_of_columns(lane));
#pragma unroll
            for (int atom = 0; atom < ATOMS; ++atom)
#pragma unroll
                for (int n = 0; n < CHUNK / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        slope[atom][n][i] =
                            weight[atom][n][i] * (slope[atom][n][i] - delta[atom][i / 2]);
            accumulate<CHUNK>(sum, slope, k_now + offset_of_rows(lane));
        }
    }

    // The tile of queries becomes that of their gradient.
    if (begin >= end) {
        wait_for_copies<0>();
        __syncthreads();
    }
    store_rows(sum, scales, shared, dq, own, queries, q_distance);
}
