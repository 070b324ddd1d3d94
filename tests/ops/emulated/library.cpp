#define fercore fercore_emulated
#include "../../../csrc/library.cpp"
