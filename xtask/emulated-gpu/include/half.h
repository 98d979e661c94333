// Numbers of 16 bits: each operation is that of `float`, rounded once.
#pragma once

namespace emulated {

struct bf16_bits {
    static unsigned short round(float x) {
        unsigned bits;
        memcpy(&bits, &x, sizeof bits);
        if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;
        return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
    static float widen(unsigned short bits) {
        unsigned wide = static_cast<unsigned>(bits) << 16;
        float x;
        memcpy(&x, &wide, sizeof x);
        return x;
    }
};

struct f16_bits {
    static unsigned short round(float x) {
        _Float16 narrow = static_cast<_Float16>(x);
        unsigned short bits;
        memcpy(&bits, &narrow, sizeof bits);
        return bits;
    }
    static float widen(unsigned short bits) {
        _Float16 narrow;
        memcpy(&narrow, &bits, sizeof narrow);
        return static_cast<float>(narrow);
    }
};

template <class Bits>
struct Small {
    unsigned short bits;
    Small() = default;
    Small(float x) : bits(Bits::round(x)) {}
    Small(double x) : Small(static_cast<float>(x)) {}
    Small(int x) : Small(static_cast<float>(x)) {}
    Small(unsigned x) : Small(static_cast<float>(x)) {}
    Small(long x) : Small(static_cast<float>(x)) {}
    Small(unsigned long x) : Small(static_cast<float>(x)) {}
    Small(long long x) : Small(static_cast<float>(x)) {}
    Small(unsigned long long x) : Small(static_cast<float>(x)) {}
    operator float() const { return Bits::widen(bits); }
    Small operator-() const { return Small(-float(*this)); }
    Small& operator+=(Small b) { return *this = Small(float(*this) + float(b)); }
    Small& operator-=(Small b) { return *this = Small(float(*this) - float(b)); }
    Small& operator*=(Small b) { return *this = Small(float(*this) * float(b)); }
    friend Small operator+(Small a, Small b) { return Small(float(a) + float(b)); }
    friend Small operator-(Small a, Small b) { return Small(float(a) - float(b)); }
    friend Small operator*(Small a, Small b) { return Small(float(a) * float(b)); }
    friend Small operator/(Small a, Small b) { return Small(float(a) / float(b)); }
    friend bool operator<(Small a, Small b) { return float(a) < float(b); }
    friend bool operator>(Small a, Small b) { return float(a) > float(b); }
    friend bool operator<=(Small a, Small b) { return float(a) <= float(b); }
    friend bool operator>=(Small a, Small b) { return float(a) >= float(b); }
    friend bool operator==(Small a, Small b) { return float(a) == float(b); }
    friend bool operator!=(Small a, Small b) { return float(a) != float(b); }
};

template <class Bits>
struct alignas(4) Pair {
    Small<Bits> x, y;
    friend Pair operator+(Pair a, Pair b) { return {a.x + b.x, a.y + b.y}; }
    friend Pair operator-(Pair a, Pair b) { return {a.x - b.x, a.y - b.y}; }
    friend Pair operator*(Pair a, Pair b) { return {a.x * b.x, a.y * b.y}; }
    friend Pair operator/(Pair a, Pair b) { return {a.x / b.x, a.y / b.y}; }
    Pair operator-() const { return {-x, -y}; }
};

}  // namespace emulated

typedef emulated::Small<emulated::f16_bits> __half;
typedef emulated::Small<emulated::bf16_bits> __nv_bfloat16;
typedef emulated::Pair<emulated::f16_bits> __half2;
typedef emulated::Pair<emulated::bf16_bits> __nv_bfloat162;

#define EMULATED_HALF(name, expression)                                       \
    template <class B>                                                        \
    static emulated::Small<B> h##name(emulated::Small<B> a) {                 \
        float x = a;                                                          \
        return emulated::Small<B>(static_cast<float>(expression));            \
    }                                                                         \
    template <class B>                                                        \
    static emulated::Pair<B> h2##name(emulated::Pair<B> a) {                  \
        return {h##name(a.x), h##name(a.y)};                                  \
    }
EMULATED_HALF(exp, expf(x))
EMULATED_HALF(log, logf(x))
EMULATED_HALF(sin, sinf(x))
EMULATED_HALF(cos, cosf(x))
EMULATED_HALF(tanh, tanhf(x))
EMULATED_HALF(sqrt, sqrtf(x))
EMULATED_HALF(rsqrt, 1 / sqrtf(x))
EMULATED_HALF(ceil, ceilf(x))
EMULATED_HALF(floor, floorf(x))
EMULATED_HALF(trunc, truncf(x))
EMULATED_HALF(rint, rintf(x))

template <class B>
static emulated::Small<B> __habs(emulated::Small<B> a) {
    return emulated::Small<B>(fabsf(a));
}
template <class B>
static emulated::Pair<B> __habs2(emulated::Pair<B> a) {
    return {__habs(a.x), __habs(a.y)};
}
template <class B>
static emulated::Small<B> __hmax(emulated::Small<B> a, emulated::Small<B> b) {
    return emulated::Small<B>(fmaxf(a, b));
}
template <class B>
static emulated::Small<B> __hmin(emulated::Small<B> a, emulated::Small<B> b) {
    return emulated::Small<B>(fminf(a, b));
}
template <class B>
static emulated::Pair<B> __hmax2(emulated::Pair<B> a, emulated::Pair<B> b) {
    return {__hmax(a.x, b.x), __hmax(a.y, b.y)};
}
template <class B>
static emulated::Pair<B> __hmin2(emulated::Pair<B> a, emulated::Pair<B> b) {
    return {__hmin(a.x, b.x), __hmin(a.y, b.y)};
}
template <class B>
static emulated::Small<B> __hfma(emulated::Small<B> a, emulated::Small<B> b, emulated::Small<B> c) {
    return emulated::Small<B>(fmaf(a, b, c));
}
template <class B>
static emulated::Pair<B> __hfma2(emulated::Pair<B> a, emulated::Pair<B> b, emulated::Pair<B> c) {
    return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
static inline float __half2float(__half x) { return x; }
static inline __half __float2half(float x) { return __half(x); }
static inline float __bfloat162float(__nv_bfloat16 x) { return x; }
static inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
