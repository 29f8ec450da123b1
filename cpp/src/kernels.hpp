// The kernels of every instruction set, behind one table.
#pragma once

#include "unitrans/attention.hpp"
#include "work.hpp"

namespace unitrans {

struct Kernels {
    void (*forward)(const Problem&, const ForwardOutputs&, const Task&);
    void (*backward)(const Problem&, const BackwardInputs&, const Gradients&, const BackwardTask&);
};

// The kernels of a level, null if this build has none.
const Kernels* find_kernels(Isa isa);

}  // namespace unitrans
