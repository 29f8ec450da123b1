// Types that values are stored in and never computed in.
#pragma once

#include <cstdint>

namespace unitrans {

struct BFloat16 {  // the upper half of a float
    uint16_t bits;
};
struct Float16 {  // IEEE 754 binary16
    uint16_t bits;
};

}  // namespace unitrans
