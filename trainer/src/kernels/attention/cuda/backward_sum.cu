// Attention, backward, after `backward_keys.cu` with IS_SPLIT: adds the sums of the parts of each group, in
// their order, and rounds them once.
//
//   to[i] = from[0, i] + from[1, i] + ...
//
// from f32 [splits, count], to [count]; `count` is a multiple of 8, as batch keys kv_heads HEAD_DIM is.
// One launch for dk and one for dv.
//
// Grid (ceil(count / (4 THREADS))), THREADS threads, no dynamic shared memory. Of the constants only
// BF16 or F16, WARPS and BLOCKS play a part.

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_backward_sum(const float* from, element* to, int splits, long long count) {
    const long long first = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) * 4;
    if (first >= count) return;
    struct __align__(16) Numbers {
        float of[4];
    };
    Numbers sum = *reinterpret_cast<const Numbers*>(from + first);
    for (int split = 1; split < splits; ++split) {
        const Numbers next = *reinterpret_cast<const Numbers*>(from + split * count + first);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum.of[i] += next.of[i];
    }
    struct __align__(8) Elements {
        unsigned words[2];
    };
    *reinterpret_cast<Elements*>(to + first) = {pack(sum.of[0], sum.of[1]), pack(sum.of[2], sum.of[3])};
}
