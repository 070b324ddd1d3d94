// Compiled with the machine flags of its name; entered only where the processor has them (select.cpp).
#if defined(__x86_64__)
#define FERCORE_LEVEL avx2
#define FERCORE_BYTES 32
#include "kernels.inl"
#endif
