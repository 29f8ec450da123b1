#include "kernels.hpp"

namespace unitrans {

namespace portable {
extern const Kernels kernels;
}
#ifdef UNITRANS_HAVE_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif
#ifdef UNITRANS_HAVE_BF16
namespace avx512bf16 {
extern const Kernels kernels;
}
#endif

namespace {

Isa detect() {
#ifdef UNITRANS_HAVE_X86
    __builtin_cpu_init();
    // Every processor with AVX2 and FMA has F16C, which older compilers cannot ask for.
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::kPortable;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
#ifdef UNITRANS_HAVE_BF16
        if (__builtin_cpu_supports("avx512bf16")) return Isa::kAvx512Bf16;
#endif
        return Isa::kAvx512;
    }
    return Isa::kAvx2;
#else
    return Isa::kPortable;
#endif
}

}  // namespace

Isa best_isa() {
    static const Isa best = detect();
    return best;
}

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::kPortable:
            return "portable";
        case Isa::kAvx2:
            return "avx2";
        case Isa::kAvx512:
            return "avx512";
        case Isa::kAvx512Bf16:
            return "avx512-bf16";
    }
    return "unknown";
}

const Kernels* find_kernels(Isa isa) {
    switch (isa) {
        case Isa::kPortable:
            return &portable::kernels;
#ifdef UNITRANS_HAVE_X86
        case Isa::kAvx2:
            return &avx2::kernels;
        case Isa::kAvx512:
            return &avx512::kernels;
#endif
#ifdef UNITRANS_HAVE_BF16
        case Isa::kAvx512Bf16:
            return &avx512bf16::kernels;
#endif
        default:
            break;
    }
    return nullptr;
}

}  // namespace unitrans
