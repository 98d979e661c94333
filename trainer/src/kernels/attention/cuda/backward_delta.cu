// Attention, backward, first of three: two numbers the other two need of each query.
// FlashAttention-2 (arXiv:2307.08691, algorithm 2, line 4).
//
//   statistics[0, b, h, i] = lse[b, h, i] log2(e)
//   statistics[1, b, h, i] = sum over d of out[b, i, h, d] d_out[b, i, h, d]
//
// A query without keys, and each one from `queries` to `padded`, gets infinity and 0: its weights
// exp2(score - infinity) are then 0 without a mask.
//
// out, d_out [batch, queries, heads, HEAD_DIM]; lse [batch, heads, queries] f32;
// statistics [2, batch, heads, padded] f32, where `padded` is a multiple of 128 not below `queries`.
//
// Grid (ceil(padded heads / (THREADS / LANES)), batch), THREADS threads, no dynamic shared memory.
// LANES is the power of two that is not below HEAD_DIM / 8. ATOMS and COLUMNS play no part.

#define PIECES (HEAD_DIM / 8)
#define LANES (PIECES <= 2 ? 2 : PIECES <= 4 ? 4 : PIECES <= 8 ? 8 : PIECES <= 16 ? 16 : 32)

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_backward_delta(const element* out, const element* d_out, const float* lse, float* statistics,
                         int queries, int padded, int heads) {
    const long long index = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) / LANES;
    const int piece = threadIdx.x % LANES, head = index % heads;
    const long long query = index / heads, sequence = blockIdx.y;
    const bool is_there = query < queries;
    struct alignas(16) Piece {
        element values[8];
    };
    float sum = 0;
    if (is_there && piece < PIECES) {
        long long place = ((sequence * queries + query) * heads + head) * HEAD_DIM + piece * 8;
        const Piece a = *reinterpret_cast<const Piece*>(out + place);
        const Piece b = *reinterpret_cast<const Piece*>(d_out + place);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum += widen(a.values[i]) * widen(b.values[i]);
    }
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (piece == 0 && query < padded) {
        float own = is_there ? lse[(sequence * heads + head) * queries + query] : -INFINITE;
        const long long place = (sequence * heads + head) * padded + query;
        statistics[place] = own == -INFINITE ? INFINITE : own * LOG2_E;
        statistics[static_cast<long long>(gridDim.y) * heads * padded + place] = sum;
    }
}
