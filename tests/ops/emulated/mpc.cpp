#define FERCORE_EMULATED
#define FERCORE_DENSE_ROWS 64
#define fercore fercore_emulated
#include "../../../csrc/cuda/mpc.cu"
