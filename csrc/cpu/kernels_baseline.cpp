// Vectors of 16 bytes: what every machine of the architecture has.
#define FERCORE_LEVEL baseline
#define FERCORE_BYTES 16
#include "kernels.inl"
