// Loads the kernels of a wheel as Python would, and asks which instruction sets they offer.

#include <cstdio>

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

int main(int, char** arguments) {
#ifdef _WIN32
  const HMODULE library = LoadLibraryA(arguments[1]);
  void* const found = library ? (void*)GetProcAddress(library, "brc_instruction_sets") : nullptr;
#else
  void* const library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  void* const found = library ? dlsym(library, "brc_instruction_sets") : nullptr;
#endif
  if (!found) {
    std::fprintf(stderr, "%s: not loaded\n", arguments[1]);
    return 1;
  }
  std::puts(reinterpret_cast<const char* (*)()>(found)());
  return 0;
}
