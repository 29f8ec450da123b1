// Checks for test programs: a failed check is printed and counted, and finish() is the exit status.
#pragma once

#include <cstdio>
#include <string>

namespace check {

inline int failures = 0;
inline int checks = 0;

inline bool that(bool ok, const std::string& what) {
    ++checks;
    if (!ok) {
        ++failures;
        if (failures <= 50) std::printf("FAILED: %s\n", what.c_str());
    }
    return ok;
}

inline int finish(const char* name) {
    std::printf("%s: %d checks, %d failed\n", name, checks, failures);
    return failures == 0 && checks > 0 ? 0 : 1;
}

}  // namespace check
