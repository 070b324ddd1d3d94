// Exact join of two lists of codes: source rows sorted by code, and for every target row the range of its matches.
#pragma once

#include <cstdint>

namespace fercore {

// Writes order[n], the source rows stably sorted by code, and start[m], stop[m]: order[start[j] .. stop[j]) are the source
// rows with the code of target row j. Time and memory O(n + m).
void join_codes(const uint64_t* source, int64_t n, const uint64_t* target, int64_t m, int64_t* order, int64_t* start,
                int64_t* stop);

}  // namespace fercore
